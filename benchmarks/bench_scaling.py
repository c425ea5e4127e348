"""How a Flink job gets faster with SDK workers: one JSON object a line. Needs Java and Maven (`make flink`).

    python benchmarks/bench_scaling.py [--workers 1 2 4] [--parts 200] [--seconds 1.0] [--skewed]

Parts of a fixed latency (the recorded engine sleeps where a GPU would compute), one in flight a worker. value: from
the first attempt to the last marker, so that submission is apart. against: parts x seconds / workers, what there is to
sleep. --skewed: parts of 1 to 9 times the seconds, in random order, with and without their costs known beforehand.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import pyarrow as pa

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.rows import prompt_row  # noqa: E402
from deploy.flink.cluster import CACHE, LocalCluster  # noqa: E402
from pass_ops import shards  # noqa: E402
from pipelines.parts.job import Stage, run_stage  # noqa: E402
from pipelines.parts.loop import PartOutput, PartWork, in_background  # noqa: E402
from pipelines.parts.operations import Operations  # noqa: E402
from pipelines.runners import RunnerOptions  # noqa: E402


class Sleeping(PartWork):
    """A part is a sleep and one row; seconds: of each part."""

    def __init__(self, seconds: Sequence[float]) -> None:
        self._seconds = tuple(seconds)

    def setup(self) -> None:
        """Nothing."""

    def start(self, part: int) -> Future[PartOutput]:
        """Sleep in the background."""
        return in_background(self._sleep, part)

    def _sleep(self, part: int) -> PartOutput:
        time.sleep(self._seconds[part])
        return PartOutput(table=pa.Table.from_pylist([prompt_row(part)], schema=shards.PROMPTS))


def window(folder: Path) -> float:
    """Seconds from the first attempt to the last marker, by the files' times."""
    first = min(entry.stat().st_mtime for entry in os.scandir(folder / "_attempts"))
    return max(entry.stat().st_mtime for entry in os.scandir(folder / "_done")) - first


def timed(cluster: LocalCluster, seconds: Sequence[float], *, workers: int, costs: Sequence[int] = ()) -> float:
    """The window of one job."""
    folder = Path(tempfile.mkdtemp(prefix="passrl-scaling-"))
    spec = shards.DatasetSpec(stage="prompts", stage_version=1, options={}, parts=len(seconds))
    flags = (
        *(f"--job_endpoint={cluster.job_endpoint}", "--environment_type=EXTERNAL"),
        *(f"--environment_config={cluster.pool_endpoint}", f"--parallelism={workers}"),
        f"--sdk_worker_parallelism={workers}",
    )
    operations = Operations(parts_in_flight=1, runner=RunnerOptions(name="flink", flags=flags))
    dataset = shards.create_dataset(str(folder / "out"), spec)
    run_stage(Stage(dataset=dataset, work=Sleeping(seconds), costs=costs), operations)
    return window(folder / "out")


def report(metric: str, value: float, ideal: float, sizes: dict[str, object]) -> None:
    """One line."""
    line = {"metric": metric, "value": round(value, 1), "unit": "s", "against": round(ideal, 1)}
    print(json.dumps(line | {"ratio": round(value / ideal, 3), **sizes}), flush=True)


def main() -> None:
    """Every number of workers in turn on one cluster."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--parts", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--skewed", action="store_true")
    options = parser.parse_args()
    sizes: dict[str, object] = {"parts": options.parts, "seconds_a_part": options.seconds}
    if not list((CACHE / "jars").glob("*.jar")):
        print(
            "bench_scaling: skipped, there is no Flink here: `make flink` fetches it (Java 17, Maven)", file=sys.stderr
        )
        return
    with LocalCluster(Path(tempfile.mkdtemp(prefix="passrl-flink-")), slots=max(options.workers)) as cluster:
        for workers in options.workers:
            if options.skewed:
                chances = random.Random(0)
                costs = [chances.choice([1, 1, 1, 2, 3, 9]) for _ in range(options.parts)]
                seconds = [options.seconds * cost for cost in costs]
                ideal = sum(seconds) / workers
                report(f"flink_skewed_{workers}_workers", timed(cluster, seconds, workers=workers), ideal, sizes)
                known = timed(cluster, seconds, workers=workers, costs=costs)
                report(f"flink_skewed_longest_first_{workers}_workers", known, ideal, sizes)
                continue
            value = timed(cluster, [options.seconds] * options.parts, workers=workers)
            ideal = options.parts * options.seconds / workers
            overhead = 1000 * (value - ideal) * workers / options.parts
            report(f"flink_{workers}_workers", value, ideal, sizes | {"overhead_ms_a_part": round(overhead, 1)})


if __name__ == "__main__":
    main()
