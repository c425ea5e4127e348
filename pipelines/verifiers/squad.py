"""Verifier `squad`: short answers by exact match or token F1 under SQuAD's normalization.

Source: Rajpurkar et al., "SQuAD: 100,000+ Questions for Machine Comprehension of Text" (arXiv 1606.05250), evaluation
script v1.1; yes/no/noanswer as in HotpotQA's (arXiv 1809.09600).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from typing import Literal

from pipelines.verifiers.base import Verdict, listed_strings

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CLOSED = frozenset({"yes", "no", "noanswer"})


def verify(text: str, answer: str, *, reward: Literal["exact", "f1"] = "exact", marker: str = "Answer:") -> Verdict:
    r"""Correct where the normalized answers are the same string; with reward = "f1" the reward is the token F1.

    The text's answer is the line after the last `marker` (letter case aside), else the whole text. answer: one string,
    or a JSON list of accepted strings, of which the best counts.

    reward: exact, 1 or 0, or f1, the token F1. marker: text before the answer.

    >>> verify("It was built in Paris.\nAnswer: the Eiffel Tower.", "Eiffel Tower").correct
    True
    """
    if reward not in ("exact", "f1"):
        raise ValueError(f"reward is {reward!r}; choose exact or f1")
    expected = [normalize(one) for one in listed_strings(answer) or [answer]]
    if not any(expected):
        raise ValueError(f"the reference answer {answer[:80]!r} is empty once normalized")
    extracted = final_answer(text, marker=marker)
    found = normalize(extracted)
    if not found:
        return Verdict(correct=False, unparseable=True)
    correct = found in expected
    best = max(token_f1(found, one) for one in expected) if reward == "f1" else float(correct)
    return Verdict(correct=correct, reward=best, extracted=extracted)


def final_answer(text: str, *, marker: str) -> str:
    """What follows the last marker on its line, else the whole text, stripped."""
    at = text.casefold().rfind(marker.casefold()) if marker else -1
    return (text[at + len(marker) :].lstrip().partition("\n")[0] if at >= 0 else text).strip()


def normalize(text: str) -> str:
    """Lower case without punctuation, articles and surplus white space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def token_f1(found: str, expected: str) -> float:
    """2 P R / (P + R) over the words of two normalized answers; 0 where one is yes, no or noanswer and they differ.

    >>> token_f1("eiffel tower paris", "eiffel tower")
    0.8
    """
    if found != expected and (found in _CLOSED or expected in _CLOSED):
        return 0.0
    words, wanted = found.split(), expected.split()
    common = sum((Counter(words) & Counter(wanted)).values())
    return 2 * common / (len(words) + len(wanted)) if common else 0.0
