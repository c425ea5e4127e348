"""Verifier `exact`: what follows the reasoning, white space around it aside, is the reference answer. Stdlib only."""

from __future__ import annotations

from pipelines.verifiers.answers import Reasoning, after_reasoning
from pipelines.verifiers.base import Verdict


def verify(text: str, answer: str, *, ignore_case: bool = False, reasoning: Reasoning = "skip") -> Verdict:
    r"""Correct where text and answer are the same string once stripped; an empty completion is unparseable.

    ignore_case: whether upper and lower case count as the same. reasoning: what is read; skip: what follows the
    reasoning, required: the same, and nothing where the reasoning has no end, keep: the whole text. Raises ValueError
    for an empty reference.

    >>> verify(" Paris\n", "Paris").correct
    True
    """
    found, expected = after_reasoning(text, reasoning).strip(), answer.strip()
    if not expected:
        raise ValueError("the reference answer is empty")
    if not found:
        return Verdict(correct=False, unparseable=True)
    same = found.casefold() == expected.casefold() if ignore_case else found == expected
    return Verdict(correct=same, extracted=found)
