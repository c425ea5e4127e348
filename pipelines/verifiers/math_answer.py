"""Verifier `math`: mathematical answers by value, through the library math-verify (extra `verifiers`).

The library's own time limits use signals, which fail off the main thread: they are off, the pool's limit holds.
"""

from __future__ import annotations

import logging
import re
from functools import cache
from typing import Any

from pass_ops.extras import require
from pipelines.verifiers.base import Verdict, listed_strings

_DOLLAR = re.compile(r"(?<!\\)\$")
_MONEY = re.compile(r"\\\$|\\!\s*")
_BOX = "\\boxed{"


def verify(text: str, answer: str, *, precision: int = 6) -> Verdict:
    r"""Correct where the text's answer, its last `\boxed{}`, else its last LaTeX or number, equals `answer`.

    answer: LaTeX or plain, with or without `$`; a JSON list of strings (what a list in a source becomes) is all of them
    together; of a text with a `\boxed{}`, such as a worked solution, the last box counts. precision: decimals to
    which floats are compared. Raises ValueError where the reference cannot be read.

    >>> verify("So it is $\\boxed{\\frac{1}{2}}$.", "0.5").correct
    True
    """
    parse, same = _library()
    expected = parse(reference(answer), parsing_timeout=None)
    if not expected:
        raise ValueError(f"the reference answer {answer[:80]!r} cannot be read as mathematics")
    span = boxed_span(text)
    found = parse(text if span is None else _in_a_box(text[slice(*span)]), parsing_timeout=None)
    if not found:
        return Verdict(correct=False, unparseable=True)
    # What sympy cannot compare is not equal: the reference could be read, so the fault is the completion's.
    return Verdict(
        correct=bool(same(expected, found, float_rounding=precision, timeout_seconds=None)), extracted=str(found[-1])
    )


def reference(answer: str) -> str:
    r"""A reference answer as text that holds one boxed answer.

    >>> reference("$(-\\infty, 0)$."), reference('["1", "$2$"]'), reference("\\$32,\\!348")
    ('$\\boxed{(-\\infty, 0)}$', '$\\boxed{1, 2}$', '$\\boxed{32,348}$')
    """
    if (span := boxed_span(answer)) is not None:
        return _in_a_box(answer[slice(*span)])
    parts = listed_strings(answer) or [answer]
    return _in_a_box(", ".join(_DOLLAR.sub("", part).strip().rstrip(".") for part in parts))


def boxed_span(text: str) -> tuple[int, int] | None:
    r"""Where the content of the last `\boxed{}` begins and ends; None where there is no closed one.

    >>> boxed_span("so $\\boxed{\\frac{1}{2}}$")
    (11, 22)
    """
    start = text.rfind(_BOX) + len(_BOX)
    depth = 1
    for at in range(start, len(text) if start >= len(_BOX) else 0):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return start, at
    return None


def _in_a_box(answer: str) -> str:
    """An answer as the library is asked about it: without money signs and thin spaces, which it stumbles over."""
    return f"${_BOX}{_MONEY.sub('', answer)}}}$"


@cache
def _library() -> tuple[Any, Any]:
    library = require("math_verify", "the verifier `math`")
    # It warns about switched-off limits and about every answer it cannot parse.
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    return library.parse, library.verify
