"""What each format's reader makes of rows in the published form: problem, steps, labels, first error, nothing else."""

from __future__ import annotations

from copy import deepcopy

import pytest

from pipelines.labels import FORMATS, NO_ERROR, LabelledSolution
from tests.pipelines.labels.samples import (
    PROCESSBENCH,
    SAMPLES,
    TRL,
    ULTRAINTERACT,
    completion,
    prm800k,
    rated,
)


def read(name: str, row: dict | None = None, **changed) -> list[LabelledSolution]:
    row = deepcopy(SAMPLES[name] if row is None else row) | changed
    return list(FORMATS[name].read(row, "7", "file.jsonl:7"))


def test_processbench_knows_the_steps_up_to_the_first_wrong_one() -> None:
    (found,) = read("processbench")
    assert found == LabelledSolution(
        key="gsm8k-0", problem=PROCESSBENCH["problem"], steps=tuple(PROCESSBENCH["steps"]),
        labels=(True, False, None), first_error=1, answer_correct=False, where="file.jsonl:7",
    )  # fmt: skip


def test_processbench_without_an_error_may_still_end_at_a_wrong_answer() -> None:
    (found,) = read("processbench", label=-1)
    assert (found.labels, found.first_error, found.answer_correct) == ((True,) * 3, NO_ERROR, False)


@pytest.mark.parametrize(("label", "labels"), [(0, (False, None, None)), (2, (True, True, False))])
def test_processbench_at_either_end(label: int, labels: tuple) -> None:
    (found,) = read("processbench", label=label)
    assert found.labels == labels


def test_math_shepherd_splits_at_its_tags() -> None:
    (found,) = read("math_shepherd")
    assert found == LabelledSolution(
        key="7", problem="A pizza has 13 slices. How many are left?",
        steps=("Step 1: 5+8 = <<5+8=13>>13.", "Step 2: 13-6 = 7.", "Step 3: It is 7. The answer is: 7"),
        labels=(True, False, False), first_error=1, answer_correct=False, where="file.jsonl:7",
    )  # fmt: skip


def test_math_shepherd_with_signs_in_the_text_takes_those_at_the_tags() -> None:
    (found,) = read("math_shepherd", input="1 + 1 - 0? Step 1: - + 2 ки\n", label="1 + 1 - 0? Step 1: - + 2 +\n")
    assert (found.steps, found.labels, found.first_error) == (("Step 1: - + 2",), (True,), NO_ERROR)


def test_math_shepherd_with_a_tag_in_the_problem_drops_that_label() -> None:
    (found,) = read("math_shepherd", input="Mr. A ки has 1. Step 1: so ки", label="Mr. A - has 1. Step 1: so +")
    assert (found.problem, found.steps, found.labels) == ("Mr. A  has 1.", ("Step 1: so",), (True,))


def test_math_shepherd_without_step_numbers_ends_the_problem_at_its_question_mark() -> None:
    (found,) = read("math_shepherd", input="How many? It is 7. ки", label="How many? It is 7. +")
    assert (found.problem, found.steps) == ("How many?", ("It is 7.",))


def test_trl_takes_booleans_and_shares() -> None:
    (found,) = read("trl")
    assert (found.problem, found.steps) == (TRL["prompt"], tuple(TRL["completions"]))
    assert (found.labels, found.first_error, found.answer_correct) == ((True, False), 1, None)
    (found,) = read("trl", completions=["a", "b", "c"], labels=[0.75, 0.5, 0])
    assert (found.labels, found.first_error) == ((True, None, False), 2)
    (found,) = read("trl", labels=[1, 1])
    assert found.first_error == NO_ERROR
    (found,) = read("trl", labels=[1, 0.5])
    assert found.first_error is None  # a step that nobody judged: whether there is an error is not known


def test_trl_prompt_of_messages_is_what_the_user_said_last() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Which?"}]
    assert read("trl", prompt=messages)[0].problem == "Which?"


def test_ultrainteract_labels_whole_actions_and_nothing_before_them() -> None:
    chosen, rejected = read("ultrainteract")
    turns = "\n\n".join(turn["value"] for turn in ULTRAINTERACT["trajectory"])
    assert (chosen.key, rejected.key) == ("b1f7/chosen", "b1f7/rejected")
    assert chosen.problem == rejected.problem == turns
    assert (chosen.steps, chosen.labels, chosen.first_error) == ((ULTRAINTERACT["chosen"],), (True,), NO_ERROR)
    assert (rejected.steps, rejected.labels, rejected.first_error) == ((ULTRAINTERACT["rejected"],), (False,), 0)


def test_prm800k_gives_a_solution_for_each_leaf_and_says_what_they_share() -> None:
    found = read("prm800k")
    begin = ("I want the largest divisor.", "I factor both.")
    assert [one.steps for one in found] == [
        (*begin, "200,000 = 2^5 4^10."), (*begin, "20! has many factors."), (*begin, "A tree helps."),
    ]  # fmt: skip
    assert [one.labels for one in found] == [(None, True, False), (None, True, True), (None, True, None)]
    assert [one.first_error for one in found] == [2, None, None]  # what follows the other two is not known
    assert [one.shared for one in found] == [0, 2, 2]
    assert [one.key for one in found] == ["7/0", "7/1", "7/2"]
    assert {one.answer for one in found} == {"40,000"}


def test_prm800k_whole_solution_comes_after_its_alternatives() -> None:
    steps = (
        rated(completion("a", 1), completion("b", -1)),
        rated(completion("x", -1), completion("y", -1), chosen=None, human={"text": "z", "rating": None}),
        rated(completion("c", 0)),
    )
    found = read("prm800k", prm800k(*steps, finish="solution"))
    assert [one.steps for one in found] == [("b",), ("a", "x"), ("a", "y"), ("a", "z", "c")]
    assert [one.labels for one in found] == [(False,), (True, False), (True, False), (True, True, None)]
    assert [one.first_error for one in found] == [0, 1, 1, NO_ERROR]
    assert [one.shared for one in found] == [0, 0, 1, 1]


@pytest.mark.parametrize("finish", ["give_up", "bad_problem"])
def test_prm800k_that_was_given_up_is_not_called_free_of_errors(finish: str) -> None:
    (found,) = read("prm800k", prm800k(rated(completion("a", 1)), finish=finish))
    assert (found.labels, found.first_error) == ((True,), None)


def test_prm800k_step_that_nobody_could_judge_has_no_label() -> None:
    steps = (rated(completion("a", 1, True)), rated(completion("b", None)))
    (found,) = read("prm800k", prm800k(*steps, finish="give_up"))
    assert found.labels == (None, None)


def test_prm800k_step_without_completions_ends_the_path() -> None:
    empty = {"completions": None, "human_completion": None, "chosen_completion": None}
    (found,) = read("prm800k", prm800k(rated(completion("a", -1), completion("b", 1), chosen=1), empty))
    assert (found.steps, found.labels) == (("a",), (False,))


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_declares_what_it_knows(name: str) -> None:
    form = FORMATS[name]
    assert form.name == name
    assert form.judged_by in ("people", "Monte Carlo", "its maker")
    assert form.source
    assert form.between.strip() == ""
    for one in read(name):
        assert len(one.steps) == len(one.labels)
        behind = one.labels[one.first_error + 1 :] if one.first_error not in (None, NO_ERROR) else ()
        assert form.after_error or not any(label is not None for label in behind)
