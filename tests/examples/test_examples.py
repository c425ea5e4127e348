"""The examples run as they stand, each in a process of its own, and print what they promise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pass_ops.shards import open_dataset, verify

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(name: str, folder: Path) -> list[str]:
    """The lines an example prints, in a folder of its own, started from elsewhere."""
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_pass_on_a_polars_frame(tmp_path):
    right, wrong = run("pass_on_polars", tmp_path)
    assert right.startswith("2+3*4  reward 1  path score +")
    assert wrong.startswith("2+3*4  reward 0  path score -")
    assert len(right.split()) - len(wrong.split()) == 2  # an advantage per token: six and four


def test_the_whole_loop(tmp_path):
    lines = run("whole_loop", tmp_path)
    assert [line.split()[0] for line in lines] == ["prompts", "rollouts", "signals", "shaped", "trained"]
    assert "rollouts  32 of them" in lines[1]
    assert not [finding for finding in verify(str(tmp_path / "shaped")) if finding.severity == "error"]
    assert (tmp_path / "train" / "policy" / "model.safetensors").exists()


def test_a_signal_of_ones_own(tmp_path):
    named, *rows = run("own_signal", tmp_path)
    assert named == "own_signal:Confidence with floor -4.0"
    assert len(rows) == 4
    rollouts = open_dataset(str(tmp_path / "rollouts")).read_part(0)
    scores = open_dataset(str(tmp_path / "confidence")).read_part(0)["process_scores"]
    logprobs = rollouts["behavior_logprobs"].to_pylist()
    assert scores.to_pylist() == [[max(logprob, -4.0) for logprob in row] for row in logprobs]


def test_a_verifier_of_ones_own(tmp_path):
    counts, summary = run("own_verifier", tmp_path)
    assert "'wrong'" in counts
    assert "wrong answers are close" in summary
    for row in open_dataset(str(tmp_path / "close")).read_part(0).to_pylist():
        assert (row["verify_status"] == "ok") == (row["outcome_reward"] == 1.0)
        assert row["status"] == "ok"


def test_a_pipeline_that_contains_a_stage(tmp_path):
    lines = run("beam_pipeline", tmp_path)
    assert "3 parts are scored and finalized" in lines
    assert any(line.startswith("digit True: ") for line in lines)
    before = sorted((tmp_path / "has-a-digit").rglob("part-*"))
    assert sorted(run("beam_pipeline", tmp_path)) == sorted(lines)  # nothing is pending, and the pipeline goes on
    assert sorted((tmp_path / "has-a-digit").rglob("part-*")) == before


def test_pass_in_a_pipeline_of_ones_own(tmp_path):
    lines = run("beam_shape", tmp_path)
    assert lines[:2] == ["4 parts, 39 groups, 312 rollouts", "rejected: {'step_ends': 1}"]
    assert lines[2].startswith("mean advantage of a token: ")
    assert not [finding for finding in verify(str(tmp_path / "shaped")) if finding.severity == "error"]
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "shaped").rglob("part-*")}
    assert run("beam_shape", tmp_path) == lines
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "shaped").rglob("part-*")} == before


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_no_example_is_longer_than_a_screen_or_two(example):
    assert len(example.read_text().splitlines()) <= 100
