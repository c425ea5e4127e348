"""The part driver: several parts in flight on one thread, each committed as it completes, suspects alone at the end.

No Beam in here. A part moves: offered -> in flight -> committed, or -> deferred (it raised, or an attempt of an earlier
worker is on record) -> alone -> committed or failed. docs/decisions/ has a page on why.
"""

from __future__ import annotations

import errno
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from pass_ops import shards
from pass_ops.errors import PartError, PassError
from pass_ops.shards import Dataset, PreparedPart, Rejection
from pass_ops.shards.commit import last_attempts
from pipelines.engines.base import EngineDead
from pipelines.engines.errors import ServerUnreachable
from pipelines.parts.attempts import attempts_made, withdraw_attempt

T = TypeVar("T")

# So often a waiting loop asks whether the stage has room for a part more, in seconds.
_ASK_EVERY = 0.01

# A full or read-only disk: no part is to blame, and every further part would fail the same way.
_DISK_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


class StageAborted(PassError, RuntimeError):
    """The whole job stops: what failed is not one part's fault, and the next part would meet it too."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PartOutput:
    """What one stage made of one part: the rows in order, and what was rejected, with reasons."""

    table: pa.Table
    rejected: tuple[Rejection, ...] = ()


#: What a part becomes: rows, or a part that only is to be written.
Outcome = Future[PartOutput] | Future[PreparedPart]


class PartWork(Protocol):
    """What one stage does to one part. Picklable until `setup`; what `setup` acquires stays in the worker."""

    def setup(self) -> None:
        """Acquire what the worker process needs (engine, pools, inputs); called once before any part."""

    def start(self, part: int) -> Outcome:
        """Begin a part without waiting for its result; parts under way at the same time share what setup acquired.

        What is prepared already (checked and encoded, off the loop's thread) the loop only writes.
        """

    def look_back(self) -> None:
        """Parts that were begun before, here or by another worker, are begun again from now on: see once, for all of
        them, what their attempts kept. Called again only where another command has begun one of them meanwhile.
        """
        return

    def forget(self, part: int) -> None:  # noqa: ARG002 - the protocol's
        """Let go of what was kept of a part's attempts: it is committed, or what was made of it is refused."""
        return

    def has_room(self, parts: int) -> bool:
        """Whether one more part would be of use beside so many under way: one is computed while another is read."""
        return parts < 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage:
    """What one call of a stage is to do, ready to run: `run_stage`, or `StageParts` inside another pipeline.

    runs_model: workers need what `runner.resources` asks for. costs: how much work each part is, in any unit, where
    that is known: the longest are begun first.
    """

    dataset: Dataset
    work: PartWork
    runs_model: bool = False
    costs: Sequence[int] = ()


def in_background(function: Callable[..., T], *args: object) -> Future[T]:
    """Run a function in a thread of its own, which, unlike an executor's, does not keep an ending process alive."""
    future: Future[T] = Future()

    def run() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = function(*args)
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits on the future
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, daemon=True, name=f"part-{function.__name__}").start()
    return future


def abort_cause(error: BaseException) -> str | None:
    """Why this error stops the job rather than being held against the part it was met in; None for a part's own."""
    for found in _causes(error):
        if isinstance(found, MemoryError):
            return f"the memory is used up ({found or 'MemoryError'}); use fewer parts in flight, or smaller parts"
        if isinstance(found, OSError) and found.errno in _DISK_ERRNOS:
            return f"the disk cannot be written ({found})"
        if isinstance(found, ServerUnreachable):
            return str(found)
        if isinstance(found, EngineDead):
            return f"the engine died ({found})"
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


@dataclass(frozen=True)
class _Failure:
    """Why an attempt failed, as `_failed` has it; in words, since an error holds on to its frames, and so to rows."""

    cause: str
    traceback: str = ""

    @classmethod
    def of(cls, error: Exception) -> _Failure:
        """The sentence of a PassError says all; where it was raised helps nobody."""
        trace = "" if isinstance(error, PassError) else "".join(traceback.format_exception(error))
        return cls(f"{type(error).__name__}: {error}", trace)


