"""What a process takes on before it runs a model's program: limits, no rights, a filter of system calls, no files.

Three layers. None needs a right or a set-up of the machine, so they hold for root, for others and in containers:

1. rlimits, and as root the loss of every capability;
2. Landlock, where the kernel offers it: the interpreter and its libraries can be read, the scratch folder changed,
   nothing else opened (`landlock.py`);
3. a seccomp filter: one process, no socket, no signal to another process (`syscalls.py`).

Stdlib only.
"""

from __future__ import annotations

import ctypes
import math
import os
import resource
import struct
import sys
import sysconfig
from dataclasses import dataclass
from functools import cache

from pipelines.verifiers.limits import limit_memory
from pipelines.verifiers.sandbox import landlock
from pipelines.verifiers.sandbox.syscalls import known_machine, refuse_calls

OPEN_FILES = 64
FILE_BYTES = 16 << 20  # what one file in the scratch folder may hold

_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITIES_V3 = 0x20080522
_READABLE = (
    "/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/etc/mime.types", "/etc/nsswitch.conf",
    "/etc/passwd", "/etc/group", "/etc/fonts", "/dev/urandom", "/dev/random", "/proc/cpuinfo", "/proc/meminfo",
    "/sys/devices/system/cpu", "/sys/devices/system/node",
)  # fmt: skip
_CHANGEABLE = ("/dev/null",)


@dataclass(frozen=True, kw_only=True)
class Confinement:
    """What one process may use. cpu_s: processor seconds at which the kernel ends it; scratch: its working folder."""

    cpu_s: float
    memory_mb: int
    scratch: str


def active_isolation() -> str:
    """Which layers hold a program on this machine: `landlock-N+seccomp` (N the kernel's ABI), `seccomp` or `none`.

    With `seccomp` alone a program may read what this user may read, and change no file at all; with `none` none is run.
    """
    if not known_machine():
        return "none"
    return f"landlock-{landlock.abi()}+seccomp" if landlock.abi() else "seccomp"


def confine(limits: Confinement) -> None:
    """Take it all on; there is no way back. Raises OSError where the kernel lacks what it needs."""
    os.chdir(limits.scratch)
    limit_memory(limits.memory_mb)
    seconds = math.ceil(limits.cpu_s) + 1
    for kind, limit in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (limit, limit))
    _drop_capabilities()
    if landlock.abi():
        landlock.restrict_files(readable=readable(), changeable=(*_CHANGEABLE, limits.scratch))
    refuse_calls(files_guarded=landlock.abi() > 0)


@cache
def readable() -> tuple[str, ...]:
    """The interpreter, its libraries and what they look up: paths of which none lies beneath another."""
    paths = {*_READABLE, *map(os.path.realpath, (sys.prefix, sys.base_prefix, *sysconfig.get_paths().values()))}
    return tuple(sorted(path for path in paths if not any(path.startswith(f"{other}/") for other in paths)))


def _drop_capabilities() -> None:
    """As root this leaves what the owner of root's files may do; nothing changes for others."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the kernel refuses no_new_privs, so no program can be confined")
    header, none = struct.pack("=Ii", _CAPABILITIES_V3, 0), bytes(24)
    if libc.capset(header, none) != 0:
        raise OSError(ctypes.get_errno(), "the capabilities of this process cannot be dropped")
