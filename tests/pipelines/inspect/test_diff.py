"""passrl diff: the paired difference against textbook formulas, and two stored runs against what sets them apart."""

from __future__ import annotations

import json
import math
import statistics

import numpy as np
import pytest

from pass_ops.shards import Store
from pipelines.cli.parser import main
from pipelines.inspect.diff.differences import difference
from pipelines.inspect.diff.runs import _evaluations, diff_runs
from pipelines.runs.evaluate import RESULTS, EvalResult, bootstrap, paired_gain, pass_at_k
from pipelines.runs.lineage import record_round


def samples(seed: int, count: int = 400) -> dict[str, float]:
    generator = np.random.default_rng(seed)
    return {f"p{n}": float(value) for n, value in enumerate(generator.normal(seed, 1.0 + seed, count))}


def test_the_paired_standard_error_is_that_of_the_mean_difference():
    a = samples(0)
    noise = np.random.default_rng(9).normal(0.5, 0.1, len(a))
    b = {name: value + float(more) for (name, value), more in zip(a.items(), noise, strict=True)}
    found = difference(a, b, same=set(a))
    assert found is not None
    assert found.paired
    assert found.difference == pytest.approx(float(noise.mean()))
    exact = float(noise.std(ddof=1)) / math.sqrt(len(a))
    assert found.standard_error == pytest.approx(exact, rel=0.1)
    assert found.low == pytest.approx(found.difference - 1.96 * exact, abs=0.25 * exact)
    assert found.high == pytest.approx(found.difference + 1.96 * exact, abs=0.25 * exact)


def test_without_a_prompt_in_common_the_errors_of_both_add_up():
    a, b = samples(0), {f"q{name}": value for name, value in samples(1).items()}
    found = difference(a, b, same=set())
    assert found is not None
    assert (found.paired, found.prompts) == (False, 800)
    exact = math.sqrt(sum(statistics.variance(values.values()) / len(values) for values in (a, b)))
    assert found.standard_error == pytest.approx(exact, rel=0.1)


def test_prompts_that_only_share_an_id_are_not_paired():
    a, b = {"p": 0.0, "q": 1.0}, {"p": 1.0, "q": 5.0}
    found = difference(a, b, same={"p"})
    assert found is not None
    assert (found.prompts, found.a, found.b, found.standard_error) == (1, 0.0, 1.0, None)


def test_it_agrees_with_the_gain_that_an_evaluation_reports():
    ids = tuple(f"p{n}" for n in range(60))

    def result(seed: int) -> EvalResult:
        correct = np.random.default_rng(seed).integers(0, 9, 60)
        return EvalResult(
            benchmark="b", policy_digest="d", prompts=60, samples=8, pass_at={1: bootstrap(pass_at_k(correct, 8, 1))},
            mean_length=1.0, truncated=0.0, unscored=0, prompt_ids=ids, correct_P=tuple(map(int, correct)),
        )  # fmt: skip

    before, after = result(1), result(2)
    values = [dict(zip(ids, pass_at_k(np.array(one.correct_P), 8, 1).tolist(), strict=True)) for one in (before, after)]
    found, gain = difference(*values, same=set(ids)), paired_gain(before, after)
    assert found is not None
    assert found.difference == pytest.approx(gain.value)
    assert found.standard_error == pytest.approx(gain.standard_error, rel=0.1)


def test_of_evaluations_on_some_prompts_that_on_most_is_compared(tmp_path):
    for count in (100, 20, 1000):
        result = EvalResult(
            benchmark="b", policy_digest="d", prompts=1, samples=8, pass_at={1: bootstrap(np.ones(1))}, mean_length=1.0,
            truncated=0.0, unscored=0, prompt_ids=(f"of {count}",), correct_P=(8,),
        )  # fmt: skip
        Store(f"{tmp_path}/round-000/eval-{count}/b").put(RESULTS, result.to_json().encode())
    place, found = _evaluations(f"{tmp_path}/round-000")["b"]
    assert (place.split("/")[-2], found.prompt_ids) == ("eval-1000", ("of 1000",))


@pytest.fixture
def runs(store_run, row, tmp_path):
    """Two runs of one round: other rewards, another learning rate, the same prompts but for their content."""
    made = []
    for name, reward in (("a", 0.0), ("b", 1.0)):
        run = store_run([row("g/0", 3, outcome_reward=reward), row("g/1", 5, outcome_reward=reward)])
        target = tmp_path / name
        (tmp_path / "run").rename(target)
        digest = json.loads(next((target / "round-000" / "shaped").glob("_manifest-*.json")).read_text())
        facts = {
            "policy_digest": "same",
            "config": {"train": {"lr": reward}, "shape": {"k": 0.7}},
            "datasets": {"shaped": digest["content_digest"]},
        }
        record_round(str(target), 0, facts)
        made.append(str(target))
        del run
    return made


def test_options_data_and_results_that_differ_are_told(runs):
    found = diff_runs(*runs)
    assert [(one.option, one.a, one.b, one.rounds) for one in found.options] == [("train.lr", 0.0, 1.0, (0,))]
    assert [(one.dataset, one.same) for one in found.data] == [("starting policy", True), ("shaped", False)]
    assert [(one.a.rows, one.b.tokens) for one in found.data if one.dataset == "shaped"] == [(2, 8)]
    told = {one.what: one.difference for one in found.results}
    assert (told["reward"].a, told["reward"].b, told["reward"].paired) == (0.0, 1.0, False)  # no prompts are stored
    assert told["length"].difference == 0.0


def test_a_run_does_not_differ_from_itself(runs, capsys):
    assert main(["diff", runs[0], runs[0]]) == 0
    shown = capsys.readouterr().out
    assert "Options: the same in every round that both have." in shown
    assert "Data: 2 of 2 datasets and starting policies are the same." in shown


def test_the_command_gives_text_and_json(runs, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["diff", *runs]) == 0
    shown = capsys.readouterr().out
    assert "train.lr" in shown
    assert "reward *" in shown
    assert main(["diff", *runs, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rounds"] == [0]


def test_a_folder_that_is_no_run_is_refused(runs, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["diff", runs[0], str(tmp_path / "empty")]) == 2
    assert "is no RUN folder" in capsys.readouterr().err
