"""What a person at the terminal sees of a job on a cluster, and what becomes of a job whose client is gone."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pass_ops import shards
from pipelines.cli.parser import main
from tests.cluster.jobs import external, loopback
from tests.e2e.killing import finished, passrl

pytestmark = pytest.mark.cluster

SLOW = ["--set", "engine.extra.latency=1.5", "--set", "operations.parts_in_flight=1"]


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 240
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)


class Generating:
    """`passrl generate` in a process of its own, on a cluster."""

    def __init__(self, project, name: str, runner: list[str]) -> None:
        self.out = str(project.folder / name)
        self.rollouts = f"{self.out}/round-000/rollouts"
        self.log = Path(f"{self.out}.log")
        self._command = ["generate", project.config, "--out", self.out, *SLOW, *runner]
        self.client = passrl(self._command, str(self.log))

    def committed(self) -> int:
        done = Path(self.rollouts, "_done")
        return len(list(done.iterdir())) if done.exists() else 0

    def again(self) -> str:
        """The same command in another process, to its end; the job's id that it tells of."""
        self.client = passrl(self._command, str(self.log))
        self.client.join(240)
        assert self.client.exitcode == 0, self.log.read_text()
        return self.job()["id"]

    def job(self) -> dict[str, str]:
        return dict(json.loads(Path(self.rollouts, "_run.json").read_text())["job"])


def test_status_follows_a_running_job(project, flink, capsys):
    work = Generating(project, "status", external(flink))
    until(lambda: 0 < work.committed() < 10)
    assert main(["status", work.out, "--json"]) == 0
    (_, rollouts) = json.loads(capsys.readouterr().out)["datasets"]
    assert rollouts["stage"] == "generate"
    assert rollouts["complete"] is False
    assert 0 < rollouts["done"] < rollouts["parts"] == 10
    work.client.join(240)
    assert work.client.exitcode == 0


@pytest.mark.parametrize("workers", [external, loopback])
def test_a_rerun_ends_the_job_of_a_killed_client_and_goes_on_from_what_it_committed(project, flink, workers):
    work = Generating(project, f"killed-{workers.__name__}", workers(flink))
    until(lambda: work.committed() > 1)
    work.client.kill()
    work.client.join()
    submitted = work.job()["id"]
    assert work.again() != submitted
    assert f"job {submitted} of an earlier command is cancelled" in work.log.read_text()
    until(lambda: flink.overview()["jobs-running"] == 0)
    # A client that is killed with its workers inside may leave a half-written temporary file, which harms nothing.
    harmless = {"orphan"} if workers is loopback else set()
    assert [finding for finding in shards.verify(work.rollouts) if finding.code not in harmless] == []


def test_an_interrupt_cancels_the_job(project, flink):
    work = Generating(project, "interrupted", external(flink))
    until(lambda: work.committed() > 1)
    os.kill(work.client.pid, signal.SIGINT)
    work.client.join(240)
    assert work.client.exitcode == 130
    assert "interrupted; what is committed stays" in work.log.read_text()
    until(lambda: flink.overview()["jobs-running"] == 0)


def test_a_part_that_fails_on_a_worker_is_told_with_its_traceback(project, flink):
    config = Path(project.config)
    raising = config.with_name("raising.toml")
    raising.write_text(config.read_text() + '\n[signals.raising]\nsignal = "tests.cluster.raising:Raising"\n')
    out, log = str(project.folder / "raising"), str(project.folder / "raising.log")
    project.run("raising", stages=["generate"])
    command = ["score", str(raising), "--out", out, "--signal", "raising", *external(flink)]
    assert finished(command, log) == 1
    told = Path(log).read_text()
    assert "part 3 failed: ZeroDivisionError: answer 13" in told
    assert 'raise ZeroDivisionError(f"answer {answer}")' in told
    assert shards.status(f"{out}/round-000/signals/raising").datasets[0].failed == 1
