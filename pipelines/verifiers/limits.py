"""What bounds a child process of the verifiers from within. Stdlib only: every child imports this."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """A parent killed with SIGKILL takes this process along (Linux), even where it hangs."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def limit_memory(megabytes: int) -> None:
    """Beyond so much data of its own an allocation fails (MemoryError). Where memory runs out, this one goes first.

    RLIMIT_DATA: what is private and writable. Address space that is only reserved (torch, numba) does not count.
    """
    resource.setrlimit(resource.RLIMIT_DATA, (megabytes << 20, megabytes << 20))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")
