"""Python code of a model, in a process of its own with limits on time and memory and without a network. Linux.

What holds it: wall-clock and CPU limits, RLIMIT_DATA for memory, RLIMIT_FSIZE and RLIMIT_NOFILE, a scratch folder that
is deleted, an empty environment, a seccomp filter that refuses to open a socket, and SIGKILL for its process group. It
keeps a model's mistakes from costing more than their row. It is no wall against an attacker: the files of this user can
be read. Run workers in a container for that.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import signal
import struct
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import Literal

from pipelines.verifiers.limits import die_with_parent, limit_memory

OUTPUT_LIMIT = 1 << 20  # bytes a program may write to one file, its output among them
OPEN_FILES = 64
_BOOT = "from pipelines.verifiers.sandbox import confined_main; confined_main(int(sys.argv[1]), int(sys.argv[2]))"

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
#: machine -> (AUDIT_ARCH, number of the call socket); io_uring_setup, which can open sockets too, is 425 on both.
#: socketpair stays: it reaches nothing outside, and asyncio needs it.
_MACHINES = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
_IO_URING_SETUP = 425
_X32_CALLS = 0x40000000  # x86_64 knows every call a second time from here on


@dataclass(frozen=True, slots=True)
class Run:
    """How a program ended. status: ok (exit code 0), failed, timeout, memory. output, error: its two streams."""

    status: Literal["ok", "failed", "timeout", "memory"]
    output: str
    error: str


def run_python(code: str, *, stdin: str = "", timeout_s: float = 5.0, memory_mb: int = 512) -> Run:
    """Run a program under the limits of this module.

    timeout_s: wall-clock and CPU seconds, the interpreter's start (0.1 s) included. memory_mb: of data, beyond which
    allocations fail.
    """
    with tempfile.TemporaryDirectory(prefix="passrl-") as folder:
        streams = {name: os.path.join(folder, name) for name in (".stdin", ".output", ".error")}
        with open(streams[".stdin"], "w", encoding="utf-8") as file:
            file.write(stdin)
        program = os.path.join(folder, "program.py")
        with open(program, "w", encoding="utf-8", errors="surrogatepass") as file:
            file.write(code)
        code_number = _run(folder, streams, timeout_s=timeout_s, memory_mb=memory_mb)
        output, error = (_read(streams[name]) for name in (".output", ".error"))
    if code_number is None or code_number == -signal.SIGXCPU:
        return Run("timeout", output, error)
    if code_number == 0:
        return Run("ok", output, error)
    return Run("memory" if "MemoryError" in error[-500:] else "failed", output, error)


def _run(folder: str, streams: dict[str, str], *, timeout_s: float, memory_mb: int) -> int | None:
    """The exit code, None at the time limit. Whatever it started is dead afterwards."""
    command = [sys.executable, "-I", "-c", _path_and_boot(), str(int(timeout_s) + 1), str(memory_mb)]
    with (
        open(streams[".stdin"], "rb") as stdin,
        open(streams[".output"], "wb") as output,
        open(streams[".error"], "wb") as error,
        # Output goes to files, whose size the kernel limits; a pipe would be this process's memory.
        subprocess.Popen(
            command,
            stdin=stdin,
            stdout=output,
            stderr=error,
            cwd=folder,
            env={"LC_ALL": "C.UTF-8", "HOME": folder, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,
        ) as process,
    ):
        try:
            return process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _path_and_boot() -> str:
    # -I keeps the scratch folder and the user's site off the path; this module itself has to be on it.
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return f"import sys; sys.path.append({root!r}); {_BOOT}"


def confined_main(cpu_seconds: int, memory_mb: int) -> None:
    """In the child: take the limits on, then run program.py as `__main__`."""
    import runpy

    die_with_parent()
    limit_memory(memory_mb)
    limits = {
        resource.RLIMIT_CPU: cpu_seconds,
        resource.RLIMIT_FSIZE: OUTPUT_LIMIT,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))
    refuse_network()
    sys.argv[:] = ["program.py"]
    runpy.run_path("program.py", run_name="__main__")


def refuse_network() -> None:
    """From here on this process and its children cannot open a socket: PermissionError. Raises OSError if not possible.

    A seccomp filter of the kernel, which any user may set: no namespace, no root.
    """
    machine = platform.machine()
    if sys.platform != "linux" or machine not in _MACHINES:
        raise OSError(f"on {sys.platform}/{machine} a program cannot be kept off the network; run it on Linux")
    architecture, socket_call = _MACHINES[machine]
    program = _seccomp_program(architecture, (socket_call, _IO_URING_SETUP))
    buffer = ctypes.create_string_buffer(program, len(program))

    class Filter(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))

    libc = ctypes.CDLL(None, use_errno=True)
    given = Filter(len(program) // 8, ctypes.addressof(buffer))
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(given), 0, 0),
    ):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "the kernel refuses a seccomp filter, so the network stays reachable")


def _seccomp_program(architecture: int, refused: tuple[int, ...]) -> bytes:
    """Classic BPF over struct seccomp_data (call number at 0, architecture at 4): EPERM for the refused calls."""
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06
    allow, kill, eperm = 0x7FFF0000, 0x80000000, 0x00050001
    checks = len(refused) + 1
    lines = [(load, 0, 0, 4), (equal, 1, 0, architecture), (give, 0, 0, kill), (load, 0, 0, 0)]
    lines += [(equal, checks - i, 0, number) for i, number in enumerate(refused)]
    lines += [(at_least, 1, 0, _X32_CALLS), (give, 0, 0, allow), (give, 0, 0, eperm)]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def _read(path: str) -> str:
    with open(path, "rb") as file:
        return file.read(OUTPUT_LIMIT).decode(errors="replace")
