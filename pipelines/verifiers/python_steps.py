"""Step checker `python_steps`: the Python code of every step is run. For `signals.NAME.checker`.

The Python blocks of a rollout share one interpreter, as cells of a notebook do, in one confined process
(`pipelines.verifiers.sandbox`). That a step ran is not what it prints: the process has to say so when it is asked.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.verifiers.fences import python_blocks
from pipelines.verifiers.sandbox import run_cells


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
    cells = {number: code for number, step in enumerate(steps) if (code := "\n".join(python_blocks(step))).strip()}
    if not cells:
        return [silent] * len(steps)
    ran = dict(zip(cells, run_cells(list(cells.values()), timeout_s=time_limit_s, memory_mb=memory_mb), strict=True))
    return [silent if number not in cells else right if ran[number] else wrong for number in range(len(steps))]
