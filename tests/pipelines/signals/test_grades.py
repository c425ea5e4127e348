"""Grades in the forms that chat models write, each with what it must not be taken for."""

from __future__ import annotations

import pytest

from pipelines.signals import build_signal
from pipelines.signals.grades import read_grade
from pipelines.signals.judge import JudgeSignal

EIGHT = [
    "Score: 8",
    "**Score: 8**",
    "Score: 8.",
    "**Score:** 8",
    "**Score**: 8",
    "Score: **8**",
    "Score: 8/10",
    "Score: 8 / 10.",
    "8/10",
    "8 out of 10",
    "**8/10**",
    "Rating: [[8]]",
    "[[8]]",
    "Grade - 8",
    "Grade: 8",
    '{"score": 8}',
    '{"score": "8", "reason": "fine"}',
    '```json\n{\n  "reasoning": "good",\n  "score": 8\n}\n```',
    "\\boxed{8}",
    "The answer is \\boxed{8}.",
    "$\\boxed{8}$",
    "Score (0-10): 8",
    "Score (out of 10): 8",
    "<score>8</score>",
    "The score is 8.",
    "The score is 8 out of 10.",
    "I would give this step a score of 8.",
    "I'd rate it 8/10.",
    "Final score: 8",
    "Overall Score: 8",
    "score = 8",
    "score=8",
    "Score：8",
    "SCORE: 8",
    "- Score: 8",
    "### Score: 8",
    "Score: 8\n",
    "Score:\n8",
    "Score: 8\n\nThe step is right because 3 + 4 = 7.",
    "Score: 8 (right and useful)",
    "Score: 8 - good step",
    "Score: 8, because it is right.",
    "8",
    "**8**",
    "8.",
    "First, 3+4=7. A score of 5 would be too low.\nScore: 8",
    "The step earns a final score of 8.",
    "Score: `8`",
    "Score: '8'",
    "<think>Score: 3 maybe</think>\nScore: 8",
    "Score: 8.0",
    'Score: "8"',
    "{'score': 8}",
    "Step score: 8",
    "Score for this step: 8",
    "My rating: 8",
    "Score -> 8",
    "Score – 8",
    "Score: 8!",
    "> Score: 8",
    "| Score: 8 |",
    "Score: 8 points",
    "Score: 8 out of 10 points",
    "Rating: 8 stars",
    "Score: \\boxed{8}",
    "Score: $8$",
    "Score: (8)",
    "Score: [8]",
    "Score: 8\n```",
    "Score: 8/10\n\nConfidence: 9/10",
    "Correctness: 7/10\nScore: 8",
    "Thus the score is **8**.",
    "The final grade is: 8",
    "Score: 08",
]
UNCLEAR = [
    "",
    "no grade",
    "Score: 7-8",
    "Score: 7 - 8",
    "Score: 7–8",
    "Score: 7 or 8",
    "Score: 7 to 8",
    "Score: 8%",
    "Score: 80%",
    "Score: 4/5",
    "Score: 80/100",
    "Score: 11",
    "Score: -8",
    "Score: 8,5",
    "Score: eight",
    "Score: N",
    "The step says 3+4=7",
    "It is 3/4 of 8",
    "Correctness: 7/10, clarity: 9/10",
    "Correctness Score: 7\nClarity Score: 9",
    "<think>Score: 8",
    "Score: 3\nScore: 8 for the second part, wait",
    "Score: 8e3",
    "Score: 8:30",
    "Score: 1.2.3",
    "Score: 7, or Score: 8",
    "Maximum score: 10",
    "out of a maximum score of 10",
    "Score: 8^2",
    "Score:>8?",
    "Score: 5+3",
    "7/10 or 8/10",
    "A score of 7 or 8",
    "Rating: 7/10 to 8/10",
    "The probability is 8/10, so the step follows",
    "Score: 8x",
    "2024",
    "\\frac{8}{10}",
    "Score: 8 × 10^3",
    "Score: 8/10 or 9/10",
    "Score: 8\nScore: 3, or so.",
]
# What a collapsed policy, and then its judge, may write: each once took minutes or grew with the square.
COLLAPSED = ["score ", "score of the a b c", "8", "[[", "score: **", "8/10 ", "score (", "score for this ", "*", "\n"]


@pytest.mark.parametrize("reply", EIGHT)
def test_a_grade_is_read(reply: str) -> None:
    assert read_grade(reply, lowest=0, highest=10) == 8.0
    assert read_grade(f"The numbers 3 and 4 add up.\n\n{reply}", lowest=0, highest=10) in (8.0, None)


@pytest.mark.parametrize("reply", UNCLEAR)
def test_what_is_no_clear_grade_is_none(reply: str) -> None:
    assert read_grade(reply, lowest=0, highest=10) is None


@pytest.mark.parametrize(
    ("reply", "scale", "expected"),
    [
        ("Score: -1", (-1, 1), -1.0),
        ("Score: 0.5", (-1, 1), None),
        ("Score: 85%", (0, 100), 85.0),
        ("Score: 4/5", (0, 5), 4.0),
        ("4 out of 5", (1, 5), 4.0),
        ("Score: 8/10", (0, 5), None),
        ("Score: 6", (0, 5), None),
        ("Score: 0", (1, 5), None),
    ],
)
def test_the_scale_is_the_options(reply: str, scale: tuple[float, float], expected: float | None) -> None:
    assert read_grade(reply, lowest=scale[0], highest=scale[1]) == expected


@pytest.mark.parametrize("text", COLLAPSED)
def test_a_long_repetition_is_read_to_its_end(text: str) -> None:
    assert read_grade(text * 50_000 + "\nScore: 8", lowest=0, highest=10) == 8.0


def judge(**options: object) -> JudgeSignal:
    made = build_signal("judge", {"model": "m", "url": "http://127.0.0.1:9/v1", **options})
    assert isinstance(made, JudgeSignal)
    return made


def test_the_judge_reads_these_forms_unless_it_has_a_pattern_of_its_own() -> None:
    assert judge().grade("**Score: 8**") == 0.8
    assert judge(scale=[1, 5]).grade("Rating: 5/5") == 1.0
    own = judge(answer=r"Grade=(\d+)")
    assert (own.grade("Grade=8"), own.grade("**Score: 8**")) == (0.8, None)


def test_the_recorded_options_of_a_default_judge_are_what_they_were() -> None:
    options = judge().options()
    assert options["answer"] == r"Score:\s*(\d+)\s*\Z"
    assert sorted(options["sampling"]) == [
        "extra", "ignore_eos", "max_tokens", "min_p", "stop", "temperature", "top_k", "top_p",
    ]  # fmt: skip
