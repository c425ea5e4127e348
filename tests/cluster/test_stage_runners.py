"""Rounds whose stages have runners of their own, some of them a real Flink cluster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.cli.parser import main
from tests.cluster.jobs import ClusterProject, external, loopback

# Workers in the client end with the job server hanging up on their data channel: Beam's thread says so.
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]


def table(stage: str, runner: list[str]) -> tuple[str, str]:
    """`--runner NAME -- FLAGS` as the table of one stage."""
    flags = runner[runner.index("--") + 1 :]
    return "--set", f"runners.{stage}={{name='flink', flags={json.dumps(flags)}}}"


def runners(out: str) -> dict[str, str]:
    """Dataset -> the runner of the job that wrote it, as it says itself; prompts are written without a job."""
    told = {path.parent: json.loads(path.read_text()) for path in sorted(Path(out).rglob("_run.json"))}
    return {folder.relative_to(out).as_posix(): run["runner"] for folder, run in told.items() if "runner" in run}


def made_by(out: str) -> list[object]:
    """What a round made and measured."""
    (entry,) = json.loads(Path(out, "lineage.json").read_text())["rounds"]
    return [entry["datasets"], entry["metrics"]["eval"], entry["metrics"]["shaped"]]


def test_each_stage_runs_where_its_table_says_and_makes_the_same_bytes(tmp_path, tiny_model, flink, capsys):
    project = ClusterProject.make(tmp_path, tiny_model, prompts=12)
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    command = ["rounds", project.config, "--rounds", "1", "--out"]
    assert main([*command, here]) == 0
    tables = [*table("generate", external(flink)), *table("score", loopback(flink)), *table("eval", external(flink))]
    assert main([*command, there, *tables]) == 0, capsys.readouterr().err
    assert made_by(there) == made_by(here)
    assert set(runners(here).values()) == {"direct"}
    assert runners(there) == dict.fromkeys(runners(here), "flink") | {"round-000/shaped": "direct"}
    assert main(["verify", there]) == 0
