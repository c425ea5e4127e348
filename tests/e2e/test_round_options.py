"""Options of `passrl rounds` beside schedules: early stopping, older rounds' shards, anchors, runners of stages."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pass_ops.shards import open_dataset
from pipelines.cli.parser import main
from pipelines.runs import budget as budgets
from pipelines.runs.evaluate import read_results
from tests.e2e.project import PLAIN

REUSE = ["--set", "run.max_staleness=1", "--set", "train.off_policy=accept"]


def lineage(out: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(out) / "lineage.json").read_text())
    return found


def weights(out: str, round_index: int) -> bytes:
    return (Path(out) / f"round-{round_index:03d}" / "policy" / "model.safetensors").read_bytes()


@pytest.fixture
def plain(project):
    project.write("run.toml", PLAIN)
    return project


# No round's pass@1 can exceed 1, so min_delta 1 makes round 0 the best and the next one the last.
STOP = """
[stop]
metric = "eval.small.pass@1"
patience = 1
min_delta = 1.0
"""


@pytest.fixture
def stopping(project):
    text = Path(project.config).read_text().replace("[eval]", "[eval]\nbetween = 2")
    project.write("run.toml", text + STOP)
    return project


def test_rounds_end_early_and_go_on_with_more_patience(stopping, capsys):
    out = stopping.out
    command = ["rounds", stopping.config, "--rounds", "4", "--out"]
    assert main([*command, out]) == 0
    assert "stopped after round 1: eval.small.pass@1" in capsys.readouterr().err
    assert [entry["round"] for entry in lineage(out)["rounds"]] == [0, 1]
    told = lineage(out)["stopped"]
    assert (told["round"], told["best_round"], told["metric"]) == (1, 0, "eval.small.pass@1")
    assert told["value"] == read_results(f"{out}/round-001/eval-2/small").pass_at[1].value
    assert read_results(f"{out}/round-001/eval/small").prompts == 4, "the last round is evaluated on every prompt"
    assert not Path(out, "round-000", "eval").exists()
    assert main(["verify", out]) == 0
    assert main([*command, out, "--set", "stop.patience=2"]) == 0  # more patience: it goes on
    assert lineage(out)["stopped"]["round"] == 2


def test_a_metric_that_no_round_measures_is_refused_before_anything_runs(stopping, capsys):
    command = ["rounds", stopping.config, "--out", stopping.out, "--set", "stop.metric=eval.big.pass@1"]
    assert main(command) == 2
    message = (
        "stop.metric is 'eval.big.pass@1', which is not measured; measured are: eval.small.pass@1, eval.small.pass@2"
    )
    assert message in capsys.readouterr().err
    assert not Path(stopping.out).exists()


@pytest.mark.parametrize(
    ("metric", "options", "known"),
    [
        ("train.behaviour_kl", [], "train.loss, train.policy_loss, train.clip_low, train.clip_high, train.beh"),
        ("train.kl", [], "train.loss, train.policy_loss, train.clip_low"),  # measured with a KL term alone
        ("train.behavior_kl", ["schedule.train.loss=['clip', 'next_token']"], "train.loss"),
    ],
)
def test_a_metric_that_no_training_measures_is_refused_before_anything_runs(stopping, capsys, metric, options, known):
    command = ["rounds", stopping.config, "--out", stopping.out, "--set", f"stop.metric={metric}"]
    for option in options:
        command += ["--set", option]
    assert main(command) == 2
    assert f"stop.metric is {metric!r}, which is not measured; measured are: {known}" in capsys.readouterr().err
    assert not Path(stopping.out).exists()


def test_rounds_may_end_by_a_number_of_the_training(stopping):
    command = ["rounds", stopping.config, "--rounds", "3", "--out", stopping.out, "--set", "stop.min_delta=1e9"]
    assert main([*command, "--set", "stop.metric=train.grad_norm"]) == 0
    assert lineage(stopping.out)["stopped"]["metric"] == "train.grad_norm"


def test_older_shards_are_trained_on_with_the_log_probabilities_of_who_sampled_them(plain, tmp_path, capsys):
    out, alone = plain.out, str(tmp_path / "alone")
    command = ["rounds", plain.config, *REUSE, "--out"]
    assert main([*command, out]) == 0
    assert main(["rounds", plain.config, "--out", alone]) == 0
    assert [entry["trained_on"] for entry in lineage(out)["rounds"]] == [[0], [1, 0]]
    identity = json.loads(Path(out, "round-001/train/_train.json").read_text())
    shaped = [open_dataset(f"{out}/round-00{index}/shaped") for index in (1, 0)]
    assert identity["datasets"] == [dataset.content_digest for dataset in shaped]
    steps = [json.loads(line) for line in Path(out, "round-001/train/metrics.jsonl").read_text().splitlines()]
    assert sum(step["rollouts"] for step in steps) == 60
    assert steps[0]["behavior_kl"] != 0.0, "those of round 0 were sampled by another policy"
    assert weights(out, 0) == weights(alone, 0)
    assert weights(out, 1) != weights(alone, 1)
    assert open_dataset(f"{alone}/round-001/shaped").read_part(0).equals(shaped[0].read_part(0))
    assert main(["verify", out]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["train.off_policy=refuse"], 'but train.off_policy is "refuse"'),
        (["train.old_policy=recompute"], 'but with train.old_policy "recompute" nothing corrects'),
        (["train.loss=policy_gradient"], "but loss policy_gradient does not correct"),
        (["schedule.generate.sampling.temperature=[1.0, 0.5]"], "and they are sampled at different temperatures"),
    ],
)
def test_older_shards_that_would_spoil_the_update_are_refused(project, capsys, options, message):
    command = ["rounds", project.config, "--out", project.out, *REUSE]
    for option in options:
        command += ["--set", option]
    assert main(command) == 2
    assert f"run.max_staleness is 1, so round 1 trains on older rollouts as well, {message}" in capsys.readouterr().err
    assert not Path(project.out).exists()


ANCHOR = """
[signals.base]
signal = "logprobs"
model = "start"
engine = { kind = "recorded", recording = "synthetic:3" }
"""


def test_the_kl_reference_stays_the_policy_before_round_0(project, capsys):
    start = project.folder / "start"
    shutil.copytree(project.folder / "model", start)
    text = Path(project.config).read_text().replace('format = "format"', 'format = "format"\nreference = "base"', 1)
    project.write("run.toml", text + ANCHOR)
    command = ["rounds", project.config, "--out", project.out]
    assert main([*command, "--rounds", "1"]) == 0
    entry = lineage(project.out)["rounds"][0]
    assert entry["anchors"] == {"shape.reference": entry["policy_digest"]}
    shutil.copy(f"{project.out}/round-000/policy/model.safetensors", start / "model.safetensors")
    capsys.readouterr()
    assert main(command) == 2
    refused = capsys.readouterr().err
    assert (
        "shape.reference is signal 'base', which must be the policy before round 0 in every round; its model" in refused
    )
    assert not Path(project.out, "round-001").exists()
    assert main([*command, "--dry-run", "--set", "signals.base={signal='logprobs'}"]) == 2
    assert "it names no model, so in round 1 it is that round's own policy" in capsys.readouterr().err


def test_a_stage_has_a_runner_of_its_own(project, capsys, monkeypatch):
    from pipelines.parts import job

    used = []
    plain = job.run_job

    def noted(construct, options, **others):
        used.append(options.flags)
        return plain(construct, options, **others)

    monkeypatch.setattr(job, "run_job", noted)
    flags = "runners.score={flags=['--direct_num_workers=1']}"
    assert main(["run", project.config, "--out", project.out, "--set", flags]) == 0
    assert used.count(("--direct_num_workers=1",)) == 3, "one job a signal"
    assert used.count(()) == len(used) - 3 > 0


BUDGET = ["--rounds", "3", "--set", "run.keep_rollouts=1", "--set", "run.keep_states=1"]
DATASETS = ("rollouts", "signals/outcome", "shaped")


def rows_of(out: str, round_index: int) -> list[Path]:
    return sorted(Path(out, f"round-{round_index:03d}").glob("[rs]*/**/part-*.parquet"))


def test_old_rows_and_states_are_deleted_by_rule_and_everything_still_adds_up(plain, tmp_path, capsys):
    out, kept = plain.out, str(tmp_path / "kept")
    command = ["rounds", plain.config, *BUDGET, "--out"]
    assert main(["rounds", plain.config, "--rounds", "3", "--out", kept]) == 0
    assert main([*command, out]) == 0
    datasets = [entry["datasets"] for entry in lineage(kept)["rounds"]]
    assert [entry["datasets"] for entry in lineage(out)["rounds"]] == datasets
    assert [weights(out, index) for index in range(3)] == [weights(kept, index) for index in range(3)]
    for index, entry in enumerate(lineage(out)["rounds"]):
        assert bool(rows_of(out, index)) == (index == 2)
        assert set(entry.get("deleted", {})) == ({*DATASETS, "state"} if index < 2 else set())
    told = lineage(out)["rounds"][0]["deleted"]
    assert (told["rollouts"]["rule"], told["rollouts"]["files"]) == ("run.keep_rollouts = 1", 3)
    assert told["rollouts"]["bytes"] == sum(path.stat().st_size for path in Path(kept, "round-000/rollouts").glob("p*"))
    capsys.readouterr()
    assert main(["verify", out]) == 0
    assert "deleted by rule (run.keep_rollouts = 1)" in capsys.readouterr().out
    assert main(["status", out, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["datasets"]
    found = {entry["url"].removeprefix(out): entry["deleted"] for entry in told}
    assert found["/round-001/shaped"] == "run.keep_rollouts = 1"
    assert (found["/round-002/shaped"], found["/round-001/prompts"]) == (None, None)
    assert main(["inspect", f"{out}/round-000/shaped", "--part", "0"]) == 2
    assert "were deleted on purpose" in capsys.readouterr().err
    before = {path: path.stat().st_mtime_ns for path in Path(out).rglob("*.parquet")}
    assert main([*command, out]) == 0, "a rerun takes what was deleted as made"
    assert {path: path.stat().st_mtime_ns for path in Path(out).rglob("*.parquet")} == before


def test_a_budget_of_bytes_deletes_the_oldest_first_and_never_what_the_next_round_reads(plain, capsys):
    command = ["rounds", plain.config, "--rounds", "3", *REUSE, "--out", plain.out]
    assert main([*command, "--set", "run.disk_gigabytes=1e-9"]) == 0
    assert "above run.disk_gigabytes = 1e-09: no rule deletes the rest" in capsys.readouterr().err
    assert [bool(rows_of(plain.out, index)) for index in range(3)] == [False, False, True]
    states = [list(Path(plain.out).glob(f"round-00{index}/train/state/step-*/*")) for index in range(3)]
    assert [bool(found) for found in states] == [False, False, True]
    assert lineage(plain.out)["rounds"][2]["trained_on"] == [2, 1]
    assert main(["verify", plain.out]) == 0


def test_evaluations_of_other_policies_count_in_a_budget_of_bytes(project, capsys):
    command = ["rounds", project.config, "--rounds", "2", "--out", project.out]
    assert main(command) == 0
    limit = ["--set", f"run.disk_gigabytes={(weighed(project.out, 0, 1) + 100) / 1e9!r}"]
    shutil.copytree(project.out, f"{project.out}-evaluated")
    assert main([*command, *limit]) == 0
    assert lineage(project.out)["rounds"][1]["budget"]["deletes"] == []
    command[-1] = f"{project.out}-evaluated"
    policy = f"{project.out}/round-000/policy"
    assert main(["eval", project.config, "--out", command[-1], "--policy", policy]) == 0
    assert main([*command, *limit]) == 0
    plan = lineage(command[-1])["rounds"][1]["budget"]
    assert plan["over"] > 0
    assert plan["deletes"][0] == [0, "state"]


def weighed(out: str, *rounds: int) -> int:
    """Bytes of rows, weights and states."""
    folders = [Path(out, "start"), *(Path(out, f"round-{index:03d}") for index in rounds)]
    files = [file for folder in folders for file in folder.rglob("*")]
    return sum(file.stat().st_size for file in files if file.suffix in (".parquet", ".safetensors", ".distcp"))


def test_what_a_budget_of_bytes_deletes_depends_on_no_log_and_no_cut(plain, tmp_path, monkeypatch):
    kept, out, cut = str(tmp_path / "kept"), plain.out, str(tmp_path / "cut")
    command = ["rounds", plain.config, "--rounds", "2", "--out"]
    assert main([*command, kept]) == 0
    (state,) = Path(kept).glob("round-000/train/state/step-*/")
    over = sum(file.stat().st_size for file in state.iterdir()) + 1  # a state alone is not enough
    command[4:4] = ["--set", f"run.disk_gigabytes={(weighed(kept, 0, 1) - over) / 1e9!r}"]
    assert main([*command, out]) == 0

    def budget(url: str) -> tuple[object, ...]:
        told = lineage(url)["rounds"]
        return told[1]["budget"], [entry.get("deleted") for entry in told], [bool(rows_of(url, i)) for i in (0, 1)]

    assert budget(out)[0]["deletes"] == [[0, "state"], [0, "rows"]]
    assert budget(out)[2] == [False, True]
    remove = budgets.shards.delete_rows

    def killed(url: str, *, rule: str) -> object:
        if url.endswith("rollouts"):
            raise KeyboardInterrupt
        return remove(url, rule=rule)

    monkeypatch.setattr(budgets.shards, "delete_rows", killed)
    assert main([*command, cut]) == 130
    monkeypatch.undo()
    assert rows_of(cut, 0), "some rows are deleted, some are not, and the folder is small enough already"
    assert weighed(cut, 0, 1) < weighed(kept, 0, 1) - over
    for url in (out, cut):
        shutil.copytree(url, f"{url}-on")
        assert main(["run", *command[1:2], "--round", "2", *command[4:-1], "--out", f"{url}-on"]) == 0
    plans, left = [], []
    for url in (f"{out}-on", f"{cut}-on"):
        plans.append([entry.get("budget") for entry in lineage(url)["rounds"]])
        left.append([file.relative_to(url) for index in range(3) for file in rows_of(url, index)])
    assert plans[0] == plans[1]
    assert left[0] == left[1]
    assert main([*command, cut]) == 0
    assert budget(cut) == budget(out)
    Path(cut, "round-001", "train", "long.log").write_bytes(bytes(10 * over))
    assert main([*command, cut]) == 0
    assert budget(cut) == budget(out)


def test_rows_that_a_round_trains_on_cannot_be_deleted_by_age(project, capsys):
    command = ["rounds", project.config, *REUSE, "--out", project.out, "--set", "run.keep_rollouts=1"]
    assert main(command) == 2
    assert "run.keep_rollouts is 1, but with run.max_staleness 1 a round trains on" in capsys.readouterr().err


SELECT = """
[select]
min_pass_rate = 0.0
max_pass_rate = 0.5
explore = 0.25
"""


def prompts_of(out: str, round_index: int) -> list[str]:
    dataset = open_dataset(f"{out}/round-{round_index:03d}/prompts")
    return [name for part in range(len(dataset.parts)) for name in dataset.read_part(part).column(0).to_pylist()]


def test_prompts_are_chosen_by_what_earlier_rounds_measured_and_a_killed_run_chooses_the_same(plain, tmp_path, capsys):
    text = Path(plain.config).read_text().replace("[run]", "[run]\nprompts_per_round = 4\nkeep_rollouts = 1")
    plain.write("run.toml", text + SELECT)
    out = plain.out
    command = ["rounds", plain.config, "--rounds", "3", "--out"]
    assert main([*command, out]) == 0
    measured: dict[str, tuple[int, float]] = {}
    for index in range(3):
        folder = Path(out, f"round-{index:03d}")
        told = json.loads((folder / "selection.json").read_text())
        assert list(told) == prompts_of(out, index)
        for name, why in told.items():
            found = measured.get(name)
            expected = "unmeasured" if found is None else "window" if found[1] <= 0.5 else "outside"
            assert (why["reason"], why["round"], why["rate"]) == (expected, *(found or (None, None)))
        counts = lineage(out)["rounds"][index]["selection"]
        assert sum(counts.values()) == 4
        assert sum(count for reason, count in counts.items() if reason != "window") >= 1
        rates = json.loads((folder / "pass_rates.json").read_text())["rates"]
        assert list(rates) == list(told)
        assert {judged for _, judged in rates.values()} == {3}
        measured |= {name: (index, passed / judged) for name, (passed, judged) in rates.items()}
    assert lineage(out)["rounds"][2]["selection"].get("window", 0) >= 1, "rates of deleted rollouts still count"
    groups = [set(open_dataset(f"{out}/round-002/rollouts").read_part(0).column("group_id").to_pylist())]
    assert groups[0] == set(prompts_of(out, 2)), "four prompts are one part, so every group lies in it whole"
    assert main(["verify", out]) == 0


def test_a_selection_without_a_number_or_verdicts_is_refused(project, capsys):
    command = ["rounds", project.config, "--out", project.out, "--set", "select={}"]
    assert main(command) == 2
    assert "[select] chooses run.prompts_per_round prompts, and that is not set" in capsys.readouterr().err
    command += ["--set", "run.prompts_per_round=4", "--set", "select.outcome=format"]
    assert main(command) == 2
    assert "select.outcome: the signal 'format' is of kind format; name one of kind outcome" in capsys.readouterr().err
