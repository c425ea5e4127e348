from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from pass_ops import shards
from pipelines.prompts.stage import PromptSource
from pipelines.runs.evaluate import (
    RESULTS,
    EvalOptions,
    EvalResult,
    EvaluationError,
    bootstrap,
    evaluate_rollouts,
    paired_gain,
    pass_at_k,
)
from pipelines.runs.evaluation_files import evaluated_places
from pipelines.runs.folders import round_folder
from pipelines.signals import Row, sidecar
from tests.pipelines.conftest import SAMPLING


def result(correct, *, prompt_ids=None, samples=4):
    return EvalResult(
        benchmark="held-out",
        policy_digest="d",
        prompts=len(correct),
        samples=samples,
        pass_at={1: bootstrap(np.array(correct) / samples)},
        mean_length=3.0,
        truncated=0.0,
        unscored=0,
        prompt_ids=tuple(prompt_ids or map(str, range(len(correct)))),
        correct_P=tuple(correct),
    )


@pytest.mark.parametrize("n", [1, 3, 5])
def test_pass_at_k_is_the_share_of_subsets_that_hold_a_correct_sample(n):
    for k in range(1, n + 1):
        for c in range(n + 1):
            subsets = list(combinations(range(n), k))
            by_hand = sum(any(i < c for i in subset) for subset in subsets) / len(subsets)
            assert pass_at_k(np.array([c]), n, k)[0] == pytest.approx(by_hand)


def test_pass_at_k_does_not_overflow_on_many_samples():
    assert pass_at_k(np.array([1]), 10_000, 5_000)[0] == pytest.approx(0.5)


def test_the_bootstrap_error_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(1).normal(size=400)
    assert bootstrap(values).standard_error == pytest.approx(values.std(ddof=1) / 20, rel=0.1)


def test_equal_prompts_have_no_sampling_error():
    assert bootstrap(np.full(10, 0.25)).standard_error == 0.0


def test_a_gain_on_every_prompt_alike_has_no_error_though_each_result_has():
    before, after = result([0, 1, 2, 3]), result([1, 2, 3, 4])
    gain = paired_gain(before, after)
    assert gain.value == pytest.approx(0.25)
    assert gain.standard_error == pytest.approx(0.0, abs=1e-12)
    assert before.pass_at[1].standard_error > 0.05


def test_results_over_different_prompts_are_not_compared():
    with pytest.raises(EvaluationError, match="different prompts"):
        paired_gain(result([1, 2]), result([1, 2], prompt_ids=["a", "b"]))


def test_results_survive_their_file_format():
    stored = result([1, 2, 3])
    assert EvalResult.from_json(stored.to_json()) == stored


@pytest.mark.parametrize(
    ("reward_P", "graded"),
    [
        ((), False),  # results of an earlier version
        ((0.25, 0.5), False),
        ((0.25, 0.5 + 1e-8), False),  # float32
        ((0.25, 0.625), True),  # half a point for a sample that is not correct
        ((0.2, 0.5), True),
    ],
)
def test_rewards_are_graded_where_they_say_more_than_right_and_wrong(reward_P, graded):
    assert replace(result([1, 2]), reward_P=reward_P).graded is graded


def test_k_beyond_the_samples_is_refused():
    with pytest.raises(EvaluationError, match="needs at least k samples"):
        EvalOptions(samples=4, k=(8,))


def test_what_would_fail_only_after_all_is_sampled_is_refused_at_once():
    with pytest.raises(EvaluationError, match="tables and rankings are headed by pass@k"):
        EvalOptions(k=())
    for name in ("results.parquet", "prompts.parquet"):
        with pytest.raises(EvaluationError, match="as a file beside it is"):
            EvalOptions(benchmarks={name: PromptSource(source="x")})


