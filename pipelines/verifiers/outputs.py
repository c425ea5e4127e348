"""Whether a program's output is the wanted one: line by line, word by word, numbers by value. Stdlib only.

As the harnesses of APPS and LiveCodeBench compare: white space around the output, around lines and between words says
nothing; words are equal as text, or both are numbers of the same value, whole numbers exactly.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

# A longer numeral is compared as text alone: reading it takes time that grows with the square of its length.
_NUMERAL = re.compile(r"[+-]?(?:\d{1,400}\.?\d{0,400}|\.\d{1,400})(?:[eE][+-]?\d{1,3})?")
_ABSOLUTE = Decimal("1e-8")


def same_output(found: str, wanted: str, *, tolerance: float, blank_lines: bool) -> bool:
    r"""Compare two outputs. tolerance: relative, for numbers that `wanted` writes with a point or an exponent.

    blank_lines: those between others count.

    >>> exact = {"tolerance": 0.0, "blank_lines": True}
    >>> same_output("1  2 \n\n", "1 2", **exact), same_output("1 2", "1\n2", **exact), same_output("7.0", "7", **exact)
    (True, False, True)
    >>> same_output("0.333333", "0.33333333", tolerance=1e-5, blank_lines=True)
    True
    """
    ours, theirs = (_lines(text, blank_lines=blank_lines) for text in (found, wanted))
    return len(ours) == len(theirs) and all(
        _same_line(one, other, Decimal(repr(tolerance))) for one, other in zip(ours, theirs, strict=True)
    )


def _lines(text: str, *, blank_lines: bool) -> list[str]:
    lines = [line.strip() for line in text.replace("\r\n", "\n").strip().split("\n")]
    return lines if blank_lines else [line for line in lines if line]


def _same_line(found: str, wanted: str, tolerance: Decimal) -> bool:
    if found == wanted:
        return True
    ours, theirs = found.split(), wanted.split()
    return len(ours) == len(theirs) and all(
        one == other or _same_number(one, other, tolerance) for one, other in zip(ours, theirs, strict=True)
    )


def _same_number(found: str, wanted: str, tolerance: Decimal) -> bool:
    if not (_NUMERAL.fullmatch(found) and _NUMERAL.fullmatch(wanted)):
        return False
    try:
        one, other = Decimal(found), Decimal(wanted)
        if one == other:
            return True
        whole = not set(wanted) & set(".eE")
        return bool(tolerance) and not whole and abs(one - other) <= _ABSOLUTE + tolerance * abs(other)
    except InvalidOperation:
        return False
