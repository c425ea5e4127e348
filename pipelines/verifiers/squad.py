"""Verifier `squad`: short answers by exact match or token F1 under SQuAD's normalization. Stdlib only.

Source: Rajpurkar et al., "SQuAD: 100,000+ Questions for Machine Comprehension of Text" (arXiv 1606.05250), evaluation
script v1.1; the F1 of yes/no/noanswer as in HotpotQA's (arXiv 1809.09600).
"""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from typing import Literal

from pipelines.verifiers.answers import Reasoning, answer_text, last_box
from pipelines.verifiers.base import Verdict, listed_strings

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_STYLED = re.compile(r"\\(?:text(?:bf|it|rm)?|mathrm|mathbf) ?\{([^{}]*)\}")
_CLOSED = frozenset({"yes", "no", "noanswer"})


def verify(
    text: str,
    answer: str,
    *,
    reward: Literal["exact", "f1"] = "exact",
    marker: str = "Answer:",
    closed: bool = True,
    reasoning: Reasoning = "skip",
) -> Verdict:
    r"""Correct where the normalized answers are the same string; with reward = "f1" the reward is the token F1.

    The text's answer is the line after the last `marker` (letter case aside), else the whole text; of it, what a
    `\boxed{}` holds. answer: one string, a JSON list of accepted strings, of which the best counts, or SQuAD's own
    {"text": [..]}. An accepted string of which normalization leaves nothing ("A", "+") is compared as it is written.

    reward: exact, 1 or 0, or f1, the token F1. marker: text before the answer. closed: the F1 of yes, no and noanswer
    is 0 unless equal, as HotpotQA's and 2WikiMultihopQA's scripts have it; false: they are words like others, as in
    SQuAD's and MuSiQue's. reasoning: what is read; skip: what follows the reasoning, required: the same, and nothing
    where the reasoning has no end, keep: the whole text.

    >>> verify("It was built in Paris.\nAnswer: the Eiffel Tower.", "Eiffel Tower").correct
    True
    """
    if reward not in ("exact", "f1"):
        raise ValueError(f"reward is {reward!r}; choose exact or f1")
    accepted = [one for one in _accepted(answer) if one.strip()]
    if not accepted:
        raise ValueError(f"the reference answer {answer[:80]!r} is empty")
    extracted = final_answer(text, marker=marker, reasoning=reasoning)
    found = normalize(extracted)
    if not found and all(map(normalize, accepted)):
        return Verdict(correct=False, unparseable=True)
    exact = max(_exact(extracted, one) for one in accepted)
    scores = [exact, *(_f1(extracted, one, closed=closed) for one in accepted)] if reward == "f1" else [exact]
    return Verdict(correct=bool(exact), reward=max(scores), extracted=extracted)


def final_answer(text: str, *, marker: str, reasoning: Reasoning = "skip") -> str:
    """What follows the last marker on its line, else the whole text; of it the last box; stripped."""
    text = answer_text(text, reasoning)
    ends = [found.end() for found in re.finditer(re.escape(marker), text, re.IGNORECASE)] if marker else []
    if ends:
        text = text[ends[-1] :].lstrip(" \t\r\n*_").partition("\n")[0]
    box = last_box(text)
    return (text if box is None else _STYLED.sub(r"\1", box)).strip()


def normalize(text: str) -> str:
    """Lower case without punctuation, articles and surplus white space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def token_f1(found: str, expected: str, *, closed: bool = True) -> float:
    """2 P R / (P + R) over the words of two normalized answers; closed: 0 where one is yes, no or noanswer and they
    differ.

    >>> token_f1("eiffel tower paris", "eiffel tower")
    0.8
    """
    if closed and found != expected and (found in _CLOSED or expected in _CLOSED):
        return 0.0
    words, wanted = found.split(), expected.split()
    common = sum((Counter(words) & Counter(wanted)).values())
    return 2 * common / (len(words) + len(wanted)) if common else 0.0


def _accepted(answer: str) -> list[str]:
    try:
        loaded = json.loads(answer)
    except ValueError:
        loaded = None
    if isinstance(loaded, dict) and isinstance(loaded.get("text"), list):
        return [str(one) for one in loaded["text"]]
    return listed_strings(answer) or [answer]


def _exact(extracted: str, accepted: str) -> float:
    expected = normalize(accepted)
    if not expected:  # an article or punctuation is the answer
        return float(" ".join(extracted.lower().split()).rstrip(".") == " ".join(accepted.lower().split()).rstrip("."))
    return float(normalize(extracted) == expected)


def _f1(extracted: str, accepted: str, *, closed: bool) -> float:
    return token_f1(normalize(extracted), normalize(accepted), closed=closed)
