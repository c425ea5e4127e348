"""The child process of `pipelines.verifiers.pool`: one function, called again and again. Stdlib only: it starts fast.

On the line to the parent, both ways pickles of plain values: first ("ready", "") or ("failed", traceback); then for
each (options, calls) received one (status, value, detail) a call, sent as soon as it is there, for the parent measures
the time between two of them.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

from pass_ops.support.importing import load_object
from pipelines.verifiers.limits import die_with_parent, hide_memory, limit_memory

DETAIL_CHARACTERS = 500


def main(handle: int, target: str, adapter: str, memory_mb: int) -> None:
    """Serve the parent at the other end of the socket `handle` until it closes it."""
    die_with_parent()
    limit_memory(memory_mb)
    hide_memory()
    with Connection(handle) as line:
        try:
            function, adapt = load_object(target), load_object(adapter)
        except Exception:  # noqa: BLE001  whatever a user's module raises while it is imported is the parent's to report
            line.send(("failed", traceback.format_exc(limit=-3)))
            return
        line.send(("ready", ""))
        while True:
            try:
                options, calls = line.recv()
            except (EOFError, ConnectionResetError):
                return
            for call in calls:
                line.send(_answer(function, adapt, call, options))


def _answer(
    function: Callable[..., Any], adapt: Callable[[Any], Any], call: tuple[Any, ...], options: Mapping[str, Any]
) -> tuple[str, Any, str]:
    try:
        return "ok", adapt(function(*call, **options)), ""
    except (Exception, SystemExit) as error:  # noqa: BLE001  it becomes the row's status, its value stays null
        return "error", None, f"{type(error).__name__}: {error}"[:DETAIL_CHARACTERS]
