"""Verifier `exact`: the whole completion, white space around it aside, is the reference answer."""

from __future__ import annotations

from pipelines.verifiers.base import Verdict


def verify(text: str, answer: str, *, ignore_case: bool = False) -> Verdict:
    r"""Correct where text and answer are the same string once stripped; an empty completion is unparseable.

    ignore_case: whether upper and lower case count as the same.

    >>> verify(" Paris\n", "Paris").correct
    True
    """
    found, expected = text.strip(), answer.strip()
    if not expected:
        raise ValueError("the reference answer is empty")
    if not found:
        return Verdict(correct=False, unparseable=True)
    same = found.casefold() == expected.casefold() if ignore_case else found == expected
    return Verdict(correct=same, extracted=found)
