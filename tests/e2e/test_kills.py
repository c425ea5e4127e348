"""kill -9 at any point of `passrl run`, run it again: complete, verified, the bytes of an undisturbed run."""

from __future__ import annotations

import json
import random
import shutil
import time
from pathlib import Path

import pytest

from pipelines.cli.parser import main
from tests.e2e.killing import Point, finished, killed_after, killed_at

# What each names: before the data is put, after it (before the marker), after the marker, in finalize (both files).
NAMED = {
    "before the put of a part of rollouts": Point(pattern=r"^create .*/rollouts/part-", count=2),
    "between linking the data and its marker": Point(pattern=r"^create .*/rollouts/_done/", count=2),
    "after a marker": Point(pattern=r"^create .*/rollouts/_attempts/", count=3),
    "before the put of a signal": Point(pattern=r"^create .*/signals/steps/part-", count=1),
    "between data and marker of the last shaped part": Point(pattern=r"^create .*/shaped/_done/", count=3),
    "in finalize, before the list of parts": Point(pattern=r"^create .*/shaped/_parts-", count=1),
    "in finalize, before the manifest": Point(pattern=r"^create .*/rollouts/_manifest-", count=1),
    "before the lineage of the round": Point(pattern=r"^put .*lineage\.json", count=4),
}


class Undisturbed:
    """A run that nobody touched: what it made, and how long it took."""

    def __init__(self, config: str, out: str) -> None:
        started = time.monotonic()
        assert finished(["run", config, "--out", out], out + ".log") == 0, Path(out + ".log").read_text()
        self.seconds = time.monotonic() - started
        self.config = config
        self.made = made_by(out)


def made_by(out: str) -> dict[str, object]:
    """Content digests of every dataset, the policy's bytes, and what of the metrics does not depend on the clock."""
    lineage = json.loads((Path(out) / "lineage.json").read_text())["rounds"][0]
    policy = (Path(out) / "round-000" / "policy" / "model.safetensors").read_bytes()
    metrics = (Path(out) / "round-000" / "train" / "metrics.jsonl").read_text()
    losses = [json.loads(line)["loss"] for line in metrics.splitlines()]
    return {"datasets": lineage["datasets"], "policy": policy, "losses": losses, "eval": lineage["metrics"]["eval"]}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, tiny_model):
    from tests.e2e.project import make_project

    project = make_project(tmp_path_factory.mktemp("undisturbed"), tiny_model)
    return Undisturbed(project.config, project.out)


def check_rerun(undisturbed: Undisturbed, out: str, capsys) -> None:
    assert finished(["run", undisturbed.config, "--out", out], out + ".log") == 0, Path(out + ".log").read_text()
    assert made_by(out) == undisturbed.made
    assert main(["verify", out]) == 0, capsys.readouterr().out
    shutil.rmtree(out)


@pytest.mark.parametrize("point", NAMED.values(), ids=NAMED)
def test_killed_at_a_named_point_the_rerun_is_the_undisturbed_run(undisturbed, point, tmp_path, capsys):
    out = str(tmp_path / "run")
    killed_at(point, ["run", undisturbed.config, "--out", out], out + ".killed.log")
    check_rerun(undisturbed, out, capsys)


# Ten more moments are in the next test, in one run; the store's moments are named above.
@pytest.mark.parametrize("draw", [*range(3), *(pytest.param(n, marks=pytest.mark.deep) for n in range(3, 10))])
def test_killed_at_a_random_time_the_rerun_is_the_undisturbed_run(undisturbed, draw, tmp_path, capsys):
    out = str(tmp_path / "run")
    seconds = random.Random(draw).uniform(0.05, 0.95) * undisturbed.seconds
    killed_after(seconds, ["run", undisturbed.config, "--out", out], out + ".killed.log")
    check_rerun(undisturbed, out, capsys)


def test_killed_ten_times_in_a_row_the_run_completes_in_the_end(undisturbed, tmp_path, capsys):
    out = str(tmp_path / "run")
    chances = random.Random(99)
    for _ in range(10):
        seconds = chances.uniform(0.1, 0.7) * undisturbed.seconds
        killed_after(seconds, ["run", undisturbed.config, "--out", out], out + ".log")
    check_rerun(undisturbed, out, capsys)
