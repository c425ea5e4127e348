"""However a job ends, its engines end with it: every process it started is looked for by a mark in its environment."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pass_ops import shards
from tests.processes import MARK, Process, marked, wait_until

SCRIPT = Path(__file__).parent / "scripts" / "generating.py"
WORKERS = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
PARTS, ROWS = 6, 2 * 8  # a part: 2 prompts x 8 rollouts


class Job:
    """A process of ours and all that it starts, known by a mark in the environment. gate: see `scripts/gate.py`."""

    def __init__(self, *arguments: str, gate: Path) -> None:
        self._mark = uuid.uuid4().hex
        paths = os.pathsep.join([str(SCRIPT.parent), str(Path.cwd())])
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), *arguments],
            env=dict(os.environ, PYTHONPATH=paths, GATE=str(gate)) | {MARK: self._mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def alive(self) -> list[Process]:
        """Every process that bears the mark and has not ended."""
        return marked(self._mark)

    def end(self) -> tuple[int, str]:
        """Wait for the process itself; its exit code and what it printed."""
        printed, _ = self.process.communicate(timeout=900)
        return self.process.returncode, printed

    def leaves_nothing(self) -> bool:
        """Whether everything it started ends within a while."""
        until = time.monotonic() + 300
        while self.alive() and time.monotonic() < until:
            time.sleep(0.1)
        return not self.alive()


@pytest.fixture
def start(write_sums: Callable[..., str], tiny_model: str, tmp_path: Path) -> Iterator[Callable[..., Job]]:
    jobs: list[Job] = []
    prompts = write_sums(2 * PARTS, prompts_per_part=2)

    def begin(*flags: str, engine: str = "recorded") -> Job:
        jobs.append(Job(engine, prompts, tiny_model, str(tmp_path / "out"), *flags, gate=tmp_path / "gate"))
        return jobs[-1]

    yield begin
    for job in jobs:
        for process in job.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)


def until_committed(job: Job, out: Path) -> None:
    """Wait until a part is committed. The job does not end before its gate is opened."""
    while not list((out / "_done").glob("*")):
        assert job.process.poll() is None, job.end()
        time.sleep(0.02)


def workers(job: Job) -> list[int]:
    """Beam's worker processes, without the shells that started them, and without a fork that has yet to become else."""
    found = [p for p in job.alive() if "sdk_worker" in p.command and not p.command.startswith("/bin/sh")]
    pids = {process.pid for process in found}
    return [process.pid for process in found if process.parent not in pids]


def test_a_job_killed_in_the_middle_leaves_no_process(start: Callable[..., Job], tmp_path: Path) -> None:
    job = start()
    until_committed(job, tmp_path / "out")
    job.process.kill()
    assert job.end()[0] == -signal.SIGKILL
    assert job.leaves_nothing(), job.alive()


def test_a_killed_worker_is_replaced_nothing_is_doubled_and_no_engine_stays(
    start: Callable[..., Job], tmp_path: Path
) -> None:
    job = start(*WORKERS, engine="vllm")
    until_committed(job, tmp_path / "out")
    wait_until(lambda: len(workers(job)) == 2)  # one process a worker, each with its own engine
    os.kill(workers(job)[0], signal.SIGKILL)
    (tmp_path / "gate").touch()
    code, printed = job.end()
    assert code == 0, printed[-3000:]
    assert job.leaves_nothing(), job.alive()
    dataset = shards.open_dataset(str(tmp_path / "out"))
    ids = [i for part in range(PARTS) for i in dataset.read_part(part)["rollout_id"].to_pylist()]
    assert len(ids) == len(set(ids)) == PARTS * ROWS
    assert [f for f in shards.verify(str(tmp_path / "out")) if f.severity != "info"] == []


def test_workers_end_with_a_client_that_is_killed(start: Callable[..., Job], tmp_path: Path) -> None:
    job = start(*WORKERS)
    until_committed(job, tmp_path / "out")
    assert workers(job)
    job.process.kill()
    job.end()
    assert job.leaves_nothing(), job.alive()
