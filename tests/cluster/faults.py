"""SIGKILL on a running Flink job, from a seeded list: the dataset comes out complete, the bytes of an undisturbed one.

    python -m tests.cluster.faults --report docs/explanation/measured/faults.md  # what `make faults` runs

A job meets up to three faults, one after another. Each falls once so many parts are committed: at any moment, or right
before an operation of the commit protocol (by tests/cluster/inject, in the workers alone).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from deploy.flink.cluster import LocalCluster
from pass_ops import shards
from tests.cluster.jobs import ClusterProject, external
from tests.e2e.killing import passrl

PARTS = 24
SECONDS_A_PART = 1.0
FAULTS_A_JOB = 3
WAIT_SECONDS = 600
FIFTY = {"worker": 20, "pool": 12, "taskmanager": 8, "client": 10}
ANY_MOMENT = "at any moment"
# A named point is right before the store operation that the pattern is found in.
POINTS = {
    "before a part's data": r"^create .*/rollouts/part-",
    "between data and marker": r"^create .*/rollouts/_done/",
    "before an attempt is recorded": r"^create .*/rollouts/_attempts/",
    "in finalize, before the list of parts": r"^create .*/rollouts/_parts-",
    "in finalize, before the manifest": r"^create .*/rollouts/_manifest-",
}
AT_THE_END = tuple(name for name in POINTS if "finalize" in name)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """kind: what is killed (worker, pool, taskmanager, client). point: when, once `after` parts are committed."""

    kind: str
    point: str
    after: int


def plan(seed: int, counts: Mapping[str, int] = FIFTY) -> list[tuple[Fault, ...]]:
    """The faults of each job, in order: half of them at any moment, the others spread over the named points."""
    chances = random.Random(seed)
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    chances.shuffle(kinds)
    names = list(POINTS)
    jobs = []
    for start in range(0, len(kinds), FAULTS_A_JOB):
        chosen = kinds[start : start + FAULTS_A_JOB]
        points = [chances.choice(names) if chances.random() < 0.5 else ANY_MOMENT for _ in chosen]
        points.sort(key=lambda point: point in AT_THE_END)  # the end comes last, and once
        points = [ANY_MOMENT if point in AT_THE_END else point for point in points[:-1]] + points[-1:]
        step = (PARTS - 4) // len(chosen)
        jobs.append(
            tuple(
                Fault(kind=kind, point=point, after=i * step + chances.randrange(step))
                for i, (kind, point) in enumerate(zip(chosen, points, strict=True))
            )
        )
    return jobs


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a job with faults ended. seconds: from its submission to its end."""

    faults: tuple[Fault, ...]
    complete: bool
    same_bytes: bool
    seconds: float


class Arena:
    """A cluster whose workers can be told to kill, a project, and what an undisturbed job makes of it."""

    def __init__(self, folder: Path, model: str, cluster: LocalCluster, order: Path) -> None:
        self.cluster = cluster
        self._order = order
        self._folder = folder
        self._project = ClusterProject.make(folder, model, prompts=4 * PARTS)
        started = time.monotonic()
        self._end(self._client("undisturbed"), "undisturbed")
        self.seconds = time.monotonic() - started
        self.digest = shards.open_dataset(self._rollouts("undisturbed")).content_digest

    def run(self, name: str, faults: Sequence[Fault]) -> Outcome:
        """One job and its faults. Raises AssertionError where a fault could not be brought about."""
        prompts = self._folder / "undisturbed" / "round-000" / "prompts"
        shutil.copytree(prompts, self._folder / name / "round-000" / "prompts")
        started = time.monotonic()
        client = self._client(name)
        for fault in faults:
            _until(lambda after=fault.after: self._committed(name) >= after, "parts are committed", client)
            self._strike(fault, client)
            if fault.kind == "client":
                client.join()
                client = self._client(name)
        self._end(client, name)
        findings = [finding for finding in shards.verify(self._rollouts(name)) if finding.severity == "error"]
        digest = shards.open_dataset(self._rollouts(name)).content_digest
        return Outcome(
            faults=tuple(faults),
            complete=not findings,
            same_bytes=digest == self.digest,
            seconds=time.monotonic() - started,
        )

    def _strike(self, fault: Fault, client: BaseProcess) -> None:
        cluster, pid = self.cluster, client.pid or 0
        if fault.point == ANY_MOMENT:
            time.sleep(random.Random(repr(fault)).uniform(0, SECONDS_A_PART))
            if fault.kind == "worker":
                _until(self._kill_worker, "a worker runs", client)
            elif fault.kind == "client":
                client.kill()
            else:
                cluster.kill(fault.kind)
            return
        victim = cluster.pid("taskmanager") if fault.kind == "taskmanager" else pid
        order = {"point": POINTS[fault.point], "victim": fault.kind, "pid": victim}
        partial = self._order.with_suffix(".partial")
        partial.write_text(json.dumps(order))
        partial.rename(self._order)
        _until(lambda: not self._order.exists(), f"a worker comes to {fault.point!r}", client)

    def _kill_worker(self) -> bool:
        """Kill a worker; False where none is running just then."""
        with suppress(ProcessLookupError, IndexError):
            os.kill(self.cluster.worker_pids()[0], 9)
            return True
        return False

    def _client(self, name: str) -> BaseProcess:
        settings = [
            f"engine.extra.latency={SECONDS_A_PART}",
            "engine.max_num_seqs=16",  # of 12 requests a part, what keeps two parts of a worker under way
            "operations.max_attempts=20",
        ]
        flags = [flag for setting in settings for flag in ("--set", setting)]
        command = ["generate", self._project.config, "--out", str(self._folder / name), *flags]
        return passrl([*command, *external(self.cluster)], self._log(name))

    def _end(self, client: BaseProcess, name: str) -> None:
        client.join(WAIT_SECONDS)
        assert client.exitcode == 0, f"exit code {client.exitcode}: {Path(self._log(name)).read_text()}"

    def _committed(self, name: str) -> int:
        with suppress(FileNotFoundError):
            return len(os.listdir(Path(self._rollouts(name)) / "_done"))
        return 0

    def _rollouts(self, name: str) -> str:
        return str(self._folder / name / "round-000" / "rollouts")

    def _log(self, name: str) -> str:
        return str(self._folder / f"{name}.log")


