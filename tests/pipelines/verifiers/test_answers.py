"""Where the answer of a completion stands: after the reasoning, in the last `<answer>`, in the last box."""

from __future__ import annotations

import pytest

from pipelines.verifiers.answers import answer_text, last_box


@pytest.mark.parametrize(
    ("opened", "closed"),
    [
        ("<think>", "</think>"),
        ("<THINK>", "</Think>"),
        ("<thinking>", "</thinking>"),
        ("<thought>", "</thought>"),
        ("<reasoning>", "</reasoning>"),
        ("<seed:think>", "</seed:think>"),
        ("<|begin_of_thought|>", "<|end_of_thought|>"),
        ("<|START_THINKING|>", "<|END_THINKING|>"),
        ("[THINK]", "[/THINK]"),
        ("◁think▷", "◁/think▷"),
        ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
    ],
)
def test_reasoning(opened: str, closed: str) -> None:
    assert answer_text(f"{opened}5{closed} 6") == " 6"
    assert answer_text(f"5{closed} 6") == " 6"  # the prompt opened it
    assert answer_text(f"{opened}5{closed}6{opened}7{closed}8") == "8"
    assert answer_text(f"{opened}5") == ""
    assert answer_text(f"{opened}5{closed} 6 {opened} or 7") == ""
    assert answer_text(f"{opened}5", "keep") == f"{opened}5"
    assert answer_text("5", "required") == ""


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("5", "5"),
        ("<answer>5</answer>", "5"),
        ("<ANSWER>5</Answer> 6", "5"),
        ("<final_answer>5</final_answer>", "5"),
        ("<answer>5</answer><answer>6</answer>", "6"),
        ("in <answer> tags: <answer>6</answer>", "6"),
        ("<answer><answer>6</answer></answer>", "6"),
        ("<answer>5</answer> no, <answer>6", "6"),
        ("<answer>5", "5"),
        ("5</answer>", "5</answer>"),
        ("<think><answer>5</answer></think>6", "6"),
        ("<answers>5</answers>", "<answers>5</answers>"),
    ],
)
def test_answer_tags(text: str, answer: str) -> None:
    assert answer_text(text) == answer


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("\\boxed{5}", "5"),
        ("\\boxed {5}", "5"),
        ("\\fbox{ 5 }", "5"),
        ("\\\\boxed{5}", "5"),
        ("\\boxed{5} \\boxed{6}", "6"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{\\boxed{5}}", "\\boxed{5}"),
        ("\\boxed{\\left\\{ 1 \\right.}", "\\left\\{ 1 \\right."),
        ("\\boxed{a \\\\{b}}", "a \\\\{b}"),
        ("{ \\boxed{5}", "5"),
        ("} \\boxed{5}", "5"),
        ("\\boxed{6 \\boxed{5}", "5"),
        ("\\boxed{5} \\boxed{6", ""),
        ("\\boxed{5} \\boxed{\\frac{6}{7}", ""),
        ("\\boxed{}", ""),
        ("\\boxed 5", "5"),
        ("$\\boxed\\frac{1}{2} + 1$ x", "\\frac{1}{2} + 1"),
        ("\\boxed{5} in \\boxed", "5"),
        ("use \\boxed to answer", None),
        ("boxed{5}", None),
        ("\\mbox{5}", None),
        ("", None),
    ],
)
def test_boxes(text: str, content: str | None) -> None:
    assert last_box(text) == content
