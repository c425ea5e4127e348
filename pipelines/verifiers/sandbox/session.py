"""The processes of one run of a program, from their start to their end: what they use, what they say, how they end.

The supervisor's side of `pipelines.verifiers.sandbox.nursery`. Linux.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pipelines.verifiers.limits import held_memory, ready, used
from pipelines.verifiers.sandbox.nursery import MESSAGE_BYTES
from pipelines.verifiers.scratch import Scratch

IDLE_FACTOR = 2.0  # a program may wait (sleep, read from the disk) for so many times its processor time
WALL_FACTOR, WALL_ADDED_S = 20.0, 60.0  # a run takes no longer than that, however busy the machine is
_TICK_S = 0.05
_START_LIMIT_S, _KILL_LIMIT_S = 120.0, 30.0
_MEMORY_SLACK = 64 << 20  # the stack and the like, beside the data that memory_mb counts
_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[2]); from pipelines.verifiers.sandbox.nursery import main; "
    "main(int(sys.argv[1]), sys.argv[2])"
)

Status = Literal["ok", "failed", "timeout", "memory"]


class LostError(Exception):
    """A process was ended by neither itself nor this module: the run says nothing about the program."""


@dataclass
class Budget:
    """Seconds that several runs have together. What other processes took the cores for does not count."""

    left_s: float


class SandboxError(OSError):
    """No program can be confined on this machine, so none is run.

    It reaches users as the detail of a row, so it is no PassError, whose import would cost every worker time.
    """


class Nursery:
    """The process that forks the others, and the line to it. One run at a time holds `lock`.

    Raises SandboxError where it does not start, or cannot confine a process.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        root = str(Path(__file__).resolve().parents[3])
        environment = {
            "LC_ALL": "C.UTF-8",
            "PYTHONHASHSEED": "0",  # sets have the same order in every run
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        with theirs:
            self.process = subprocess.Popen(
                # -P, -s: neither the working folder nor the user's own packages are on the path
                [sys.executable, "-P", "-s", "-c", _BOOT, str(theirs.fileno()), root],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=environment,
            )
        ready, _, _ = select.select([self.line], [], [], _START_LIMIT_S)
        told = self.line.recv(MESSAGE_BYTES) if ready else b""
        problem = json.loads(told)["problem"] if told else "the process that forks the programs did not start"
        if problem:
            self.process.kill()
            self.process.wait()
            self.line.close()
            raise SandboxError(f"a model's program cannot be run here: {problem}")

    def lost(self) -> None:
        """It does not answer any more: the next run starts another. Its children end with it."""
        _nursery.cache_clear()
        self.process.kill()
        self.process.wait()
        self.line.close()


@cache
def _nursery() -> Nursery:
    return Nursery()


class Session:
    """The processes of one run; leaving the context ends what is left of them and deletes what they wrote.

    Every method raises LostError where a process was killed from outside. exceeded: the limit that was met, else None.
    """

    def __init__(self, *, timeout_s: float, memory_mb: int) -> None:
        self.exceeded: Status | None = None
        self._timeout_s, self._memory_mb = timeout_s, memory_mb
        self._scratches: list[Scratch] = []
        self._living: set[int] = set()
        self._codes: dict[int, int] = {}
        self._computed: dict[int, float] = {}
        self._queued: dict[int, float] = {}
        self._absent = 0.0  # seconds by which this process looked too late: a program may have waited for it to read
        self._said: dict[int, bytearray] = {}
        self._open: set[int] = set()
        self._born: list[int] = []
        self._killing = False

    def __enter__(self) -> Session:
        self._nursery = _nursery()
        self._nursery.lock.acquire()
        self._started_at = self._looked_at = time.monotonic()
        return self

    def __exit__(self, *error: object) -> None:
        try:
            with contextlib.suppress(LostError):
                self.kill()
        finally:
            self._nursery.lock.release()
            for descriptor in self._said:
                os.close(descriptor)
            for scratch in self._scratches:
                scratch.remove()

    def start(
        self, role: str, given: Mapping[str, Any], *, stdin: bytes = b"", pipes: int = 0, others: Sequence[int] = ()
    ) -> tuple[int, list[int]]:
        """Fork a process of this role (`nursery.ROLES`): its number, and the ends of `pipes` of its outputs."""
        self._scratches.append(Scratch())
        limits = {"cpu_s": self._timeout_s, "memory_mb": self._memory_mb, "scratch": self._scratches[-1].path}
        with contextlib.ExitStack() as closing:
            sent = [_memory_file(json.dumps(given).encode()), _memory_file(stdin)]
            ours: list[int] = []
            for number in range(2):
                if number < pipes:
                    our_end, their_end = os.pipe()
                    ours.append(our_end)
                    sent.append(their_end)
                else:
                    sent.append(os.open(os.devnull, os.O_WRONLY))
            for descriptor in sent:
                closing.callback(os.close, descriptor)
            for descriptor in ours:
                self.watch(descriptor)
            message = json.dumps({"run": role, "limits": limits}).encode()
            try:
                socket.send_fds(self._nursery.line, [message], [*sent, *others])
            except OSError:
                self._lose()
        deadline = time.monotonic() + _START_LIMIT_S
        while not self._born:
            if time.monotonic() > deadline:
                self._lose()
            self._step()
        return self._born.pop(), ours

    def watch(self, descriptor: int) -> None:
        """Read from this descriptor from now on, and close it at the end."""
        os.set_blocking(descriptor, False)
        self._said[descriptor] = bytearray()
        self._open.add(descriptor)

    def said(self, descriptor: int) -> bytes:
        """All that has come over a watched descriptor."""
        return bytes(self._said[descriptor])

    def read_to_end(self, descriptors: Sequence[int], *, limit: int) -> None:
        """Until all are closed at the other end; more than limit bytes of one end the run."""
        while not self.exceeded and any(one in self._open for one in descriptors):
            self._step()
            for one in descriptors:
                if len(self._said[one]) > limit:
                    self._exceed("failed")
                    del self._said[one][limit:]

    def read_until(self, descriptor: int, length: int) -> None:
        """Until so many bytes have come, or nothing will come any more."""
        while not self.exceeded and descriptor in self._open and len(self._said[descriptor]) < length:
            self._step()

    def end(self, process: int) -> int | None:
        """How a process ended, negative for a signal; None where a limit was met."""
        while not self.exceeded and process not in self._codes:
            self._step()
        return None if self.exceeded else self._codes[process]

    def kill(self) -> None:
        """End every process."""
        self._killing = True
        deadline = time.monotonic() + _KILL_LIMIT_S
        if self._living:
            try:
                self._nursery.line.send(b'{"kill": true}')
            except OSError:
                self._lose()
        while self._living:
            if time.monotonic() > deadline:
                self._lose()
            self._step()

    def spent(self) -> float:
        """Seconds of this run so far, but for those that its processes or this one were seen to wait for a core."""
        return time.monotonic() - self._started_at - sum(self._queued.values()) - self._absent

    def _exceed(self, limit: Status) -> None:
        self.exceeded = limit
        self.kill()

    def _lose(self) -> None:
        self._living.clear()
        self._nursery.lost()
        raise LostError

    def _step(self) -> None:
        """Take what has come, or let a moment pass; look at the limits now and then."""
        line = self._nursery.line.fileno()
        if line < 0:
            raise LostError
        ready, _, _ = select.select([line, *self._open], [], [], _TICK_S)
        for descriptor in ready:
            if descriptor == line:
                self._hear()
            else:
                self._take(descriptor)
        if self._living and not self._killing and time.monotonic() - self._looked_at >= _TICK_S:
            self._look()

    def _hear(self) -> None:
        try:
            message = self._nursery.line.recv(MESSAGE_BYTES)
        except OSError:
            message = b""
        if not message:
            self._lose()
        told = json.loads(message)
        if "pid" in told:
            self._living.add(told["pid"])
            self._born.append(told["pid"])
            return
        self._living.discard(told["ended"])
        self._codes[told["ended"]] = told["code"]
        if told["code"] == -signal.SIGKILL and not self._killing:
            raise LostError

    def _take(self, descriptor: int) -> None:
        try:
            part = os.read(descriptor, 1 << 18)
        except BlockingIOError:
            return
        except OSError:  # a socket whose other end went away with something unread
            part = b""
        self._said[descriptor] += part
        if not part:
            self._open.discard(descriptor)

    def _look(self) -> None:
        """End the run where a process has used more than it may."""
        since, self._looked_at = self._looked_at, time.monotonic()
        self._absent += max(0.0, self._looked_at - since - 2 * _TICK_S)
        for process in self._living:
            now = used(process)
            if now is not None:
                self._computed[process], self._queued[process] = now.computed, now.queued
                if now.computed >= self._timeout_s:
                    return self._exceed("timeout")
            if held_memory(process) > (self._memory_mb << 20) + _MEMORY_SLACK:
                return self._exceed("memory")
        if any(scratch.over() for scratch in self._scratches):
            return self._exceed("failed")
        wall, idle = self._looked_at - self._started_at, self.spent() - sum(self._computed.values())
        if idle >= IDLE_FACTOR * self._timeout_s and not any(map(ready, self._living)):
            return self._exceed("timeout")
        if wall >= WALL_FACTOR * self._timeout_s + WALL_ADDED_S:
            return self._exceed("timeout")
        return None


def _memory_file(content: bytes) -> int:
    """A file in memory, to be read once and changed by nobody."""
    descriptor = os.memfd_create("passrl", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
