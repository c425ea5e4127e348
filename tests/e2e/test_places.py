"""Where nothing can be written is named before anything is paid for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipelines.cli.parser import main


def refused(capsys, *arguments: str) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == 2
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    return shown


@pytest.mark.parametrize("command", ["run", "rounds", "generate", "eval"])
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_a_run_in_proc_is_refused_before_it_begins(project, capsys, command, dry):
    assert "/proc/x/run cannot be written" in refused(capsys, command, project.config, "--out", "/proc/x/run", *dry)


def test_a_demo_and_a_supervised_training_are_refused_alike(project, capsys):
    assert "--out: /proc/x cannot be written" in refused(capsys, "demo", "--out", "/proc/x")
    policy = str(project.folder / "model")
    assert "--out: /proc/x" in refused(capsys, "sft", "p.parquet", "--policy", policy, "--out", "/proc/x")
    sweep = ["sweep", project.config, "--out", "/proc/x", "--grid", "k=0,1"]
    assert "--out: /proc/x/round-000/sweep cannot be written" in refused(capsys, *sweep)


@pytest.mark.parametrize("place", ["run", "run/round-000", "run/round-000/rollouts", "run/round-000/train"])
def test_a_file_where_a_folder_should_be_is_named(project, capsys, place):
    file = project.folder / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("")
    shown = refused(capsys, "run", project.config, "--out", project.out)
    assert f"{file} is a file, where a folder is needed" in shown
    assert list(project.folder.rglob("_dataset.json")) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(project, capsys):
    closed = project.folder / "closed"
    closed.mkdir(mode=0o500)
    shown = refused(capsys, "run", project.config, "--out", str(closed / "run"))
    assert f"{closed} takes no file (Permission denied)" in shown


@pytest.mark.parametrize(
    ("plot", "said"),
    [("absent/x.svg", "does not exist; make it"), ("model", "is a folder"), ("run.toml/x.svg", "does not exist")],
)
def test_a_plot_into_nowhere_is_refused(project, capsys, plot, said):
    train = project.folder / "train"
    train.mkdir()
    (train / "metrics.jsonl").write_text("")
    shown = refused(capsys, "inspect", str(train), "--plot", str(project.folder / plot))
    assert "--plot: " in shown
    assert said in shown
    assert Path(project.folder / "model").is_dir()
