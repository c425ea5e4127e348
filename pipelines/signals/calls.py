"""What the signals share that call a function in killable processes: naming it, checking it, calling it."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.signals.base import SignalOptionError
from pipelines.verifiers.importing import load_object, source_digest
from pipelines.verifiers.pool import CallResult, shared_pool

DEFAULT_TIMEOUT_S = 10.0


def check_target(option: str, target: str) -> None:
    """Refuse an import path that leads to no source file. Raises SignalOptionError."""
    try:
        source_digest(target)
    except (ImportError, ValueError) as error:
        raise SignalOptionError(f"{option}: {error}") from error


def check_limits(timeout_s: float, workers: int | None) -> None:
    """Refuse a time limit or a number of processes that cannot be. Raises SignalOptionError."""
    if not timeout_s > 0:
        raise SignalOptionError(f"timeout_s is {timeout_s}; it must be over 0 seconds")
    if workers is not None and workers < 1:
        raise SignalOptionError(f"workers is {workers}; it must be at least 1, or left out for one a core")


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


def call_all(
    target: str,
    calls: Sequence[tuple[Any, ...]],
    *,
    adapter: str,
    options: Mapping[str, Any],
    timeout_s: float,
    workers: int | None,
) -> list[CallResult]:
    """One result a call, in order, by this process's pool for target."""
    return shared_pool(target, adapter=adapter, workers=workers).map(calls, options=options, timeout_s=timeout_s)
