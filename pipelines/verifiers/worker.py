"""The child process of `pipelines.verifiers.pool`: one function, called again and again. Stdlib only: it starts fast.

On the line to the parent, both ways pickles of plain values: first ("ready", "") or ("failed", traceback); then for
each batch (options, calls) received the list of its answers, (status, value, detail) a call. An answer stands on the
board as soon as it is there, for the parent measures the time between two of them; where the board is full, those that
stand there are sent at once.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

from pass_ops.support.importing import load_object
from pipelines.verifiers.batches import Board
from pipelines.verifiers.limits import die_with_parent, hide_memory, limit_memory

DETAIL_CHARACTERS = 500
Answer = tuple[str, Any, str]


def main(handle: int, board: int, target: str, adapter: str, memory_mb: int) -> None:
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
        shown = Board(board)
        line.send(("ready", ""))
        while True:
            try:
                options, calls = line.recv()
            except (EOFError, ConnectionResetError):
                return
            shown.clear()
            line.send(_answers(function, adapt, calls, options, line=line, board=shown))


def _answers(
    function: Callable[..., Any],
    adapt: Callable[[Any], Any],
    calls: Sequence[tuple[Any, ...]],
    options: Mapping[str, Any],
    *,
    line: Connection,
    board: Board,
) -> list[Answer]:
    """The batch's answers that have not been sent yet."""
    found: list[Answer] = []
    for number in range(len(calls)):
        try:
            answer: Answer = ("ok", adapt(function(*calls[number], **options)), "")
        except (Exception, SystemExit) as error:  # noqa: BLE001  it becomes the row's status, its value stays null
            answer = ("error", None, f"{type(error).__name__}: {error}"[:DETAIL_CHARACTERS])
        found.append(answer)
        if not board.put(answer):
            line.send(found)
            found = []
            board.clear(sent=number + 1)
    return found
