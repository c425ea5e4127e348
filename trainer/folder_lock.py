"""One trainer per folder: a lock that the system drops with the process that holds it.

    OUT/_trainer.lock      who has it, since when, where; removed at the end

The lock is the system's own (flock), so that of a killed process on this machine is free at once. Of another machine
that shares the disk it may not be seen; there the file's content decides, and a person.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from trainer.errors import RunFolderError

LOCK = "_trainer.lock"
NAMELESS_SECONDS = 2.0  # a trainer is refused by a holder that has not said who it is after so long


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock file for the duration of the block. Raises RunFolderError, naming the holder, where it is held."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = _acquired(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        stream.close()


def _acquired(path: Path) -> IO[str]:
    until = time.monotonic() + NAMELESS_SECONDS
    while True:
        stream = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _holder(stream)
            stream.close()
            if not holder and time.monotonic() < until:  # one that has yet to write who it is, or a look at the lock
                time.sleep(0.05)
                continue
            raise RunFolderError(_held(path, holder)) from error
        except OSError as error:
            stream.close()
            raise RunFolderError(f"{path} cannot be locked ({error}). Choose a folder on a disk with locks.") from error
        if not _is_at(path, stream):
            stream.close()  # its holder removed the file between our opening and locking it
            continue
        holder = _holder(stream)
        if holder.get("host", socket.gethostname()) != socket.gethostname():
            stream.close()
            raise RunFolderError(_held(path, holder) + f" If that process is gone, remove {path}.")
        stream.truncate(0)
        mine = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S %z")}
        stream.write(json.dumps(mine) + "\n")
        stream.flush()
        return stream


def _is_at(path: Path, stream: IO[str]) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _holder(stream: IO[str]) -> dict[str, Any]:
    stream.seek(0)
    try:
        content = json.loads(stream.read() or "{}")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _held(path: Path, holder: dict[str, Any]) -> str:
    return (
        f"{path.parent} is being written by another trainer: process {holder.get('pid', 'unknown')} on "
        f"{holder.get('host', 'unknown')} since {holder.get('since', 'unknown')}. Two would mix their metrics, "
        "checkpoints and exports. Wait for it or stop it, or choose another folder."
    )
