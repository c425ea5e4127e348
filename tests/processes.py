"""Processes that a test starts: found in /proc by a mark in their environment, read on a pseudo-terminal, served at a
port that is kept for them."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

MARK = "PASSRL_TEST_MARK"


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    command: str

    @property
    def is_engine(self) -> bool:
        """A child of a node."""
        return "node_child" in self.command

    @property
    def is_torchrun(self) -> bool:
        return "torch.distributed.run" in self.command

    @property
    def is_rank(self) -> bool:
        return "pipelines.runs.rank" in self.command and not self.is_torchrun


def marked(mark: str) -> list[Process]:
    """Every live process with this mark. A zombie has no environment, so it does not count."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if f"{MARK}={mark}".encode() not in (folder / "environ").read_bytes().split(b"\0"):
                continue
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):  # no process, another user's, or gone meanwhile
            continue
        if int(folder.name) != os.getpid():
            found.append(Process(int(folder.name), parent, command))
    return found


def wait_until(happens: Callable[[], object], *, seconds: float = 120.0) -> None:
    """Look until it is so; fails after a time that says something hangs."""
    until = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)


@contextlib.contextmanager
def kept_port(port: int = 0) -> Iterator[int]:
    """A port on which nobody listens; 0: any. While it is kept, the system gives it to nobody else of its own accord.

    A server that binds it later, and sets the same option (vLLM's does), is let in: nobody listens there.
    """
    with socket.socket() as kept:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", port))
        yield int(kept.getsockname()[1])


def shown_on(terminal: int) -> bytes:
    """What is written to a pseudo-terminal, by its leading end, until the last writer has closed it."""
    shown = b""
    while select.select([terminal], [], [], 120)[0]:
        try:
            shown += os.read(terminal, 1 << 16)
        except OSError:  # the last writer has closed it
            break
    return shown
