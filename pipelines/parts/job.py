"""Every stage is one Beam job over part numbers: Create -> Reshuffle -> the part driver -> count -> finalize.

Payloads never enter the graph: an element is a plain int, and the worker that holds it reads, computes
and commits the part.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from pass_ops import shards
from pass_ops.errors import NotFinalized, PassError
from pass_ops.shards import Dataset, Manifest, PendingParts, names
from pass_ops.shards.commit import parts_in
from pass_ops.shards.documents import json_object
from pass_ops.support.importing import extend_import_path
from pipelines.engines import use_gpus
from pipelines.parts.attempts import attempts_made
from pipelines.parts.job_record import job_record
from pipelines.parts.loop import PartLoop, PartOutput, PartWork, Stage, StageAborted, in_background
from pipelines.parts.operations import Operations, Progress
from pipelines.runners import JobFailed, run_job
from pipelines.runners.gpus import GivenGpus
from pipelines.runners.quiet import beam, pickler

__all__ = ["PartDriver", "PartOutput", "PartWork", "Stage", "StageAborted", "StageParts", "in_background", "run_stage"]

# The element that stands for all parts with an earlier attempt: one worker takes them, one after another, so that a
# part that kills its worker is not held against an innocent one beside it.
SUSPECTS = -1
# So many times one command resubmits the rest of a job that was lost. FnApiRunner restarts nothing by itself, and a
# Flink job gives up where its TaskManager holds on to a dead worker: a new job starts new ones.
MAX_RESTARTS = 10
_MARK = "@@@"
_LOG = logging.getLogger(__name__)


class PartDriver(beam.DoFn):
    """A `PartLoop` as a DoFn: offered one part number at a time, drained at the end of the bundle."""

    def __init__(
        self,
        dataset: Dataset,
        work: PartWork,
        *,
        suspects: Sequence[int],
        parts_in_flight: int | None,
        max_attempts: int,
        modules: Sequence[str] = (),
        gpus: GivenGpus | None = None,
    ) -> None:
        self.dataset = dataset
        self._work = work
        self._modules = tuple(modules)
        self._suspects = tuple(suspects)
        self._parts_in_flight = parts_in_flight
        self._max_attempts = max_attempts
        self._gpus = gpus
        self._loop: PartLoop | None = None

    def __getstate__(self) -> dict[str, Any]:
        """The work as bytes of its own: reading them may import the user's modules, which must be found by then."""
        return {**self.__dict__, "_work": pickler.dumps(self._work)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        extend_import_path(state["_modules"])
        self.__dict__.update(state, _work=pickler.loads(state["_work"]))

    def setup(self) -> None:
        """Once a worker: acquire the engine, open the inputs."""
        with self._telling():
            use_gpus(self._gpus)
            self._work.setup()

    def start_bundle(self) -> None:
        """A new bundle has nothing in flight."""
        self._loop = PartLoop(
            dataset=self.dataset,
            work=self._work,
            parts_in_flight=self._parts_in_flight,
            max_attempts=self._max_attempts,
        )

    def process(self, element: int) -> Iterator[int]:
        """Begin one part; waits only for room among those in flight."""
        assert self._loop is not None
        with self._telling():
            if element == SUSPECTS:
                self._loop.defer(self._suspects)
            else:
                self._loop.offer(element)
        yield 1

    def finish_bundle(self) -> None:
        """Complete what is in flight, then run the deferred parts alone."""
        assert self._loop is not None
        with self._telling():
            self._loop.drain()

    def teardown(self) -> None:
        """Also called when the job stops midway: parts in flight are not to blame."""
        if self._loop is not None:
            self._loop.abandon()

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Whatever stops the job leaves the worker as one marked line: of an exception, runners keep only the text."""
        try:
            yield
        except Exception as error:
            known = isinstance(error, PassError | OSError | MemoryError)
            cause = str(error) if known and str(error) else f"{type(error).__name__}: {error}"
            if not isinstance(error, StageAborted):
                cause = f"{self.dataset.spec.stage} of {self.dataset.url} stopped: {cause}"
            told = {"cause": cause, "trace": "" if known else "".join(traceback.format_exception(error))}
            raise StageAborted(f"{_MARK}{json.dumps(told)}{_MARK}") from error


class Finalize(beam.DoFn):
    """Writes the manifest as the job's last step, so that a job whose client is gone still completes. Never raises."""

    def __init__(self, dataset: Dataset, *, max_reject_rate: float) -> None:
        self._dataset = dataset
        self._max_reject_rate = max_reject_rate

    def process(self, _parts: int) -> Iterator[str]:
        """Finalize and give the dataset's URL, or leave the reasons in _run.json for whoever looks and give nothing."""
        try:
            shards.finalize(self._dataset, max_reject_rate=self._max_reject_rate)
            yield self._dataset.url
        except (PassError, OSError) as error:
            reasons = list(getattr(error, "reasons", [str(error)]))
            with suppress(PassError, OSError):
                shards.record_run(self._dataset, {"finalized": False, "not_finalized": reasons})


class StageParts(beam.PTransform):
    """The pending parts of a stage inside a pipeline: PBegin -> the dataset's URL, once it is finalized.

    With it a stage is a step of a pipeline of your own; what it lacks of `run_stage` is a client that resubmits a lost
    job, shows progress and raises NotFinalized: a dataset that cannot be finalized gives no URL, and its _run.json
    says why.
    """

    def __init__(
        self, stage: Stage, operations: Operations = Operations(), *, pending: PendingParts | None = None
    ) -> None:
        super().__init__()
        self._stage = stage
        self._operations = operations
        self._pending = pending or shards.pending_parts(stage.dataset)

    def expand(self, begin: Any) -> Any:
        """Create -> Reshuffle -> the part driver -> count -> finalize."""
        stage, operations, pending = self._stage, self._operations, self._pending
        driver = PartDriver(
            stage.dataset,
            stage.work,
            suspects=pending.suspects,
            parts_in_flight=operations.parts_in_flight,
            max_attempts=operations.max_attempts,
            modules=operations.modules,
            gpus=operations.runner.gpus,
        )
        hints = {str(name): hint for name, hint in operations.runner.resources.items()} if stage.runs_model else {}
        fresh = longest_first(sorted(set(pending.todo).difference(pending.suspects)), stage.costs)
        count = beam.CombineGlobally(beam.combiners.CountCombineFn())
        return (
            begin
            | "parts" >> beam.Create([*fresh, SUSPECTS] if pending.suspects else fresh, reshuffle=False)
            | "spread" >> beam.Reshuffle()
            | stage.dataset.spec.stage >> beam.ParDo(driver).with_resource_hints(**hints)
            | "count" >> (count.without_defaults() if pending.todo else count)  # of nothing: 0, which finalizes too
            | "finalize" >> beam.ParDo(Finalize(stage.dataset, max_reject_rate=operations.max_reject_rate))
        )


def run_stage(stage: Stage, operations: Operations) -> Manifest:
    """Do the parts that are not done yet, then finalize.

    Raises NotFinalized where parts failed or too much was rejected; StageAborted where the job had to stop (disk full,
    engine dead, workers lost again and again); and what `work.setup` raised.
    """
    dataset, started = stage.dataset, time.time()
    with _watching(dataset, operations.progress):
        restarts = 0
        while (pending := shards.pending_parts(dataset)).todo:
            before = _attempts(dataset, pending)
            try:
                run_job(
                    partial(_construct, StageParts(stage, operations, pending=pending)),
                    operations.runner,
                    name=job_name(dataset),
                    submitted=lambda job: shards.record_run(dataset, {"job": job}),
                )
                runner = operations.runner
                job = job_record(started, runner=runner.name, runner_flags=list(runner.flags))
                shards.record_run(dataset, job)
                break
            except JobFailed as failed:
                restarts += 1
                if restarts > MAX_RESTARTS or not _was_lost(failed, dataset, pending, before):
                    raise _reported(failed, dataset) from failed
    try:
        return shards.finalize(dataset, max_reject_rate=operations.max_reject_rate)
    except NotFinalized:
        _show_failed(dataset)
        raise


def _construct(parts: StageParts, pipeline: beam.Pipeline) -> None:
    _ = pipeline | parts


def longest_first(parts: Sequence[int], costs: Sequence[int]) -> list[int]:
    """Runners deal parts out in turn and for good (Flink's batch mode): in this order the workers' loads come out even.

    >>> longest_first([0, 1, 2, 3], [5, 9, 5, 7])
    [1, 3, 0, 2]
    """
    return sorted(parts, key=lambda part: -costs[part]) if costs else list(parts)


def job_name(dataset: Dataset) -> str:
    """passrl-STAGE-FP8-FOLDER, the last being twelve digits of the folder's sha256: one live job a folder."""
    folder = shards.sha256_bytes(shards.Store(dataset.url).path("").encode())[:12]
    return f"passrl-{dataset.spec.stage}-{dataset.fp8}-{folder}"


def _was_lost(failed: JobFailed, dataset: Dataset, before: PendingParts, attempts: dict[int, int]) -> bool:
    """Whether the job was lost rather than stopped, so that its rest is worth another one.

    Lost: a worker died with parts in hand (new attempts on record), or parts were committed and no worker said why it
    stopped. Anything else would only fail again.
    """
    after = shards.pending_parts(dataset)
    progress = len(after.todo) < len(before.todo) and _MARK not in failed.log
    return progress or _attempts(dataset, after) != attempts


def _attempts(dataset: Dataset, pending: PendingParts) -> dict[int, int]:
    return {part: attempts_made(dataset, part) for part in pending.suspects}


def _reported(failed: JobFailed, dataset: Dataset) -> StageAborted:
    """What the user is told: the worker's own words where there are any, without Beam's frames around them."""
    found = re.search(f"{_MARK}(.+?){_MARK}", failed.log)
    told = json.loads(found.group(1)) if found else {"trace": ""}
    cause = told.get("cause", f"{dataset.spec.stage} of {dataset.url} stopped: {failed}")
    if told["trace"]:
        _LOG.error("In a worker:\n%s", told["trace"].rstrip())
    return StageAborted(f"{cause.rstrip('.')}. Committed parts are kept; the same command goes on from there.")


def _show_failed(dataset: Dataset) -> None:
    """The traceback of the first part that was given up, where there is one; the others' are in `_failed`."""
    for part in sorted(parts_in(dataset, names.FAILED) - parts_in(dataset, names.DONE))[:1]:
        name = names.failed(part, dataset.fp8)
        record = json_object(dataset.store.read(name), dataset.store.path(name), fix="remove it and run again")
        told = str(record.get("traceback") or record.get("cause", "cause unknown"))
        _LOG.error("Part %d, on %s:\n%s", part, record.get("host", "an unknown host"), told.rstrip())


@contextmanager
def _watching(dataset: Dataset, progress: Progress | None) -> Iterator[None]:
    """Report (done, all) while the job runs, from the markers in the store: the same on every runner."""
    if progress is None:
        yield
        return
    stop = threading.Event()

    def report() -> None:
        progress(len(parts_in(dataset, names.DONE)), dataset.spec.parts)

    def watch() -> None:
        pause = 0.0
        while not stop.wait(pause):
            began = time.monotonic()
            with suppress(OSError):  # a listing that failed once; the next one tells
                report()
            # At most a twentieth of the time goes into listing, however many parts there are.
            pause = max(0.5, 20 * (time.monotonic() - began))

    watcher = threading.Thread(target=watch, daemon=True, name="progress")
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()
    report()
