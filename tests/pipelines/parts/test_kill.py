"""SIGKILL: whatever is killed, the same command goes on from there and nothing is lost, doubled or half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pass_ops import shards
from pipelines.engines.base import EngineOptions, Sampling
from pipelines.rollouts.stage import GenerateOptions, generate

SCRIPTS = Path(__file__).parent / "scripts"
OPTIONS = GenerateOptions(group_size=2, sampling=Sampling(max_tokens=10))


def run_script(name: str, *arguments: str, returncode: int = 0) -> str:
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(SCRIPTS), str(Path.cwd())]))
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / name), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == returncode, done.stderr[-3000:]
    return done.stdout


def test_killed_at_any_named_point_a_rerun_makes_the_bytes_of_an_undisturbed_run(
    tmp_path: Path, tiny_model: str, recorded: EngineOptions, write_sums: Callable[..., str]
) -> None:
    prompts = write_sums(10)

    def run(out: Path) -> shards.Manifest:
        return generate(prompts=prompts, out=str(out), model=tiny_model, engine=recorded, options=OPTIONS)

    undisturbed = run(tmp_path / "undisturbed")
    told = run_script("killed_at.py", prompts, tiny_model, str(tmp_path)).split()
    points = dict(zip(told[::2], told[1::2], strict=True))
    assert set(points.values()) == {"-9"}
    assert len(points) == 5
    for point in points:
        left = shards.pending_parts(shards.load_dataset(str(tmp_path / point))).todo
        assert (len(left) == 0) == point.startswith("in-finalize"), point
        again = run(tmp_path / point)
        assert again == undisturbed, point
        assert [r.data for r in shards.open_dataset(str(tmp_path / point)).parts] == [
            r.data for r in shards.open_dataset(str(tmp_path / "undisturbed")).parts
        ]
        findings = shards.verify(str(tmp_path / point))  # what a killed writer left unnamed is reported, and harmless
        assert [finding for finding in findings if finding.severity != "info"] == []


def test_a_part_that_kills_its_worker_process_is_given_up_and_the_others_are_done(tmp_path: Path) -> None:
    told = run_script("poison.py", str(tmp_path / "out"), "6", "2", "kill", "multi_processing")
    assert "part 2 failed: the worker or its engine died in each of 2 attempts" in told
    dataset = shards.load_dataset(str(tmp_path / "out"))
    assert shards.pending_parts(dataset).todo == (2,)
    assert shards.pending_parts(dataset).failed == (2,)


@pytest.mark.parametrize(("death", "returncode"), [("kill", -signal.SIGKILL), ("exit", 41)])
def test_a_part_that_kills_the_command_itself_is_given_up_by_a_rerun_and_then_tried_afresh(
    tmp_path: Path, death: str, returncode: int
) -> None:
    out = str(tmp_path / "out")

    def killed() -> None:
        run_script("poison.py", out, "6", "2", death, "in_memory", returncode=returncode)

    def pending() -> shards.PendingParts:
        return shards.pending_parts(shards.load_dataset(out))

    for _ in range(2):  # its count, then a new one
        for _ in range(2):
            killed()
        told = run_script("poison.py", out, "6", "2", death, "in_memory")
        assert "part 2 failed: the worker or its engine died in each of 2 attempts" in told
        assert pending().todo == pending().failed == (2,)
    assert run_script("poison.py", out, "6", "-1", death, "in_memory") == ""  # the poison is gone
    assert pending().todo == ()


def test_a_rerun_goes_on_with_the_count_of_a_command_that_was_killed_beside_its_worker(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    run_script("poison.py", out, "6", "2", "kill", "in_memory", returncode=-signal.SIGKILL)
    told = run_script("poison.py", out, "6", "2", "kill", "multi_processing")
    assert "part 2 failed: the worker or its engine died in each of 2 attempts" in told
    assert len([name for name in os.listdir(tmp_path / "out" / "_attempts") if name.startswith("000002-")]) == 2
