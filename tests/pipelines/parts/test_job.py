"""One stage as one Beam job: the graph, the runner's modes, finalizing, what the client is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pass_ops import shards
from pass_ops.errors import NotFinalized, StaleInputError
from pipelines.engines.base import EngineDead, EngineOptions, EngineStartError, Sampling
from pipelines.parts.job import PartOutput, PartWork, Stage, StageAborted, run_stage
from pipelines.parts.loop import in_background
from pipelines.parts.operations import Operations
from pipelines.rollouts.stage import GenerateOptions, generate
from pipelines.runners import JobFailed, RunnerFlagError, RunnerOptions

# What one worker of these tests did, by name of the test's own log; the direct runner works in this process.
LOGS: dict[str, list[Any]] = {}


def one_row(part: int) -> pa.Table:
    row = {"prompt_id": f"p{part}", "prompt": "1", "messages": None, "answer": None, "source": "s", "extra": None}
    return pa.Table.from_pylist([row], schema=shards.PROMPTS)


class Numbers(PartWork):
    """Writes one row a part. faults: part -> exceptions it raises, one an attempt."""

    def __init__(self, log: str, faults: dict[int, list[BaseException]] | None = None) -> None:
        self.log = log
        self.faults = faults or {}

    def setup(self) -> None:
        LOGS.setdefault(self.log, []).append("setup")

    def start(self, part: int) -> Future[PartOutput]:
        LOGS[self.log].append(part)
        return in_background(self._make, part)

    def _make(self, part: int) -> PartOutput:
        attempt = LOGS[self.log].count(part)
        if attempt <= len(self.faults.get(part, [])):
            raise self.faults[part][attempt - 1]
        return PartOutput(table=one_row(part))


class Unstartable(Numbers):
    def setup(self) -> None:
        raise EngineStartError("the engine needs 3 GiB and 1 GiB is free; lower kv_cache_gib")


@pytest.fixture
def log(request: pytest.FixtureRequest) -> str:
    LOGS[request.node.name] = []
    return request.node.name


def dataset(tmp_path: Path, parts: int = 5) -> shards.Dataset:
    spec = shards.DatasetSpec(stage="prompts", stage_version=1, options={}, parts=parts)
    return shards.create_dataset(str(tmp_path / "out"), spec)


def stage(dataset: shards.Dataset, work: Numbers, *, runs_model: bool = False, **options: Any) -> shards.Manifest:
    return run_stage(Stage(dataset=dataset, work=work, runs_model=runs_model), Operations(**options))


def run_record(tmp_path: Path) -> dict[str, Any]:
    return json.loads((tmp_path / "out" / "_run.json").read_text())


def test_every_part_is_done_once_and_the_dataset_is_complete(tmp_path: Path, log: str) -> None:
    manifest = stage(dataset(tmp_path), Numbers(log))
    assert sorted(LOGS[log][1:]) == [0, 1, 2, 3, 4]
    assert manifest.totals["rows"] == 5
    assert shards.open_dataset(str(tmp_path / "out")).content_digest == manifest.content_digest
    assert run_record(tmp_path)["runner"] == "direct"


def test_a_second_run_begins_nothing(tmp_path: Path, log: str) -> None:
    first = stage(dataset(tmp_path), Numbers(log))
    LOGS[log].clear()
    assert stage(dataset(tmp_path), Numbers(log)) == first
    assert LOGS[log] == []


def test_a_part_that_always_raises_fails_alone_and_the_client_is_told(tmp_path: Path, log: str) -> None:
    work = Numbers(log, {2: [ValueError("row 7 is cursed")] * 3})
    with pytest.raises(NotFinalized, match="part 2 failed: ValueError: row 7 is cursed"):
        stage(dataset(tmp_path), work)
    assert shards.pending_parts(dataset(tmp_path)).todo == (2,)
    assert run_record(tmp_path)["finalized"] is False
    assert LOGS[log].count(2) == 3
    assert LOGS[log][-2:] == [2, 2]


def test_the_next_run_tries_a_failed_part_again_and_completes(tmp_path: Path, log: str) -> None:
    work = Numbers(log, {2: [ValueError("not now")] * 3})
    with pytest.raises(NotFinalized):
        stage(dataset(tmp_path), work)
    assert stage(dataset(tmp_path), work).totals["rows"] == 5


def test_max_attempts_is_how_often_a_part_is_tried(tmp_path: Path, log: str) -> None:
    work = Numbers(log, {0: [ValueError("bad")] * 9})
    with pytest.raises(NotFinalized):
        stage(dataset(tmp_path), work, max_attempts=1)
    assert LOGS[log].count(0) == 1


def test_a_worker_that_cannot_start_stops_the_job_with_its_own_words(tmp_path: Path, log: str) -> None:
    with pytest.raises(StageAborted) as caught:
        stage(dataset(tmp_path), Unstartable(log))
    assert "stopped: the engine needs 3 GiB and 1 GiB is free; lower kv_cache_gib. Committed parts" in str(caught.value)
    assert "\n" not in str(caught.value)


class Broken(Numbers):
    def setup(self) -> None:
        raise ZeroDivisionError("in the user's code")


@pytest.mark.parametrize("mode", ["in_memory", "multi_threading"])
def test_an_error_nobody_expected_is_shown_with_the_workers_traceback(
    tmp_path: Path, log: str, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(StageAborted, match="stopped: ZeroDivisionError: in the user's code"):
        stage(dataset(tmp_path), Broken(log), runner=RunnerOptions(flags=(f"--direct_running_mode={mode}",)))
    (shown,) = [record.getMessage() for record in caplog.records if "In a worker" in record.getMessage()]
    assert 'raise ZeroDivisionError("in the user\'s code")' in shown
    assert "apache_beam" not in shown


def test_the_traceback_of_the_first_failed_part_is_shown(
    tmp_path: Path, log: str, caplog: pytest.LogCaptureFixture
) -> None:
    work = Numbers(log, {4: [ValueError("bad four")] * 9, 2: [ValueError("bad two")] * 9})
    with pytest.raises(NotFinalized, match="part 2 failed: ValueError: bad two"):
        stage(dataset(tmp_path), work)
    (shown,) = [record.getMessage() for record in caplog.records if record.name == "pipelines.parts.job"]
    assert shown.startswith("Part 2, on ")
    assert "raise self.faults[part][attempt - 1]\nValueError: bad two" in shown


def test_a_part_that_failed_for_a_named_reason_is_shown_without_a_traceback(
    tmp_path: Path, log: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(NotFinalized, match="part 2 failed: StaleInputError: made anew"):
        stage(dataset(tmp_path), Numbers(log, {2: [StaleInputError("made anew")] * 9}))
    (shown,) = [record.getMessage() for record in caplog.records if record.name == "pipelines.parts.job"]
    assert shown.endswith(":\nStaleInputError: made anew")


def test_the_longest_parts_are_begun_first(tmp_path: Path, log: str) -> None:
    run_stage(Stage(dataset=dataset(tmp_path), work=Numbers(log), costs=[1, 5, 3, 5, 2]), Operations())
    assert [entry for entry in LOGS[log] if entry != "setup"] == [1, 3, 2, 4, 0]


@pytest.mark.parametrize("mode", ["in_memory", "multi_threading"])
def test_memory_used_up_stops_the_job_with_one_line_and_blames_no_part(tmp_path: Path, log: str, mode: str) -> None:
    work = Numbers(log, {3: [MemoryError("cannot allocate 9 GiB")]})
    with pytest.raises(StageAborted, match=r"at part 3: the memory is used up \(cannot allocate 9 GiB\)") as caught:
        stage(dataset(tmp_path), work, runner=RunnerOptions(flags=(f"--direct_running_mode={mode}",)))
    assert "\n" not in str(caught.value)
    pending = shards.pending_parts(dataset(tmp_path))
    assert (pending.suspects, pending.failed) == ((), ())
    assert stage(dataset(tmp_path), work).totals["rows"] == 5


def test_a_dead_engine_is_started_again_and_its_killer_is_found(tmp_path: Path, log: str) -> None:
    work = Numbers(log, {1: [EngineDead("the engine died: CUDA error")] * 3})
    with pytest.raises(NotFinalized, match="part 1 failed: the worker or its engine died in each of 3 attempts"):
        stage(dataset(tmp_path), work)
    assert shards.pending_parts(dataset(tmp_path)).todo == (1,)
    assert LOGS[log].count("setup") == 4


def test_an_interrupt_reaches_the_client_as_one(tmp_path: Path, log: str) -> None:
    class Interrupted(Numbers):
        def start(self, part: int) -> Future[PartOutput]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage(dataset(tmp_path), Interrupted(log))
    assert shards.pending_parts(dataset(tmp_path)).suspects == ()


def test_progress_ends_with_all_parts(tmp_path: Path, log: str) -> None:
    seen: list[tuple[int, int]] = []
    stage(dataset(tmp_path), Numbers(log), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (5, 5)
    assert seen == sorted(seen)


def test_an_unknown_flag_is_refused_with_the_nearest_one(tmp_path: Path, log: str) -> None:
    with pytest.raises(RunnerFlagError, match="did you mean '--direct_num_workers'"):
        stage(dataset(tmp_path), Numbers(log), runner=RunnerOptions(flags=("--direct_num_worker=2",)))
    assert LOGS[log] == []


def test_resource_hints_reach_the_environment_of_a_stage_that_runs_a_model(
    tmp_path: Path, log: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.parts import job
    from pipelines.runners.quiet import beam

    graphs: list[Any] = []

    def capture(construct: Callable[[Any], None], options: RunnerOptions, **job: object) -> None:
        pipeline = beam.Pipeline()
        construct(pipeline)
        graphs.append(pipeline.to_runner_api())
        for part in range(5):
            shards.commit_part(dataset(tmp_path), part, one_row(part))

    monkeypatch.setattr(job, "run_job", capture)
    runner = RunnerOptions(resources={"min_ram": "24GB", "accelerator": "type:nvidia-l4;count:1"})
    stage(dataset(tmp_path), Numbers(log), runner=runner, runs_model=True)
    components = graphs[0].components
    (transform,) = [t for t in components.transforms.values() if t.unique_name == "StageParts/prompts"]
    (inner,) = [components.transforms[name] for name in transform.subtransforms] or [transform]
    hints = components.environments[inner.environment_id].resource_hints
    assert hints["beam:resources:min_ram_bytes:v1"] == b"24000000000"
    assert hints["beam:resources:accelerator:v1"] == b"type:nvidia-l4;count:1"


@pytest.mark.parametrize(
    ("done", "jobs"),
    [([5], 1), ([2, 5], 2), ([0], 1)],
    ids=["all parts were committed", "some were", "none was"],
)
def test_the_rest_of_a_job_that_failed_without_a_word_is_submitted_again_where_it_got_on(
    tmp_path: Path, log: str, monkeypatch: pytest.MonkeyPatch, done: list[int], jobs: int
) -> None:
    """As on a cluster whose TaskManager holds on to a dead worker until its restarts are used up."""
    from pipelines.parts import job

    submitted: list[int] = []

    def fails(construct: Callable[[Any], None], options: RunnerOptions, **job: object) -> None:
        for part in range(done[len(submitted)]):
            shards.commit_part(dataset(tmp_path), part, one_row(part))
        submitted.append(1)
        raise JobFailed("the pipeline failed in state FAILED")

    monkeypatch.setattr(job, "run_job", fails)
    if done[-1] == 5:
        assert stage(dataset(tmp_path), Numbers(log)).totals["rows"] == 5
    else:
        with pytest.raises(StageAborted, match="state FAILED"):
            stage(dataset(tmp_path), Numbers(log))
    assert len(submitted) == jobs


@pytest.mark.parametrize("mode", ["multi_threading", "multi_processing"])
def test_threads_and_processes_make_the_bytes_that_one_thread_makes(
    tmp_path: Path, tiny_model: str, recorded: EngineOptions, write_sums: Callable[..., str], mode: str
) -> None:
    prompts = write_sums(8)
    options = GenerateOptions(group_size=2, sampling=Sampling(max_tokens=10))
    flags = (f"--direct_running_mode={mode}", "--direct_num_workers=2")
    digests = {
        generate(
            prompts=prompts,
            out=str(tmp_path / name),
            model=tiny_model,
            engine=recorded,
            options=options,
            operations=Operations(runner=RunnerOptions(flags=chosen)),
        ).content_digest
        for name, chosen in (("one", ()), ("many", flags))
    }
    assert len(digests) == 1