@contextmanager
def arena(folder: Path, model: str) -> Iterator[Arena]:
    """An Arena on a cluster of its own."""
    order = folder / "order.json"
    inject = str(Path(__file__).with_name("inject"))
    environment = {"PYTHONPATH": inject, "FAULT_ORDER": str(order)}
    with LocalCluster(folder / "cluster", slots=2, pool_environment=environment) as cluster:
        yield Arena(folder, model, cluster, order)


def table(outcomes: Sequence[Outcome], *, seed: int, undisturbed: float) -> str:
    """A page about the outcomes: one row a kind and point, then the jobs' times."""
    faults = sum(len(outcome.faults) for outcome in outcomes)
    rows = Counter((fault.kind, fault.point, o.complete, o.same_bytes) for o in outcomes for fault in o.faults)
    lines = [
        "# Faults on Flink",
        "",
        f"Written by `make faults`: {faults} faults in {len(outcomes)} jobs, seed {seed}. Each job generates",
        f"{PARTS} parts of {SECONDS_A_PART:.0f} s (recorded engine) on two SDK workers and takes up to {FAULTS_A_JOB}",
        "SIGKILLs. Same bytes: the content digest equals that of the undisturbed job.",
        "",
        "| killed | when | faults | dataset complete | same bytes |",
        "| --- | --- | --- | --- | --- |",
    ]
    for kind, point in sorted({(kind, point) for kind, point, _, _ in rows}):
        mine = {key: count for key, count in rows.items() if key[:2] == (kind, point)}
        complete = sum(count for key, count in mine.items() if key[2])
        same = sum(count for key, count in mine.items() if key[3])
        lines.append(f"| {kind} | {point} | {sum(mine.values())} | {complete} | {same} |")
    seconds = sorted(outcome.seconds for outcome in outcomes)
    lines += [
        "",
        f"An undisturbed job took {undisturbed:.0f} s, one with faults {seconds[len(seconds) // 2]:.0f} s in the",
        f"median and {seconds[-1]:.0f} s at most, submission included.",
    ]
    return "\n".join(lines) + "\n"


def _until(holds: Callable[[], object], what: str, client: BaseProcess) -> None:
    """Wait; fails where the client ends or ten minutes pass first."""
    until = time.monotonic() + WAIT_SECONDS
    while not holds():
        assert client.exitcode is None, f"the job ended before {what}"
        assert time.monotonic() < until, f"waited {WAIT_SECONDS} s until {what}"
        time.sleep(0.05)


def main() -> int:
    """Exit code 1 where a dataset is not complete or has other bytes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, required=True, help="Markdown file to write")
    parser.add_argument("--jobs", type=int, help="only the first so many of the list's jobs")
    options = parser.parse_args()
    from tests.conftest import make_tiny_model

    folder = Path(tempfile.mkdtemp(prefix="passrl-faults-"))
    outcomes = []
    with arena(folder, make_tiny_model(folder / "tiny", seed=1)) as place:
        for index, faults in enumerate(plan(options.seed)[: options.jobs]):
            outcome = place.run(f"job-{index}", faults)
            print(json.dumps({"job": index, **asdict(outcome)}), flush=True)
            outcomes.append(outcome)
        undisturbed = place.seconds
    options.report.write_text(table(outcomes, seed=options.seed, undisturbed=undisturbed))
    shutil.rmtree(folder)
    return 0 if all(outcome.complete and outcome.same_bytes for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
