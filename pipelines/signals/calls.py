"""What the signals share that call a function in killable processes: naming it, checking it, calling it."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar

from pass_ops.importing import load_object, source_digest
from pass_ops.shards import DatasetSpec
from pipelines.signals.base import SignalBase, SignalOptionError
from pipelines.verifiers import LIBRARIES, VERIFIERS
from pipelines.verifiers.pool import DEFAULT_MEMORY_MB, CallResult, shared_pool

DEFAULT_TIMEOUT_S = 10.0


@dataclass(frozen=True, kw_only=True)
class CallingSignal(SignalBase):
    """A signal that calls one function, `_target`, a row or a rollout at a time, in killable processes.

    timeout_s: a call that takes longer is killed. memory_mb: what a process may hold; beyond it an allocation fails.
    Either costs that call's row alone, whose status says so. workers: processes (None = one a core).
    """

    operational: ClassVar[frozenset[str]] = frozenset({"workers"})

    timeout_s: float = DEFAULT_TIMEOUT_S
    memory_mb: int = DEFAULT_MEMORY_MB
    workers: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.timeout_s > 0:
            raise SignalOptionError(f"timeout_s is {self.timeout_s}; it must be over 0 seconds")
        if self.memory_mb < 64:
            raise SignalOptionError(f"memory_mb is {self.memory_mb}; a process needs at least 64")
        if self.workers is not None and self.workers < 1:
            raise SignalOptionError(f"workers is {self.workers}; it must be at least 1, or left out for one a core")

    @property
    def _target(self) -> str:
        """The import path of the function."""
        raise NotImplementedError

    def environment(self) -> dict[str, Any]:
        """Versions of the libraries that a shipped function decides by."""
        found = super().environment()
        for library in LIBRARIES.get(self._target.partition(":")[0], ()):
            try:
                found[library] = version(library)
            except PackageNotFoundError as error:
                raise SignalOptionError(
                    f"{self._target} needs the library {library}, which is not installed: install the extra `verifiers`"
                ) from error
        return found

    def _call(self, calls: Sequence[tuple[Any, ...]], *, adapter: str, options: Mapping[str, Any]) -> list[CallResult]:
        """One result a call, in order, by this process's pool for the function."""
        pool = shared_pool(self._target, adapter=adapter, workers=self.workers, memory_mb=self.memory_mb)
        return pool.map(calls, options=options, timeout_s=self.timeout_s)


@dataclass(frozen=True, kw_only=True)
class VerifyingSignal(CallingSignal):
    """A signal that verifies texts against reference answers.

    verifier: a name of `pipelines.verifiers.VERIFIERS`, or an import path `module:function` of (text, answer,
    **options) -> Verdict; verifier_options: those options.
    """

    verifier: str
    verifier_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.verifier not in VERIFIERS and ":" not in self.verifier:
            raise SignalOptionError(
                f"verifier is {self.verifier!r}; choose one of {', '.join(VERIFIERS)}, or give module:function"
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
        near = [match for name in options if name not in known for match in difflib.get_close_matches(name, known, n=1)]
        advice = f"did you mean {near[0]!r}?" if near else f"it is {target}{signature}"
        raise SignalOptionError(
            f"{option}: {target} cannot be called with ({', '.join(arguments)}) and the options "
            f"{sorted(options)}: {error}; {advice}"
        ) from error
