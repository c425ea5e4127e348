r"""Verifier `code`: the program in a completion passes the reference's tests.

The reference answer is JSON, in one of the forms that published sets have:

    ["assert add(1, 2) == 3", ...]                              statements after the program (MBPP, HumanEval)
    {"inputs": ["1 2\n", ...], "outputs": ["3\n", ...]}           standard input and output (APPS, LiveCodeBench)
    {"fn_name": "add", "inputs": [[1, 2], ...], "outputs": [3, ...]}    calls of a function (APPS)

A bare `assert ...` text is one test. Each test is a process of its own (`pipelines.verifiers.sandbox`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipelines.verifiers.base import Verdict
from pipelines.verifiers.sandbox import Run, run_python

_FENCED = re.compile(r"```(?:python3?|py)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)
# Written by the driver where a test got through: an exit of the program before it is no pass.
_PASSED = "passrl: passed "


@dataclass(frozen=True)
class _Test:
    """A program to append, what it is given, and the output it must have (None = only get through)."""

    code: str
    stdin: str = ""
    output: str | None = None


def verify(
    text: str,
    answer: str,
    *,
    test_timeout_s: float = 5.0,
    memory_mb: int = 512,
    partial: bool = False,
    preamble: str = "",
) -> Verdict:
    """Correct where every test passes; with partial = true the reward is the share that does.

    The program is the last fenced block of the text, else the whole text.

    test_timeout_s: seconds for each test; the signal's own timeout_s must leave room for all of them. memory_mb: memory
    for each test in MB. partial: whether the reward is the share of tests passed. preamble: code before the program.
    Raises ValueError for a reference in none of the forms.
    """
    tests = list(_tests(answer))
    program = program_of(text)
    if not program.strip():
        return Verdict(correct=False, unparseable=True)
    passed = 0
    for number, test in enumerate(tests):
        run = run_python(
            f"{preamble}\n{program}\n{test.code}\n{_marker(number)}",
            stdin=test.stdin,
            timeout_s=test_timeout_s,
            memory_mb=memory_mb,
        )
        passed += _passes(run, test, number)
        if passed <= number and not partial:
            break
    return Verdict(
        correct=passed == len(tests), reward=passed / len(tests) if partial else None, extracted=program[:2000]
    )


def program_of(text: str) -> str:
    r"""The last fenced code block, else the text.

    >>> program_of("First:\n```python\nx = 1\n```\nThat is it.")
    'x = 1\n'
    """
    blocks = _FENCED.findall(text)
    return str(blocks[-1]) if blocks else text


def _marker(number: int) -> str:
    return f"\nimport sys as _s; _s.stdout.flush(); _s.stderr.write('\\n{_PASSED}{number}\\n')"


def _passes(run: Run, test: _Test, number: int) -> bool:
    if run.status != "ok":
        return False
    if test.output is None:
        return run.error.endswith(f"\n{_PASSED}{number}\n")
    return run.output.split() == test.output.split()


def _tests(answer: str) -> Iterator[_Test]:
    try:
        loaded: Any = json.loads(answer)
    except ValueError:
        loaded = [answer] if "assert" in answer else None
    if isinstance(loaded, list) and loaded and all(isinstance(one, str) for one in loaded):
        yield from (_Test(one) for one in loaded)
    elif isinstance(loaded, dict) and loaded.get("inputs") and len(loaded["inputs"]) == len(loaded.get("outputs", ())):
        name = loaded.get("fn_name")
        for given, wanted in zip(loaded["inputs"], loaded["outputs"], strict=True):
            yield _call(str(name), given, wanted) if name else _Test("", stdin=_lines(given), output=_lines(wanted))
    else:
        raise ValueError(
            f"the reference answer {answer[:80]!r} is no test: give a JSON list of assert statements, or an object "
            "with inputs and outputs of equal number (and fn_name where a function is called)"
        )


def _call(name: str, arguments: list[Any], wanted: Any) -> _Test:
    given = json.dumps([arguments, wanted])
    target = f"(Solution().{name} if 'Solution' in globals() else {name})"
    return _Test(
        f"import json as _j\n_a, _w = _j.loads({given!r})\n"
        f"assert _j.loads(_j.dumps({target}(*_a))) in (_w, _w[0] if isinstance(_w, list) and len(_w) == 1 else _w)"
    )


def _lines(value: Any) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)
