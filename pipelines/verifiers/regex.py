"""Verifier `regex`: what a regular expression finds in the completion is the answer; also the format check."""

from __future__ import annotations

import re
from functools import lru_cache

from pipelines.verifiers.answers import Reasoning, after_reasoning
from pipelines.verifiers.base import Verdict

_compiled = lru_cache(maxsize=64)(re.compile)  # re's own look-up takes a seventh of such a call


def verify(
    text: str, answer: str, *, pattern: str, ignore_case: bool = False, reasoning: Reasoning = "skip"
) -> Verdict:
    r"""Correct where the last match of pattern (its first group, where it has one) is the answer, both stripped.

    pattern: a regular expression (Python's `re`). ignore_case: whether upper and lower case count as the same.
    reasoning: what is read; skip: what follows the reasoning, required: the same, and nothing where the reasoning has
    no end, keep: the whole text. Raises ValueError for an empty reference.

    >>> verify("a+9=66\nA66", "66", pattern=r"(?:\A|\n)A(\d\d)\Z").correct
    True
    """
    expected = answer.strip()
    if not expected:
        raise ValueError("the reference answer is empty")
    last = None
    for match in _compiled(pattern).finditer(after_reasoning(text, reasoning)):
        last = match
    if last is None or (found := last[1 if last.re.groups else 0]) is None:
        return Verdict(correct=False, unparseable=True)
    found = found.strip()
    same = found.casefold() == expected.casefold() if ignore_case else found == expected
    return Verdict(correct=same, extracted=found)


def matches(text: str, *, pattern: str, mode: str) -> bool:
    """Whether pattern matches the whole text (mode fullmatch) or any part of it (mode search)."""
    compiled = _compiled(pattern)
    return (compiled.fullmatch(text) if mode == "fullmatch" else compiled.search(text)) is not None
