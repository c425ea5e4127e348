"""Verifier `choice`: the letter of a multiple-choice answer."""

from __future__ import annotations

import re

from pipelines.verifiers.base import Verdict


def verify(text: str, answer: str, *, letters: str = "ABCDEFGHIJ") -> Verdict:
    r"""Correct where the letter that the text settles on is the reference's.

    The text's letter is, in this order, the last `\boxed{C}`, the last "answer is (C)" or "Answer: C", the text or its
    last line where that is nothing but a letter, the last "(C)". letters: those that can be an answer. Raises
    ValueError for a reference without a letter.

    >>> verify("B is tempting, but the answer is **(c)**.", "C").correct
    True
    """
    expected = chosen_letter(answer, letters=letters)
    if expected is None:
        raise ValueError(f"the reference answer {answer[:80]!r} names none of the letters {letters}")
    found = chosen_letter(text, letters=letters)
    if found is None:
        return Verdict(correct=False, unparseable=True)
    return Verdict(correct=found == expected, extracted=found)


def chosen_letter(text: str, *, letters: str) -> str | None:
    """The letter, upper case; None where the text settles on none."""
    letter = f"([{re.escape(letters)}])"
    decorated = rf"[\s*_\"'(\[{{$]*(?:\\(?:text|mathrm|textbf)\{{)?\(?{letter}\)?(?![\w'])"
    for pattern in (
        rf"\\boxed\{{{decorated}",
        rf"\banswer\b(?:\s+is|\s*[:=]|\s+should\s+be)+(?:\s+(?:option|choice))?{decorated}",
        rf"(?:\A|\n)\s*(?:option|choice)?{decorated}[\s.*_\"')\]}}$]*\Z",
        rf"\({letter}\)",
    ):
        if found := re.findall(pattern, text, re.IGNORECASE):
            return str(found[-1]).upper()
    return None
