"""Real vLLM through the command line: two rounds on one engine, and kills."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pass_ops.shards import open_dataset
from pipelines.cli.parser import main
from tests.e2e.killing import Point, finished, killed_after, killed_at
from tests.e2e.project import make_project

VLLM = ["--set", "engine.kind=vllm", "--set", "engine.dtype=float32", "--set", "engine.max_num_seqs=16"]
NAMED = [
    Point(pattern=r"^create .*/rollouts/_done/", count=2),
    Point(pattern=r"^create .*/rollouts/part-", count=2),
    Point(pattern=r"^create .*/rollouts/_attempts/", count=3),
    Point(pattern=r"^create .*/rollouts/_manifest-", count=1),
]


def rollouts_of(out: str, round_index: int = 0) -> pa.Table:
    dataset = open_dataset(f"{out}/round-{round_index:03d}/rollouts")
    return pa.concat_tables(dataset.read_part(part) for part in range(len(dataset.parts)))


def share_identical(a: pa.Table, b: pa.Table) -> float:
    """Share of rollouts whose token ids are the same in both tables; the rows themselves must match."""
    assert a.column("rollout_id") == b.column("rollout_id")
    pairs = zip(a.column("token_ids").to_pylist(), b.column("token_ids").to_pylist(), strict=True)
    return float(np.mean([x == y for x, y in pairs]))


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model):
    """Two rounds on vLLM, undisturbed: (project, run folder, seconds)."""
    project = make_project(tmp_path_factory.mktemp("vllm"), tiny_model)
    out = project.out
    started = time.monotonic()
    log = out + ".log"
    assert finished(["rounds", project.config, "--out", out, *VLLM], log) == 0, Path(log).read_text()
    return project, out, time.monotonic() - started


def test_two_rounds_on_one_engine_that_takes_over_the_new_weights(run, capsys):
    _, out, _ = run
    assert main(["verify", out]) == 0
    specs = [open_dataset(f"{out}/round-{index:03d}/rollouts").spec for index in range(2)]
    assert [spec.environment["engine"] for spec in specs] == ["vllm", "vllm"]
    assert specs[0].carried["policy_digest"] != specs[1].carried["policy_digest"]
    metrics = [json.loads(line) for line in Path(out, "round-001", "train", "metrics.jsonl").read_text().splitlines()]
    # A fresh ratio of 1 says that round 1's engine sampled with the weights that round 1's trainer starts from.
    assert metrics[0]["ratio_min"] == pytest.approx(1.0, abs=1e-4)
    assert metrics[0]["ratio_max"] == pytest.approx(1.0, abs=1e-4)


def check_rerun(project, out: str, undisturbed: str, capsys) -> None:
    log = out + ".log"
    assert finished(["generate", project.config, "--out", out, *VLLM], log) == 0, Path(log).read_text()
    assert main(["verify", out]) == 0
    share = share_identical(rollouts_of(out), rollouts_of(undisturbed))
    with capsys.disabled():
        print(f"\nvLLM killed and rerun: {100 * share:.1f} % of rollouts have identical token ids")
    assert share >= 0.9


@pytest.mark.parametrize("point", [NAMED[0], *(pytest.param(point, marks=pytest.mark.deep) for point in NAMED[1:])])
def test_vllm_killed_at_a_named_point(run, point, tmp_path, capsys):
    project, undisturbed, _ = run
    out = str(tmp_path / "run")
    killed_at(point, ["generate", project.config, "--out", out, *VLLM], out + ".killed.log")
    check_rerun(project, out, undisturbed, capsys)


@pytest.mark.parametrize("draw", [0, *(pytest.param(draw, marks=pytest.mark.deep) for draw in range(1, 10))])
def test_vllm_killed_at_a_random_time(run, draw, tmp_path, capsys):
    project, undisturbed, seconds = run
    out = str(tmp_path / "run")
    delay = random.Random(draw).uniform(0.05, 0.5) * seconds
    killed_after(delay, ["generate", project.config, "--out", out, *VLLM], out + ".killed.log")
    check_rerun(project, out, undisturbed, capsys)