def judge(run, verdict, *, options=None):
    """The datasets of an evaluation of the run, with a verdict for each rollout."""
    rollouts = shards.open_dataset(run.rollouts)
    spec = shards.DatasetSpec(
        stage="score", stage_version=1, options={"kind": "outcome"} | (options or {}), parts=2,
        inputs={"rollouts": rollouts.ref(run.signal("right"))},
    )  # fmt: skip
    outcome = shards.create_dataset(run.signal("right"), spec)
    for part in range(2):
        table = rollouts.read_part(part)
        shards.commit_part(outcome, part, sidecar("outcome", table, [verdict(row) for row in table.to_pylist()]))
    shards.finalize(outcome)
    return [shards.open_dataset(url) for url in (run.prompts, run.rollouts, run.signal("right"))]


def test_a_sample_that_was_rejected_or_has_no_verdict_is_not_correct_and_is_counted(make_run):
    run = make_run(sampling=SAMPLING | {"group_size": 3})  # of 4 prompts: 12 samples, 9 are there

    def verdict(row):
        if row["rollout_id"] == "p0/0":
            return Row("timeout", values={"verify_status": "timeout"})
        return Row(values={"outcome_reward": float(row["text"].endswith("=5")), "verify_status": "ok"})

    found = evaluate_rollouts(*judge(run, verdict), benchmark="held-out", k=(1,))
    assert (found.samples, found.unscored) == (3, 3 + 1)
    assert dict(zip(found.prompt_ids, found.correct_P, strict=True)) == {"p0": 0, "p1": 1, "p2": 1, "p3": 1}
    assert found.pass_at[1].value == pytest.approx(3 / 12)


@pytest.mark.parametrize(
    ("said", "vote"),
    [
        (["0", "-0.0", "1"], 1.0),  # zero is an answer, and it has one sign
        (["0.75", "3/4", "2"], 1.0),
        (["5E+3", "5000", "7"], 1.0),
        (["1/3", "0.333", "7"], 1 / 3),  # three answers, each drawn alike
        (["7", "", None], 1.0),  # no answer does not vote
        (["odd", "7", "7"], 0.0),  # imported text that is no number is compared as it stands
    ],
)
def test_numbers_of_one_value_are_one_answer_of_a_vote(make_run, said, vote):
    run = make_run(sampling=SAMPLING | {"group_size": 3}, texts={0: {"p0": ["1", "2", "3"]}, 1: {"p1": ["1"]}})

    def verdict(row):
        first = row["sample_index"] == 0 or (vote == 1.0 and row["sample_index"] == 1 and said[1] != "")
        answer = said[row["sample_index"]] if row["group_id"] == "p0" else None
        return Row(values={"outcome_reward": float(first), "verify_status": "ok", "extracted_answer": answer})

    datasets = judge(run, verdict, options={"verifier": "number"})
    assert evaluate_rollouts(*datasets, benchmark="b", k=(1,)).majority_P[0] == pytest.approx(vote)


def test_the_table_of_a_run_has_its_rounds_in_order_of_their_numbers(tmp_path):
    for index in (101, 1000, 2):
        folder = round_folder(str(tmp_path), index, "eval/held-out")
        shards.Store(folder).put(RESULTS, result([index % 4]).to_json().encode())
    shards.Store(f"{tmp_path}/round-old/eval/held-out").put(RESULTS, result([1]).to_json().encode())
    assert evaluated_places(str(tmp_path)) == ["round-002/eval", "round-101/eval", "round-1000/eval"]


def test_an_answer_that_normalization_leaves_nothing_of_still_votes(make_run):
    """To SQuAD "A" and "the" are articles; as whole answers its verifier compares them as written, and so do votes."""
    run = make_run(sampling=SAMPLING | {"group_size": 3}, texts={0: {"p0": ["1", "2", "3"]}, 1: {"p1": ["1"]}})

    def verdict(row):
        answer = ["A", "A", "the"][row["sample_index"]] if row["group_id"] == "p0" else None
        return Row(values={"outcome_reward": float(answer == "A"), "verify_status": "ok", "extracted_answer": answer})

    datasets = judge(run, verdict, options={"verifier": "squad"})
    assert evaluate_rollouts(*datasets, benchmark="b", k=(1,)).majority_P[0] == 1.0
