"""The transforms of `pipelines.beam` on Flink, whose workers are killed right before they commit, and on Prism."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
from apache_beam.ml.inference.base import RunInference

from deploy.flink.cluster import LocalCluster
from pass_ops import shards
from pipelines.beam import Completion, EngineHandler, ReadShards, Refused, ShapeGroups, WriteShards
from pipelines.engines import EngineOptions, Sampling
from pipelines.runners import RunnerOptions, run_job
from pipelines.runners.quiet import beam
from tests.cluster.conftest import need
from tests.cluster.jobs import external
from tests.pipelines.beam.running import Kept, rollouts, shaped_spec

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]
INJECT = Path(__file__).parent / "inject"
PARTS = 6
GROUPS = [f"q{number}" for number in range(24)]


@pytest.fixture(scope="module")
def killing(tmp_path_factory) -> Iterator[tuple[LocalCluster, Path]]:
    """A cluster whose workers obey orders to die, and the file that the orders are written to."""
    need("java", "mvn", target="flink")
    folder = tmp_path_factory.mktemp("killing")
    order = folder / "order.json"
    root = str(INJECT.parents[2])
    environment = {"FAULT_ORDER": str(order), "PYTHONPATH": os.pathsep.join([str(INJECT), root])}
    with LocalCluster(folder / "cluster", slots=2, pool_environment=environment) as cluster:
        yield cluster, order


def on_flink(cluster: LocalCluster) -> RunnerOptions:
    flags = external(cluster)
    return RunnerOptions(name="flink", flags=tuple(flags[flags.index("--") + 1 :]))


@pytest.fixture(params=["flink", "prism"])
def elsewhere(request) -> RunnerOptions:
    """A runner whose workers are not this process's threads, or whose graph is another."""
    found = request.getfixturevalue(request.param)
    if request.param == "flink":
        return on_flink(found)
    return RunnerOptions(name="prism", flags=(f"--prism_location={found}",))


def shaping(out: Path, rows: list[dict]):
    def construct(pipeline):
        found = pipeline | beam.Create(rows) | ShapeGroups()
        return tuple(found) | WriteShards(str(out), shaped_spec(PARTS), max_reject_rate=0.2)

    return construct


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.rglob("*"))
            if file.is_file() and file.name != "_run.json" and "_attempts" not in file.parts}  # fmt: skip


@pytest.mark.parametrize("point", ["/part-", "/_done/", "/_manifest-"])
def test_a_worker_killed_before_a_commit_loses_nothing_and_writes_nothing_twice(point, killing, tmp_path):
    cluster, order = killing
    rows = [*rollouts(*GROUPS), {**rollouts("bad")[0], "loss_mask": [True]}]
    run_job(shaping(tmp_path / "undisturbed", rows), RunnerOptions())
    out = tmp_path / "killed"
    order.write_text(json.dumps({"point": f"^create .*/killed/?{point}", "victim": "worker", "pid": 0}))
    run_job(shaping(out, rows[::-1]), on_flink(cluster))
    assert not order.exists(), "no worker came to the point"
    assert files(out) == files(tmp_path / "undisturbed")
    assert [finding for finding in shards.verify(str(out)) if finding.severity == "error"] == []
    dataset = shards.open_dataset(str(out))
    ids = [row for part in range(PARTS) for row in dataset.read_part(part)["rollout_id"].to_pylist()]
    assert sorted(ids) == sorted(row["rollout_id"] for row in rows[:-1])
    assert dataset.manifest.rejected == {"length_mismatch": 1}


def test_a_dataset_goes_through_the_runner_and_back(elsewhere, tmp_path):
    """Shaped and written by its workers, bit for bit; read by them, shaped again as tables of whole groups, written."""
    rows = rollouts(*GROUPS)
    run_job(shaping(tmp_path / "here", rows), RunnerOptions())
    run_job(shaping(tmp_path / "one", rows), elsewhere)
    assert files(tmp_path / "one") == files(tmp_path / "here")

    def construct(pipeline):
        found = pipeline | ReadShards(str(tmp_path / "one")) | ShapeGroups(elements="tables")
        return found.shaped | WriteShards(str(tmp_path / "two"), shaped_spec(2))

    run_job(construct, elsewhere)
    one, two = (shards.open_dataset(str(tmp_path / name)) for name in ("one", "two"))

    def by_id(dataset):
        return {row["rollout_id"]: row for part in range(dataset.spec.parts)
                for row in dataset.read_part(part).to_pylist()}  # fmt: skip

    assert by_id(one) == by_id(two)


def test_requests_are_answered_on_the_runners_workers_as_here(elsewhere, tiny_model, tmp_path):
    """One of them is refused, and costs no other."""
    asked = [*({"prompt": f"{n}+1=", "seed": n} for n in range(24)), {"prompt": "1+1="}]
    engine = EngineOptions(kind="recorded", recording="synthetic:3")
    handler = EngineHandler(tiny_model, engine, sampling=Sampling(max_tokens=12), max_batch_size=8)

    def answered(folder: Path, runner: RunnerOptions) -> list:
        folder.mkdir()
        run_job(
            lambda pipeline: pipeline | beam.Create(asked) | RunInference(handler) | beam.ParDo(Kept(str(folder))),
            runner,
        )
        found = [pickle.loads(file.read_bytes()) for file in folder.iterdir()]
        return sorted(found, key=lambda answer: answer.example.get("seed", -1))

    there, here = answered(tmp_path / "there", elsewhere), answered(tmp_path / "here", RunnerOptions())
    assert [answer.inference for answer in there] == [answer.inference for answer in here]
    assert [answer.example for answer in there] == [asked[-1], *asked[:-1]]
    assert isinstance(there[0].inference, Refused)
    assert all(isinstance(answer.inference, Completion) for answer in there[1:])
