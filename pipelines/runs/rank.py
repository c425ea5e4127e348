"""One rank of an update under torchrun (`pipelines.runs.torchrun` starts it).

Standard input is a socket to the client, which all ranks share. They tell on it and read nothing from it but its end:
a client that is gone, or wants no more, takes its ranks along, even those that wait for one another.
"""

from __future__ import annotations

import base64
import logging
import os
import pickle
import socket
import sys
import threading
import traceback
from typing import Any

from pass_ops.errors import PassError


class RankError(PassError, RuntimeError):
    """A rank met an error that is not one of the project's own; its words are kept."""


def main(arguments: str) -> None:
    """Run `train` with these arguments (pickled, base64) as this rank of torchrun's."""
    client = socket.socket(fileno=os.dup(0))
    threading.Thread(target=_end_with, args=(client,), daemon=True).start()
    main_rank = os.environ["RANK"] == "0"
    if main_rank:
        logging.getLogger().addHandler(_Teller(client))
    try:
        from trainer import train

        given = pickle.loads(base64.b64decode(arguments))
        result = train(**given, progress=lambda *step: tell(client, "progress", step))
    except Exception as error:  # noqa: BLE001 - raised in the client
        traceback.print_exc()
        tell(client, "error", _portable(error))
        threading.Event().wait()  # the client ends all ranks: the others may be waiting for this one
    if main_rank:
        tell(client, "result", result)


def tell(client: socket.socket, what: str, value: Any) -> None:
    """One message; the socket keeps messages apart, whichever rank they come from."""
    client.send(pickle.dumps((what, value)))


def _end_with(client: socket.socket) -> None:
    client.recv(1)
    os._exit(1)


def _portable(error: Exception) -> PassError:
    """The error where it is one of ours and the client can read it, else its words."""
    words = RankError(f"The update failed: {type(error).__name__}: {error}")
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - whatever an error's own constructor raises
        return words
    return copy if isinstance(copy, PassError) else words


class _Teller(logging.Handler):
    """Warnings go to the client's log."""

    def __init__(self, client: socket.socket) -> None:
        super().__init__(logging.WARNING)
        self._client = client

    def emit(self, record: logging.LogRecord) -> None:
        tell(self._client, "log", (record.name, record.levelno, record.getMessage()))


if __name__ == "__main__":
    main(sys.argv[1])
