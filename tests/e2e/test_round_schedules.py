"""Rounds whose options change: each is what a run of that setting makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pass_ops.shards import open_dataset
from pipelines.cli.parser import main

SCHEDULE = """
[schedule]
train.lr = { rule = "cosine", start = 1e-3, end = 1e-4, rounds = 2 }
generate.group_size = [3, 2]
generate.sampling.temperature = [1.0, 0.5]
shape.k = { rule = "steps", values = [0.7, 0.0], at = [1] }
"""


def lineage(out: str) -> list[dict[str, Any]]:
    rounds: list[dict[str, Any]] = json.loads((Path(out) / "lineage.json").read_text())["rounds"]
    return rounds


@pytest.fixture
def scheduled(project):
    project.write("run.toml", Path(project.config).read_text() + SCHEDULE)
    return project


def test_every_round_has_its_options_in_data_trainer_lineage_and_status(scheduled, capsys):
    out = scheduled.out
    assert main(["rounds", scheduled.config, "--out", out]) == 0
    specs = [open_dataset(f"{out}/round-00{index}/shaped").spec for index in range(2)]
    assert [spec.carried["sampling"]["temperature"] for spec in specs] == [1.0, 0.5]
    assert [spec.options["k"] for spec in specs] == [0.7, 0.0]
    assert [open_dataset(f"{out}/round-00{index}/rollouts").manifest.totals["rows"] for index in range(2)] == [30, 20]
    steps = [json.loads(Path(out, f"round-00{i}/train/metrics.jsonl").read_text().splitlines()[0]) for i in range(2)]
    assert [step["lr"] for step in steps] == [1e-3, 1e-4]
    judged = [open_dataset(f"{out}/round-00{index}/eval/small/rollouts").spec for index in range(2)]
    assert [spec.carried["sampling"]["temperature"] for spec in judged] == [1.0, 1.0]
    assert [entry["schedule"]["shape.k"] for entry in lineage(out)] == [0.7, 0.0]
    assert lineage(out)[1]["config"]["generate"]["group_size"] == 2
    capsys.readouterr()
    assert main(["status", out, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["rounds"]
    assert [(entry["round"], entry["schedule"]["train.lr"]) for entry in told] == [(0, 1e-3), (1, 1e-4)]
    assert main(["status", out]) == 0
    assert "shape.k 0.7" in " ".join(capsys.readouterr().out.split())
    assert main(["verify", out]) == 0


def test_the_first_round_is_that_of_a_run_without_a_schedule(scheduled, tmp_path):
    plain = str(tmp_path / "plain")
    assert main(["run", scheduled.config, "--out", scheduled.out]) == 0
    assert main(["run", scheduled.config, "--out", plain, "--set", "schedule={}"]) == 0
    assert lineage(plain)[0]["datasets"] == lineage(scheduled.out)[0]["datasets"]
    policies = [Path(out, "round-000/policy/model.safetensors").read_bytes() for out in (plain, scheduled.out)]
    assert policies[0] == policies[1]


def test_a_dry_run_shows_every_round_and_refuses_what_a_later_one_cannot_be(scheduled, capsys):
    command = ["rounds", scheduled.config, "--out", scheduled.out, "--rounds", "3", "--dry-run"]
    assert main(command) == 0
    shown = json.loads(capsys.readouterr().out)["schedule"]
    assert [shown[index]["generate.group_size"] for index in "012"] == [3, 2, 2]
    assert main([*command, "--set", "schedule.shape.k=[0.7, 0.7, 1.5]"]) == 2
    assert "schedule.shape.k is 1.5 in round 2" in capsys.readouterr().err
    assert main([*command, "--set", "schedule.generate.group_size=[3, 1]"]) == 2
    assert "round 1: generate.group_size is 1" in capsys.readouterr().err
    assert main([*command, "--set", "schedule.generate.sampling.top_p=[1.0, 0.9]"]) == 2
    assert "round 1: train: generate.sampling" in capsys.readouterr().err
    assert not Path(scheduled.out).exists()
