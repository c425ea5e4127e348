"""Projects for a cluster and the flags of each way to run them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.flink.cluster import LocalCluster
from pipelines.cli.parser import main
from tests.e2e.project import make_project

STAGES = ("generate", "score", "shape")


@dataclass(frozen=True, kw_only=True)
class ClusterProject:
    """A configuration, and the folder its runs go to."""

    config: str
    folder: Path

    @classmethod
    def make(cls, folder: Path, model: str, *, prompts: int = 40) -> ClusterProject:
        """The small project of the end-to-end tests with more prompts, four a part."""
        project = make_project(folder, model)
        rows = [{"prompt": f"{10 + i}a+3b-2?", "answer": str(i)} for i in range(prompts)]
        project.write("prompts.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        return cls(config=project.config, folder=folder)

    def run(self, name: str, runner: Sequence[str] = (), *, stages: Sequence[str] = STAGES) -> dict[str, str]:
        """Run the stages in this process and return each dataset's content digest."""
        for stage in stages:
            assert main([stage, self.config, "--out", str(self.folder / name), *runner]) == 0
        return self.digests(name)

    def digests(self, name: str) -> dict[str, str]:
        """Dataset -> content digest, from the run's lineage."""
        lineage = json.loads((self.folder / name / "lineage.json").read_text())
        return dict(lineage["rounds"][0]["datasets"])


def loopback(cluster: LocalCluster) -> list[str]:
    """On Flink, workers in the client."""
    return ["--runner", "flink", "--", f"--job_endpoint={cluster.job_endpoint}", "--parallelism=2"]


def external(cluster: LocalCluster, workers: int = 2) -> list[str]:
    """On Flink, worker processes from the pool."""
    return [*loopback(cluster)[:-1], f"--parallelism={workers}", "--environment_type=EXTERNAL",
            f"--environment_config={cluster.pool_endpoint}", f"--sdk_worker_parallelism={workers}"]  # fmt: skip


def process(cluster: LocalCluster, worker: str) -> list[str]:
    """On Flink, worker processes started by the TaskManager."""
    return [*loopback(cluster), "--environment_type=PROCESS", f"--environment_config={json.dumps({'command': worker})}"]
