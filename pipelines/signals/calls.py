"""What the signals share that call a function in killable processes: naming it, checking it, calling it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import field
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, ClassVar

import pyarrow as pa
from annotated_types import Ge, Le

from pass_ops.reading.ragged import one_chunk
from pass_ops.shards import DatasetSpec
from pass_ops.support.extras import missing_extra
from pass_ops.support.importing import load_object, source_digest
from pass_ops.support.nearest import advice
from pipelines.options import Table, options
from pipelines.options.types import Seconds, Workers
from pipelines.signals.base import SignalBase, SignalOptionError
from pipelines.verifiers import LIBRARIES, REVISIONS, VERIFIERS
from pipelines.verifiers.batches import Texts
from pipelines.verifiers.pool import DEFAULT_MEMORY_MB, CallResult, shared_pool

DEFAULT_TIMEOUT_S = 10.0


@options(SignalOptionError)
class CallingSignal(SignalBase):
    """A signal that calls one function, `_target`, for a row or a rollout at a time, in killable processes."""

    operational: ClassVar[frozenset[str]] = frozenset({"workers"})

    timeout_s: Seconds = DEFAULT_TIMEOUT_S
    """Seconds after which a call is killed; its row's status is then timeout."""
    memory_mb: Annotated[int, Ge(64), Le(2**20)] = DEFAULT_MEMORY_MB
    """Memory of a calling process in MB; beyond it an allocation fails, and the row's status is error."""
    workers: Workers | None = None
    """Calling processes (default: one per core). Example: 4."""

    @property
    def _target(self) -> str:
        """The import path of the function."""
        raise NotImplementedError

    def environment(self) -> dict[str, Any]:
        """The revision of a shipped function, and the versions of the libraries that it decides by."""
        found = super().environment()
        module = self._target.partition(":")[0]
        if module in REVISIONS:
            found["verifier_revision"] = REVISIONS[module]
        for library in LIBRARIES.get(module, ()):
            try:
                found[library] = version(library)
            except PackageNotFoundError as error:
                raise missing_extra(error, self._target) or error from error
        return found

    def _call(self, calls: Sequence[tuple[Any, ...]], *, adapter: str, options: Mapping[str, Any]) -> list[CallResult]:
        """One result a call, in order, by this process's pool for the function."""
        pool = shared_pool(self._target, adapter=adapter, workers=self.workers, memory_mb=self.memory_mb)
        return pool.map(calls, options=options, timeout_s=self.timeout_s)


@options(SignalOptionError)
class VerifyingSignal(CallingSignal):
    """A signal that verifies texts against reference answers."""

    verifier: str
    """A shipped verifier by name, or your own as module:function of (text, answer, **options) -> Verdict. Example:
    "number"."""
    verifier_options: Table = field(default_factory=dict)
    """Keyword arguments of the verifier. Example: { marker = "####" }."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.verifier not in VERIFIERS and ":" not in self.verifier:
            raise SignalOptionError(
                f"verifier is {self.verifier!r} (your own is given as module:function); "
                f"{advice(self.verifier, VERIFIERS)}"
            )
        check_target("verifier", self._target)

    @property
    def _target(self) -> str:
        return VERIFIERS.get(self.verifier, self.verifier)

    def code(self) -> dict[str, str]:
        """The user's verifier."""
        own = {} if self.verifier in VERIFIERS else {self.verifier: source_digest(self.verifier)}
        return super().code() | own

    def check(self, rollouts: DatasetSpec, inputs: Mapping[str, DatasetSpec]) -> None:
        """The verifier can be called with its options."""
        super().check(rollouts, inputs)
        check_call("verifier", self._target, ("text", "answer"), self.verifier_options)

    def verify(self, calls: Sequence[tuple[str, str]]) -> list[CallResult]:
        """(outcome_reward, verify_status, extracted_answer) of each (text, answer), in order."""
        return self._call(calls, adapter="pipelines.verifiers.base:plain_verdict", options=self.verifier_options)


def texts(column: pa.ChunkedArray) -> Texts:
    """A column of texts without nulls, as a call's argument: its own buffer."""
    array = one_chunk(column)
    _, starts, content = array.buffers()
    if not len(array):
        return Texts(b"", memoryview(bytes(8)).cast("q"))
    return Texts(memoryview(content or b""), memoryview(starts).cast("i")[array.offset : array.offset + len(array) + 1])


def states(results: Sequence[CallResult]) -> dict[str, list[str | None]]:
    """Status and detail of each call as columns of a sidecar; nothing where all are ok."""
    if all(result.status == "ok" for result in results):
        return {}
    details = [None if result.status == "ok" else result.detail for result in results]
    return {"status": [result.status for result in results], "detail": details}


def check_target(option: str, target: str) -> None:
    """Refuse an import path that leads to no source file. Raises SignalOptionError."""
    try:
        source_digest(target)
    except (ImportError, ValueError) as error:
        raise SignalOptionError(f"{option}: {error}") from error


def check_call(option: str, target: str, arguments: Sequence[str], options: Mapping[str, Any]) -> None:
    """Import the function and refuse one that cannot be called with these arguments and options.

    Else every single call would fail. Raises SignalOptionError.
    """
    try:
        function = load_object(target)
        signature = inspect.signature(function)
    except (ImportError, TypeError, ValueError) as error:
        raise SignalOptionError(f"{option}: {error}") from error
    try:
        signature.bind(*arguments, **options)
    except TypeError as error:
        known = list(signature.parameters)[len(arguments) :]
        unknown = next((name for name in options if name not in known), None)
        hint = f"it is {target}{signature}" if unknown is None else advice(unknown, known)
        raise SignalOptionError(
            f"{option}: {target} cannot be called with ({', '.join(arguments)}) and the options "
            f"{sorted(options)}: {error}; {hint}"
        ) from error