class PartLoop:
    """Drives the parts that one worker is offered. Used by one thread; `abandon` may come from another."""

    def __init__(self, *, dataset: Dataset, work: PartWork, parts_in_flight: int | None, max_attempts: int) -> None:
        self._dataset = dataset
        self._work = work
        self._parts_in_flight = parts_in_flight
        self._max_attempts = max_attempts
        self._in_flight: dict[Outcome, tuple[int, int]] = {}  # -> part, attempt
        self._deferred: dict[int, _Failure | None] = {}  # part -> why its last attempt failed, where that is known
        self._stopped = False

    def offer(self, part: int) -> None:
        """Commit what is complete and begin a part, waiting until there is room for it (see `Limits`).

        Committed parts are skipped.
        """
        if shards.committed(self._dataset, part) is not None:
            return
        if attempts_made(self._dataset, part):
            self._deferred.setdefault(part, None)
            return
        self._collect(wait_at_most=0)
        while self._in_flight and not self._has_room():
            self._collect(wait_at_most=_ASK_EVERY)
        self._begin(part)

    def defer(self, parts: Iterable[int]) -> None:
        """Parts with an earlier attempt on record: run alone, after everything else."""
        for part in parts:
            self._deferred.setdefault(part, None)

    def drain(self) -> None:
        """Complete what is in flight, then the deferred parts one at a time, those with the fewest attempts first."""
        while self._in_flight:
            self._collect()
        before = self._dataset.attempts_before
        made = {part: attempts_made(self._dataset, part) for part in self._deferred}
        if self._deferred:
            self._work.look_back()
        for part in sorted(made, key=lambda part: (before.get(part, 0) + made[part], part)):
            self._run_alone(part, made[part])

    def abandon(self) -> None:
        """The job stops with parts in flight: take their attempts off the record, for nothing is known against them."""
        self._stopped = True
        in_flight, self._in_flight = self._in_flight, {}
        for future, (part, attempt) in in_flight.items():
            future.cancel()
            withdraw_attempt(self._dataset, part, attempt)

    def _begin(self, part: int) -> Outcome:
        if self._stopped:
            raise StageAborted("the job was stopped")
        attempt = shards.begin_attempt(self._dataset, part)
        try:
            future = self._work.start(part)
        except Exception as error:  # noqa: BLE001 - an error of start and one on the future are one case
            future = Future()
            future.set_exception(error)
        except BaseException:  # an interrupt: nothing is known against the part
            withdraw_attempt(self._dataset, part, attempt)
            raise
        self._in_flight[future] = (part, attempt)
        return future

    def _has_room(self) -> bool:
        parts = len(self._in_flight)
        return self._work.has_room(parts) if self._parts_in_flight is None else parts < self._parts_in_flight

    def _collect(self, *, wait_at_most: float | None = None) -> None:
        """Wait (by default for one part in flight) and commit whatever is complete; a part that raised is deferred."""
        under_way: list[Future[Any]] = list(self._in_flight)
        done, _ = wait(under_way, timeout=wait_at_most, return_when=FIRST_COMPLETED)
        for future in sorted(done, key=lambda future: self._in_flight[future]):
            part = self._in_flight[future][0]
            failure = self._settle(future)
            if failure is not None:
                self._deferred[part] = failure

    def _run_alone(self, part: int, known: int) -> None:
        """Try a part until it is committed or its attempts are used up; known: those made before `look_back`."""
        failure = self._deferred.pop(part)
        if shards.committed(self._dataset, part) is not None:
            return
        while (made := attempts_made(self._dataset, part)) < self._max_attempts:
            if made != known:  # another command works on this dataset too
                self._work.look_back()
            failure = self._settle(self._begin(part))
            if failure is None:
                return
            known = made + 1
        if failure is None:
            failure = _Failure(f"the worker or its engine died in each of {made} attempts")
        shards.fail_part(
            self._dataset, part, cause=failure.cause, traceback=failure.traceback, listed=self._last_attempts
        )

    @cached_property
    def _last_attempts(self) -> Mapping[int, int]:
        """Listed when the loop gives up its first part, for all that it gives up: not once a part."""
        return last_attempts(self._dataset.store, self._dataset.fp8)

    def _settle(self, future: Outcome) -> _Failure | None:
        """Commit one part; why it failed if it has none to commit. Raises StageAborted where the job cannot go on."""
        part = self._in_flight[future][0]
        try:
            output = future.result()
            if isinstance(output, PreparedPart):
                shards.commit_prepared(self._dataset, output)
            else:
                shards.commit_part(self._dataset, part, output.table, rejected=output.rejected)
        except Exception as error:
            cause = abort_cause(error)
            if cause is not None:
                self._blame_engine_death(error)
                stage, url = self._dataset.spec.stage, self._dataset.url
                raise StageAborted(f"{stage} of {url} stopped at part {part}: {cause}") from error
            del self._in_flight[future]
            if isinstance(error, PartError):
                self._work.forget(part)
            return _Failure.of(error)
        del self._in_flight[future]
        self._work.forget(part)
        return None

    def _blame_engine_death(self, error: Exception) -> None:
        """A part in flight may have killed the engine: the attempts stay on record, so these parts run alone next."""
        if any(isinstance(found, EngineDead) for found in _causes(error)):
            self._in_flight.clear()
