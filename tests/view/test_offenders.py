"""What is listed as an offender, on rollouts made to offend."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest

from pass_ops import Weights
from pass_ops.shards import DatasetSpec, commit_part, create_dataset, finalize, open_dataset, signal_schema
from pass_ops.shards.spec import ModelRef
from pipelines.shaped.stage import ShapeOptions
from pipelines.view.offenders import LISTED
from pipelines.view.options import ViewOptions
from pipelines.view.view import make_view


def text_row(row, name: str, text: str, scores: list[float], **values):
    """A rollout of byte tokens whose steps are the lines of its text."""
    ends, at = [], 0
    for line in text.splitlines(keepends=True):
        at += len(line)
        ends.append(at)
    return row(name, len(text), token_ids=list(text.encode()), process_scores=scores, process_ends=ends, **values)


@pytest.fixture
def lists(store_run, byte_tokenizer):
    """The offenders of a run whose advantage at a step is the sum of the scores from it on."""
    options = ShapeOptions(
        process="steps", outcome="verifier", standardize="none", k=0.0, weights=Weights(outcome=0.0, format=0.0)
    )

    def of(*rows, kind: str):
        run = store_run(list(rows), options=options, carried={"tokenizer_digest": byte_tokenizer[1]})
        head = make_view([run.url], options=ViewOptions(tokenizer=byte_tokenizer[0], truth="steps")).head
        return [one for one in head["offenders"] if one["kind"] == kind]

    return of


def test_repeated_and_blank_steps_that_earned_are_padding_longest_first(lists, row):
    (found,) = lists(
        text_row(row, "a/0", "say\n\nsay\nnew\n", [0.0, 0.0, 0.0, 1.0]),
        text_row(row, "a/1", "say\nsay\n", [0.0, 1.0]),
        text_row(row, "a/2", "say\nsay\n", [0.0, -1.0]),
        text_row(row, "a/3", "say\nnew\n", [0.0, 1.0]),
        text_row(row, "a/4", "say\nsay\n", [1.0, 0.0]),
        text_row(row, "a/5", "say\nsay\n", [0.0, 1.0], loss_mask=[True] * 4 + [False] * 3 + [True]),
        kind="padding",
    )
    assert [(one["rollout"], one["start"], one["end"], one["value"]) for one in found["rows"]] == [
        (0, 4, 9, 5.0),
        (1, 4, 8, 4.0),
        (5, 4, 8, 4.0),
    ]
    assert found["rows"][0]["note"] == "+5 in sum for 2 repeated: say"
    assert [one["note"][:10] for one in found["rows"][1:]] == ["+4 in sum ", "+1 in sum "]  # masked tokens earn nothing
    assert found["rows"][1]["chunk"] == 1


def test_without_steps_lines_are_compared_and_an_end_token_belongs_to_the_last_one(store_run, row, byte_tokenizer):
    weights = Weights(process=0.0, format=0.0)
    options = ShapeOptions(estimator="grpo_outcome", outcome="verifier", weights=weights)
    texts = ["one\ntwo\n", "one\none\n", "one\none\n"]
    rows = [
        row(f"a/{n}", 9, token_ids=[*text.encode(), 256], process_ends=[9], outcome_reward=float(n < 2))
        for n, text in enumerate(texts)
    ]
    run = store_run(rows, options=options, carried={"tokenizer_digest": byte_tokenizer[1]})
    head = make_view([run.url], options=ViewOptions(tokenizer=byte_tokenizer[0])).head
    found = next(one for one in head["offenders"] if one["kind"] == "padding")
    assert [(one["rollout"], one["start"], one["end"]) for one in found["rows"]] == [(1, 4, 9)]


def test_verdicts_that_credit_contradicts_are_listed_worst_first(lists, row):
    rows = [
        text_row(row, "a/0", "ab\n", [-1.0]),
        text_row(row, "a/1", "ab\n", [-2.0]),
        text_row(row, "a/2", "ab\n", [3.0]),
        text_row(row, "a/3", "ab\n", [4.0], outcome_reward=0.0),
        text_row(row, "a/4", "ab\n", [-5.0], outcome_reward=0.0),
        text_row(row, "a/5", "ab\n", [6.0], outcome_reward=None, verify_status="timeout"),
        text_row(row, "a/6", "ab\n", [0.0]),
    ]
    (right,) = lists(*rows, kind="right_punished")
    assert [(one["rollout"], one["value"]) for one in right["rows"]] == [(1, -6.0), (0, -3.0)]


def test_wrong_rollouts_that_earned_are_listed(lists, row):
    (wrong,) = lists(
        text_row(row, "a/0", "ab\n", [4.0], outcome_reward=0.0),
        text_row(row, "a/1", "ab\n", [5.0]),
        kind="wrong_rewarded",
    )
    assert [(one["rollout"], one["chunk"], one["end"], one["value"]) for one in wrong["rows"]] == [(0, None, 3, 12.0)]


def test_at_most_the_worst_are_listed_and_all_are_counted(lists, row):
    rows = [text_row(row, f"a/{n}", "ab\n", [-1.0 - n]) for n in range(LISTED + 5)]
    (right,) = lists(*rows, kind="right_punished")
    assert [one["rollout"] for one in right["rows"]] == list(range(LISTED + 4, 4, -1))
    assert f"The worst {LISTED} of {LISTED + 5}." in right["rule"]


def test_of_equals_the_first_ones_are_listed(lists, row):
    (right,) = lists(*(text_row(row, f"a/{n}", "ab\n", [-1.0]) for n in range(LISTED + 5)), kind="right_punished")
    assert [one["rollout"] for one in right["rows"]] == list(range(LISTED))


def test_a_chunks_truth_is_that_of_its_tokens_that_count(lists, row):
    """A is the score, A* the score less the mean of both: 1 and -1 in the first rollout, 3 and 1 in the second."""
    (found,) = lists(
        text_row(row, "a/0", "ab\n", [1.0], loss_mask=[True, False, True]),
        text_row(row, "a/1", "ab\n", [3.0]),
        kind="truth_disagrees",
    )
    assert [(one["rollout"], one["chunk"], one["value"]) for one in found["rows"]] == [(0, 0, 1.0)]
    assert found["rows"][0]["note"] == "A +1, A* -1"


def test_a_list_that_found_nothing_says_so(lists, row):
    (right,) = lists(text_row(row, "a/0", "ab\n", [1.0]), kind="right_punished")
    assert right["rows"] == []
    assert right["rule"].endswith("None was found.")


@pytest.mark.parametrize("model", ["the policy", "a teacher"])
def test_the_largest_gap_of_each_rollout_is_named_with_its_token(store_run, row, model):
    """Between the sampler's log-probs and another model's; a rollout without any is left out."""
    run = store_run(
        [
            row("a/0", 3, behavior_logprobs=[-1.0, -2.0, -3.0], loss_mask=[True, True, False]),
            row("a/1", 3, behavior_logprobs=[-1.0, -1.0, -1.0]),
        ]
    )
    table = run.shaped.read_part(0)
    made = DatasetSpec(
        stage="score", stage_version=1, options={"kind": "logprobs"}, parts=1,
        inputs={"rollouts": run.shaped.spec.inputs["rollouts"]},
        models={"model": ModelRef(id="m", digest="p" if model == "the policy" else "q")},
    )  # fmt: skip
    signal = create_dataset(f"{run.signals}/teacher", made)
    rows = [
        {"rollout_id": "a/0", "status": "ok", "logprobs": [-1.5, -2.25, 0.0]},
        {"rollout_id": "a/1", "status": "timeout", "logprobs": None},
    ]
    commit_part(signal, 0, pa.Table.from_pylist(rows, schema=signal_schema("logprobs")))
    finalize(signal)
    inputs = {**run.shaped.spec.inputs, "teacher": open_dataset(signal.url).ref(f"{run.url}/with-teacher")}
    dataset = create_dataset(f"{run.url}/with-teacher", replace(run.shaped.spec, inputs=inputs))
    commit_part(dataset, 0, table.append_column("teacher_logprobs", open_dataset(signal.url).read_part(0)["logprobs"]))
    finalize(dataset)
    head = make_view([f"{run.url}/with-teacher"]).head
    (gap,) = [one for one in head["offenders"] if one["kind"] == "gap"]
    assert [(one["rollout"], one["start"], one["end"], one["value"]) for one in gap["rows"]] == [(0, 0, 1, 0.5)]
    if model == "the policy":  # whose digest the rollouts record
        assert gap["title"] == "Largest gap between sampler and trainer"
    else:
        assert "teacher_logprobs is not known to be the policy's own" in gap["rule"]
