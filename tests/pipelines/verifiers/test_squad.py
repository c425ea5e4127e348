"""Verifier `squad`: SQuAD's script as oracle, and where in a text the answer stands."""

from __future__ import annotations

import random
import re
import string
from collections import Counter

import pytest

from pipelines.verifiers.squad import normalize, token_f1, verify


@pytest.mark.parametrize(
    ("text", "answer", "exact", "f1"),
    [
        ("The Eiffel-Tower!", "eiffeltower", 1.0, 1.0),
        ("Reasons...\nanswer: the Eiffel Tower in Paris\nDone", "Eiffel Tower", 0.0, 2 * 2 / (4 + 2)),
        ("New York City", '["NYC", "New York"]', 0.0, 0.8),
        ("NYC", '["NYC", "New York"]', 1.0, 1.0),
        ("Answer: Obama", '["Barack Obama", "Obama"]', 1.0, 1.0),
        ("yes it is", "yes", 0.0, 0.0),
        ("Rome", "Paris", 0.0, 0.0),
        ("Denver Broncos", '{"text": ["Denver Broncos", "Broncos"], "answer_start": [1, 8]}', 1.0, 1.0),
        ("**Answer:** Paris", "Paris", 1.0, 1.0),
        ("Answer: **Paris**", "Paris", 1.0, 1.0),
        ("Answer:\nParis\nbecause", "Paris", 1.0, 1.0),
        ("ANSWER: Rome\nAnswer: Paris", "Paris", 1.0, 1.0),
        ("Die Straße ist groß. Answer: Paris", "Paris", 1.0, 1.0),
        ("eﬀective eﬃcient ﬁnal Answer: 12345", "12345", 1.0, 1.0),
        ("İİİİ ŉŉŉŉ ǰǰ Answer: Paris", "Paris", 1.0, 1.0),
        ("ΐΐΐ ẞẞ answer: Straße", "Straße", 1.0, 1.0),
        ("Answer: \\boxed{\\text{Paris}}", "Paris", 1.0, 1.0),
        ("So \\boxed{Paris}.", "Paris", 1.0, 1.0),
        ("<answer>Paris</answer>", "Paris", 1.0, 1.0),
        ("<answer>Answer: Paris</answer>", "Paris", 1.0, 1.0),
        ("<think>Answer: Rome</think>Paris", "Paris", 1.0, 1.0),
        ("<think>Answer: Paris</think>Rome", "Paris", 0.0, 0.0),
        ("Answer: A", "A", 1.0, 1.0),
        ("Answer: a.", "A", 1.0, 1.0),
        ("Answer: the", "A", 0.0, 0.0),
        ("Answer: Paris", "A", 0.0, 0.0),
        ("Answer: +", "+", 1.0, 1.0),
        ("Answer: -", "+", 0.0, 0.0),
        ("Answer: The The", '["the the", "band"]', 1.0, 1.0),
        ("Answer: the", '["", "the"]', 1.0, 1.0),
    ],
)
def test_exact_match_and_f1(text: str, answer: str, exact: float, f1: float) -> None:
    assert verify(text, answer).reward == exact
    assert verify(text, answer, reward="f1").reward == pytest.approx(f1)
    assert verify(text, answer).correct is (exact == 1.0)


def test_unparseable_and_wrong_references() -> None:
    assert verify("Answer: the", "Paris").unparseable
    assert verify("<think>Answer: Paris", "Paris").unparseable
    assert verify("<think>Answer: Paris", "Paris", reasoning="keep").correct
    for answer in ("", "  ", '["", " "]', '{"text": []}'):
        with pytest.raises(ValueError, match="is empty"):
            verify("Paris", answer)
    with pytest.raises(ValueError, match="choose exact or f1"):
        verify("Paris", "Paris", reward="bleu")  # type: ignore[arg-type]


def normalize_answer(s: str) -> str:
    """As SQuAD's evaluate-v1.1.py writes it, step by step."""
    lowered = s.lower()
    exclude = set(string.punctuation)
    without_punctuation = "".join(ch for ch in lowered if ch not in exclude)
    without_articles = re.sub(r"\b(a|an|the)\b", " ", without_punctuation)
    return " ".join(without_articles.split())


def f1_score(prediction: str, truth: str) -> float:
    prediction_tokens, truth_tokens = normalize_answer(prediction).split(), normalize_answer(truth).split()
    num_same = sum((Counter(prediction_tokens) & Counter(truth_tokens)).values())
    if num_same == 0:
        return 0.0
    precision, recall = num_same / len(prediction_tokens), num_same / len(truth_tokens)
    return 2 * precision * recall / (precision + recall)


def test_agrees_with_the_script_on_random_answers() -> None:
    rng = random.Random(0)
    words = ["the", "a", "an", "Eiffel", "tower", "U.S.", "don't", "co-op", "1,000", "Straße", "—", "theory"]
    for _ in range(500):
        one, other = (" ".join(rng.choices(words, k=rng.randint(1, 5))) for _ in range(2))
        assert normalize(one) == normalize_answer(one)
        assert token_f1(normalize(one), normalize(other)) == pytest.approx(f1_score(one, other))
        if normalize_answer(other) and normalize_answer(one):
            assert verify(one, other).correct is (normalize_answer(one) == normalize_answer(other))
