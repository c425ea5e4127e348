"""What bounds a child process of the verifiers, from within and from outside. Stdlib only: every child imports this."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4


def die_with_parent() -> None:
    """A parent killed with SIGKILL takes this process along (Linux), even where it hangs."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def hide_memory() -> None:
    """From here on only root reads this process's memory and environment, or traces it (Linux). Forks inherit it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0)


def limit_memory(megabytes: int) -> None:
    """Beyond so much data of its own an allocation fails (MemoryError). Where memory runs out, this one goes first.

    RLIMIT_DATA: what is private and writable. Address space that is only reserved (torch, numba) does not count.
    """
    resource.setrlimit(resource.RLIMIT_DATA, (megabytes << 20, megabytes << 20))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")


@dataclass(frozen=True, slots=True)
class Used:
    """Seconds that a process computed, and seconds that it was ready to but other processes had the cores."""

    computed: float
    queued: float


def used(pid: int) -> Used | None:
    """What a process has used so far, over all its threads; None where it is gone or the system does not tell (macOS).

    A thread that has ended takes its queueing time along: `queued` is at most a little too small.
    """
    try:
        # The kernel's number of another process's clock, as clock_getcpuclockid(3) makes it.
        computed = time.clock_gettime((~pid << 3) | 2)
        queued = sum(int(told.split()[1]) for told in _of_threads(pid, "schedstat"))
    except (OSError, IndexError):
        return None
    return Used(computed, queued * 1e-9)


def ready(pid: int) -> bool:
    """Whether a thread of a process computes or waits for a core now (Linux). `used` tells of a wait once it ends."""
    try:
        return any(_state(stat) == b"R" for stat in _of_threads(pid, "stat"))
    except (OSError, IndexError):
        return False


def held_memory(pid: int) -> int:
    """Bytes of memory that are a process's own or shared with others, files not counted; 0 where it is gone."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            lines = dict(line.split(b":", 1) for line in file if line.startswith(b"Rss"))
    except OSError:
        return 0
    return sum(int(lines.get(name, b"0").split()[0]) << 10 for name in (b"RssAnon", b"RssShmem"))


def stopped(pid: int) -> bool:
    """Whether a process has been stopped by a signal (SIGSTOP), so that it does nothing until it is continued."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return _state(file.read()) in {b"T", b"t"}
    except (OSError, IndexError):
        return False


def _of_threads(pid: int, name: str) -> Iterator[bytes]:
    """What /proc tells of each thread. One that ends meanwhile does not make the process one that is gone."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        with (
            contextlib.suppress(FileNotFoundError, ProcessLookupError),
            open(f"/proc/{pid}/task/{thread}/{name}", "rb") as file,
        ):
            yield file.read()


def _state(stat: bytes) -> bytes:
    """The third field of proc_pid_stat(5)."""
    return stat.rpartition(b")")[2].split()[0]
