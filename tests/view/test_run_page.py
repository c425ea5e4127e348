"""The page of a RUN, from a run written by hand: what its lineage, metrics and datasets say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pass_ops import token_advantages
from pipelines.runs.evaluate import Estimate, EvalResult
from pipelines.runs.lineage import record_round, record_start
from pipelines.view.run_page import NotARunError, run_of, run_page
from pipelines.view.view import make_view

STEP = {
    "policy_loss": 0.0, "kl": None, "clip_low": 0.25, "clip_high": 0.0, "behavior_kl": None, "advantage_mean": None,
    "grad_norm": 1.0, "rollouts": 2, "tokens": 6, "dropped_tokens": 0, "masked_rollouts": 0, "fed_tokens": 8,
    "seconds": 1.0, "tokens_per_second": 8.0,
    "data_wait": 0.0,
}  # fmt: skip


def result(value: float, error: float) -> str:
    estimate = {1: Estimate(value=value, standard_error=error)}
    return EvalResult(
        benchmark="b", policy_digest="p", prompts=1, samples=1, pass_at=estimate, mean_length=1.0, truncated=0.0,
        unscored=0, prompt_ids=("a",), correct_P=(1,),
    ).to_json()  # fmt: skip


@pytest.fixture
def run(store_run, row):
    """Round 0 shaped, trained for two steps and evaluated twice; round 1 begun."""
    made = store_run(
        [row("a/0", 4, process_scores=[1.0, 0.0], process_ends=[2, 4]), row("a/1", 2, outcome_reward=0.0)],
        [row("b/0", 9), row("b/1", 9, outcome_reward=None, verify_status="timeout")],
    )
    metrics = {"train": {"entropy": 0.5, "behavior_kl": 0.01}, "eval": {"b": {"pass@1": 0.75}}}
    record_start(made.url, {"policy": "p", "metrics": {"eval": {"b": {"pass@1": 0.25}}}})
    record_round(made.url, 0, {"policy": "p", "metrics": metrics})
    record_round(made.url, 1, {"policy": "q"})
    folder = Path(made.url) / "round-000"
    for name, value in (("eval", result(0.5, 0.9)), ("eval-1", result(0.75, 0.125))):
        (folder / name / "b").mkdir(parents=True)
        (folder / name / "b" / "results.json").write_text(value)
    (folder / "train").mkdir()
    lines = [{**STEP, "step": n, "update": n, "loss": 0.5 * n, "entropy": 1.0 / n} for n in (1, 2)]
    (folder / "train" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return made


def test_rounds_are_what_lineage_evaluations_and_datasets_say(run):
    start, first, second = run_page(run.url)["rounds"]
    assert (start["round"], start["pass_at_1"]["b"]) == (None, {"value": 0.25, "standard_error": None})
    assert first["pass_at_1"]["b"] == {"value": 0.75, "standard_error": 0.125}
    assert (first["reward"], first["mean_length"]) == (pytest.approx(2 / 3), 6.0)
    assert (first["entropy"], first["behavior_kl"], first["kl"]) == (0.5, 0.01, None)
    assert (second["round"], second["reward"], second["pass_at_1"]) == (1, None, {})


def test_steps_are_columns_of_the_metrics_that_there_are(run):
    assert run_page(run.url)["steps"] == {
        "update": [1, 2],
        "round": [0, 0],
        "loss": [0.5, 1.0],
        "entropy": [1.0, 0.5],
        "grad_norm": [1.0, 1.0],
        "clip_low": [0.25, 0.25],
        "clip_high": [0.0, 0.0],
    }


def test_histograms_count_every_row(run):
    lengths, advantages = run_page(run.url)["histograms"]
    parts = [run.shaped.read_part(part) for part in (0, 1)]
    for found, values in (
        (lengths, [4, 2, 9, 9]),
        (advantages, np.concatenate([np.concatenate(token_advantages(part).to_pylist()) for part in parts])[:15]),
    ):
        counts, _ = np.histogram(values, found["edges"])
        assert found["counts"] == counts.tolist()
        assert sum(found["counts"]) == len(values)  # b/1 is not trainable: its advantages are in no figure


def test_the_run_is_found_around_the_dataset_and_on_the_page(run):
    assert run_of(run.shaped) == run.url
    assert make_view([run.shaped.url]).head["run"]["rounds"][1]["round"] == 0


def test_a_dataset_outside_a_run_has_no_run_page(store_run, row):
    made = store_run([row("a/0", 1)])
    assert run_of(made.shaped) is None
    assert make_view([made.shaped.url]).head["run"] is None


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(NotARunError, match=r"holds no lineage\.json"):
        run_page(str(tmp_path))
