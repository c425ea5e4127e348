"""A real vLLM engine that a worker pool keeps through the jobs of two rounds on a Flink cluster."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.flink.cluster import LocalCluster
from pass_ops import shards
from pipelines.cli.parser import main
from tests.cluster.jobs import ClusterProject, external

pytestmark = pytest.mark.cluster

# A cache of this size is no other test's, so that none of their engines is found. One rollout at a time: bits that do
# not depend on how batches form.
ENGINE = (
    *("engine.kind=vllm", "engine.dtype=float32", "engine.kv_cache_gib=0.3", "engine.max_num_seqs=16"),
    *("engine.deterministic=true", "engine.max_model_len=256"),
)
SIGNAL = '\n[signals.policy]\nsignal = "logprobs"\n'
HAS = re.compile(r"a worker has the engine on (\S+): waited ([\d.]+) s for others, then ([\d.]+) s for it")


@pytest.fixture
def vllm_project(tmp_path: Path, tiny_model: str, tiny_model_updated: str) -> ClusterProject:
    made = ClusterProject.make(tmp_path, tiny_model, prompts=16)
    config = Path(made.config)
    config.write_text(config.read_text() + SIGNAL)
    shutil.copytree(tiny_model_updated, tmp_path / "next")
    return made


class Rounds:
    """Commands of two rounds, and what the pool says of each."""

    def __init__(self, project: ClusterProject, cluster: LocalCluster) -> None:
        self._project, self._cluster = project, cluster
        self._settings = [flag for setting in ENGINE for flag in ("--set", setting)]

    def run(self, name: str, model: str, runner: list[str], stages: tuple[str, ...]) -> list[Job]:
        policy = f"policy.model={self._project.folder / model}"
        return [self._job(stage, name, ["--set", policy, *runner]) for stage in stages]

    def digests(self, name: str) -> dict[str, str]:
        return self._project.digests(name)

    def _job(self, stage: str, name: str, flags: list[str]) -> Job:
        before, started = len(self._cluster.pool_log()), time.monotonic()
        chosen = ["--signal", "policy"] if stage == "score" else []
        out = str(self._project.folder / name)
        assert main([stage, self._project.config, "--out", out, *chosen, *self._settings, *flags]) == 0
        said = self._cluster.pool_log()[before:]
        return Job(said, seconds=time.monotonic() - started)


class Job:
    """starts: engines that the pool started for it; waits: seconds until each of its workers had one."""

    def __init__(self, said: str, *, seconds: float) -> None:
        self.seconds = seconds
        self.starts = said.count("started an engine of kind vllm")
        self.waits = [float(found[2]) for found in HAS.findall(said)]


def test_the_jobs_of_two_rounds_start_one_engine(
    vllm_project: ClusterProject, flink: LocalCluster, record_property: Callable[[str, object], None]
) -> None:
    rounds = Rounds(vllm_project, flink)
    stages = ("generate", "score")
    first = rounds.run("first", "model", external(flink), stages)
    engines = flink.engine_pids()
    second = rounds.run("second", "next", external(flink), stages)
    jobs = [*first, *second]
    record_property("jobs", json.dumps([{"seconds": j.seconds, "starts": j.starts, "waits": j.waits} for j in jobs]))
    assert [job.starts for job in jobs] == [1, 0, 0, 0]
    assert flink.engine_pids() == engines, "the same process all the time"
    start = max(first[0].waits)
    for job in jobs[1:]:
        assert job.waits, "it ran on the kept engine"
        assert max(job.waits) < start / 3
    for name, model in (("first", "model"), ("second", "next")):
        rounds.run(f"direct-{name}", model, [], stages)
        assert rounds.digests(name) == rounds.digests(f"direct-{name}")
    assert rounds.digests("first")["rollouts"] != rounds.digests("second")["rollouts"]


def test_a_killed_engine_is_replaced_and_the_job_goes_on(vllm_project: ClusterProject, flink: LocalCluster) -> None:
    rounds = Rounds(vllm_project, flink)
    rounds.run("undisturbed", "model", external(flink), ("generate",))
    (killed,) = flink.engine_pids()
    done = Path(vllm_project.folder / "killed" / "round-000" / "rollouts" / "_done")

    def strike() -> None:
        until = time.monotonic() + 300
        while time.monotonic() < until and not (done.exists() and any(done.iterdir())):
            time.sleep(0.02)
        os.kill(killed, signal.SIGKILL)

    striker = threading.Thread(target=strike)
    striker.start()
    rounds.run("killed", "model", external(flink), ("generate",))
    striker.join()
    assert flink.engine_pids() != [killed]
    assert rounds.digests("killed") == rounds.digests("undisturbed")
    assert shards.verify(str(done.parent)) == []
