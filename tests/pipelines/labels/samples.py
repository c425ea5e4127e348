"""Rows of each format of step labels, built field by field from the sources that `LabelFormat.source` names."""

from __future__ import annotations

from typing import Any

PROCESSBENCH: dict[str, Any] = {
    "id": "gsm8k-0",
    "generator": "Qwen2-7B-Instruct",
    "problem": "Sue has 18 flamingos, and a third is painted. How many are left?",
    "steps": ["To find out, we take 18.", "A third of 18 is 5.", "18 - 5 = 13 are left."],
    "final_answer_correct": False,
    "label": 1,
}

MATH_SHEPHERD: dict[str, Any] = {
    "input": "A pizza has 13 slices. How many are left? Step 1: 5+8 = <<5+8=13>>13. ки\nStep 2: 13-6 = 7. ки\n"
    "Step 3: It is 7. The answer is: 7 ки",
    "label": "A pizza has 13 slices. How many are left? Step 1: 5+8 = <<5+8=13>>13. +\nStep 2: 13-6 = 7. -\n"
    "Step 3: It is 7. The answer is: 7 -",
    "task": "GSM8K",
}

TRL: dict[str, Any] = {
    "prompt": "Which number is larger, 9.8 or 9.11?",
    "completions": ["The fractional part of 9.8 is 0.8.", "0.11 is greater than 0.8."],
    "labels": [True, False],
}

ULTRAINTERACT: dict[str, Any] = {
    "task": "Math_CoT",
    "dataset": "gsm8k",
    "trajectory": [
        {"from": "user", "value": "What is 2+2?"},
        {"from": "assistant", "value": "Step 1: It is 5."},
        {"from": "user", "value": "Your answer is wrong. Think again."},
    ],
    "chosen": "Step 1: Two and two make 4.",
    "rejected": "Step 1: It is 3.",
    "id": "b1f7",
    "parent_id": "a0c2",
}


def completion(text: str, rating: int | None, flagged: bool | None = None) -> dict[str, Any]:
    """One alternative of a step of PRM800K."""
    return {"text": text, "rating": rating, "flagged": flagged}


def rated(*completions: dict[str, Any], chosen: int | None = 0, human: Any = None) -> dict[str, Any]:
    """One step of PRM800K."""
    return {"completions": list(completions), "human_completion": human, "chosen_completion": chosen}


def prm800k(*steps: dict[str, Any], finish: str = "found_error") -> dict[str, Any]:
    """A row of PRM800K; the default is the one its README annotates: the first error ends the labelling."""
    steps = steps or (
        rated(completion("I want the largest divisor.", 0)),
        rated(completion("I factor both.", 1)),
        rated(
            completion("200,000 = 2^5 4^10.", -1), completion("20! has many factors.", 1, False),
            completion("A tree helps.", 0), chosen=None,
        ),
    )  # fmt: skip
    return {
        "labeler": "340d89bc", "timestamp": "2023-01-22T04:34:27.052924", "generation": 9,
        "is_quality_control_question": False, "is_initial_screening_question": False,
        "question": {"problem": "What is gcd(20!, 200000)?", "ground_truth_solution": "...",
                     "ground_truth_answer": "40,000", "pre_generated_steps": ["..."],
                     "pre_generated_answer": "320,000", "pre_generated_verifier_score": 0.01},
        "label": {"steps": list(steps), "total_time": 278270, "finish_reason": finish},
    }  # fmt: skip


PRM800K = prm800k()
SAMPLES = {
    "processbench": PROCESSBENCH, "math_shepherd": MATH_SHEPHERD, "trl": TRL, "ultrainteract": ULTRAINTERACT,
    "prm800k": PRM800K,
}  # fmt: skip
