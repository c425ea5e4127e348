"""Verifier `number`: the final number of a completion against the reference's, as GSM8K is scored.

The number after the last `####` counts; without that marker the last number of the text does. Numbers are compared by
value: 1,234 is 1234, $72.00 is 72.
"""

from __future__ import annotations

import re
from decimal import Decimal

from pipelines.verifiers.base import Verdict

# Thousands separators only where they stand in threes, so that "3, 4" and "1,2" are two numbers each. A sign counts
# unless a letter, a digit or a closing bracket stands before it: "7-3" ends with 3, "= -3" with -3.
_NUMBER = re.compile(r"(?:(?<![\w).])[-−])?\$?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)")


def final_number(text: str, *, marker: str = "####") -> Decimal | None:
    r"""The number that answers: the first after the last marker, else the last of the text; None where there is none.

    >>> final_number("She sold 48/2 = 24.\n#### 1,072"), final_number("so it is $72.00."), final_number("no idea")
    (Decimal('1072'), Decimal('72.00'), None)
    """
    _, found, tail = text.rpartition(marker)
    numbers = _NUMBER.findall(tail)
    if not numbers:
        return None
    chosen = numbers[0] if found else numbers[-1]
    return Decimal(chosen.replace(",", "").replace("$", "").replace("−", "-"))


def verify(text: str, answer: str, *, marker: str = "####") -> Verdict:
    """Correct where the final numbers of both have the same value.

    marker: text before the number that counts. Raises ValueError where the answer has no number.
    """
    expected = final_number(answer, marker=marker)
    if expected is None:
        raise ValueError(f"the reference answer {answer[:80]!r} holds no number")
    found = final_number(text, marker=marker)
    if found is None:
        return Verdict(correct=False, unparseable=True)
    return Verdict(correct=found == expected, extracted=str(found))
