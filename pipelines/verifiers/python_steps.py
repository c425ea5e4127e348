"""Step checker `python_steps`: the Python code of every step is run. For `signals.NAME.checker`.

The fenced blocks of a rollout share one interpreter, as cells of a notebook do, in one process with limits on time and
memory and without a network (`pipelines.verifiers.sandbox`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipelines.verifiers.sandbox import run_python

_FENCED = re.compile(r"```(?:python3?|py)[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
_DRIVER = """
import sys as _sys
_space = {{"__name__": "__main__"}}
for _number, _code in {cells!r}:
    try:
        exec(compile(_code, f"step {{_number}}", "exec"), _space)
    except BaseException as _error:
        _sys.stderr.write(f"{{_number}}: {{_error!r}}")
    else:
        _sys.stderr.write(f"\\n{mark}{{_number}}\\n")
    _sys.stderr.flush()
"""
_MARK = "passrl: ran step "


def check_steps(
    prompt: str,
    steps: Sequence[str],
    *,
    right: float = 1.0,
    wrong: float = 0.0,
    silent: float = 0.5,
    time_limit_s: float = 5.0,
    memory_mb: int = 512,
) -> list[float]:
    r"""One score a step: `right` where all its code runs through, `wrong` where it does not, `silent` without code.

    time_limit_s, memory_mb: for the rollout. Code that is still running at the limit, or that ends the interpreter, is
    wrong, and so is what comes after it.

    >>> check_steps("", ["```python\nx = 1 + 1\n```", "So 2.", "```python\nassert x == 3\n```"])
    [1.0, 0.5, 0.0]
    """
    del prompt  # the checker's interface
    cells = {number: code for number, step in enumerate(steps) if (code := "\n".join(_FENCED.findall(step))).strip()}
    if not cells:
        return [silent] * len(steps)
    driver = _DRIVER.format(cells=list(cells.items()), mark=_MARK)
    run = run_python(driver, timeout_s=time_limit_s, memory_mb=memory_mb)
    ran = {int(number) for number in re.findall(rf"^{_MARK}(\d+)$", run.error, re.MULTILINE)}
    return [silent if number not in cells else right if number in ran else wrong for number in range(len(steps))]
