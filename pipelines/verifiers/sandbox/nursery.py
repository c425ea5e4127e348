"""The process that makes the processes in which programs run: it forks them, and has nothing in it worth reading.

A fresh interpreter costs 0.1 s, a fork of this one a few milliseconds. It never sees a program, an input or an expected
value: those are in a file in memory that its child reads, once the child is confined, and its environment is empty.
`pipelines.verifiers.sandbox` starts it and talks to it over a socket:

    to the supervisor, first                {"problem": why nothing can be run here, else ""}
    {"run": ROLE, "limits": {...}} with descriptors (payload, stdin, stdout, stderr, others of the role) -> {"pid": N}
    {"kill": true}                          every child is killed
    to the supervisor, of its own accord    {"ended": N, "code": C}

Stdlib only. What it imports here, every program has at no cost.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import io
import json
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from pipelines.verifiers.limits import die_with_parent, hide_memory
from pipelines.verifiers.sandbox.confine import Confinement, confine, readable

# What programs and the roles import, without which a program would read it from the disk each time.
_PRELOADED = [
    "array", "asyncio", "bisect", "cmath", "collections.abc", "contextlib", "copy", "csv", "dataclasses", "datetime",
    "decimal", "enum", "fractions", "functools", "heapq", "inspect", "itertools", "math", "numbers", "operator",
    "pathlib", "queue", "random", "re", "statistics", "string", "struct", "tempfile", "textwrap", "time", "traceback",
    "types", "typing", "unittest", "pipelines.verifiers.sandbox.roles", "pipelines.verifiers.sandbox.harness",
]  # fmt: skip
MESSAGE_BYTES = 1 << 16

#: "{"run": ...}" -> the function that the child then calls with (payload, descriptors)
ROLES = {
    "script": "pipelines.verifiers.sandbox.roles:script",
    "program": "pipelines.verifiers.sandbox.roles:program",
    "cells": "pipelines.verifiers.sandbox.roles:cells",
    "tests": "pipelines.verifiers.sandbox.harness:tests",
}


def main(handle: int, root: str) -> None:
    """Serve the supervisor at the other end of the socket `handle` until it hangs up. In a child: its role.

    root: the folder this project was imported from, which is no program's business.
    """
    die_with_parent()
    hide_memory()
    for module in _PRELOADED:
        importlib.import_module(module)
    sys.path.remove(root)
    readable()  # its children find it found
    sys.set_int_max_str_digits(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the supervisor's
    gc.collect()
    gc.freeze()  # what is here already is no child's to collect, so it stays shared
    supervisor = socket.socket(fileno=handle)
    supervisor.send(json.dumps({"problem": _problem()}).encode())
    role = _serve(supervisor)
    if role is not None:
        _finish(role)


def _finish(role: Callable[[], None]) -> None:
    """Run it and end as the interpreter does, but for what it would take apart: that takes longer than the rest."""
    code = 1
    try:
        role()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if not isinstance(error.code, int | None):
            print(error.code, file=sys.stderr)
    except BaseException as error:  # noqa: BLE001  the program's
        sys.excepthook(type(error), error, error.__traceback__)
    try:
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.modules["__main__"].__dict__.clear()  # files that the program has not closed are written
        gc.collect()
        sys.__stdout__.flush()  # type: ignore[union-attr]
    finally:
        os._exit(code & 0xFF)


def _problem() -> str:
    """Why a child of this process could not be confined; nothing where it can be."""
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        problem = ""
        try:
            confine(Confinement(cpu_s=1, memory_mb=256, scratch="/"))
        except OSError as error:
            problem = str(error)
        os.write(writable, problem.encode())
        os._exit(0)
    os.close(writable)
    with open(readable, "rb") as file:
        problem = file.read().decode()
    _, status = os.waitpid(child, 0)
    return problem or ("" if status == 0 else "a confined process ends at once")


def _serve(supervisor: socket.socket) -> Callable[[], None] | None:
    """What a child of this process has to do; None in this process itself, once the supervisor has gone."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    children: set[int] = set()
    while True:
        ready, _, _ = select.select([supervisor.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
        _reap(children, supervisor)
        if supervisor.fileno() not in ready:
            continue
        message, descriptors, _, _ = socket.recv_fds(supervisor, MESSAGE_BYTES, 16)
        asked = json.loads(message) if message else None
        if asked is None or "kill" in asked:
            for child in children:
                os.kill(child, signal.SIGKILL)
            if asked is None:
                return None
            continue
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            os.close(woken)
            supervisor.close()
            return _become(asked, descriptors, parent)
        for descriptor in descriptors:
            os.close(descriptor)
        children.add(child)
        supervisor.send(json.dumps({"pid": child}).encode())


def _reap(children: set[int], supervisor: socket.socket) -> None:
    while children:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child == 0:
            return
        children.discard(child)
        supervisor.send(json.dumps({"ended": child, "code": os.waitstatus_to_exitcode(status)}).encode())


def _become(asked: dict[str, Any], descriptors: Sequence[int], parent: int) -> Callable[[], None]:
    """In the child: nothing of this process is left but its modules, and the limits hold. Gives what is to be done."""
    die_with_parent()
    if os.getppid() != parent:
        os._exit(1)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    payload, *streams = descriptors[:4]
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    others = list(descriptors[4:])
    _close_all_but({0, 1, 2, payload, *others})
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(open(0, "rb", closefd=False), "utf-8")  # type: ignore[misc]  # noqa: SIM115
    sys.stdout = sys.__stdout__ = io.TextIOWrapper(open(1, "wb", closefd=False), "utf-8")  # type: ignore[misc]  # noqa: SIM115
    sys.stderr = sys.__stderr__ = io.TextIOWrapper(  # type: ignore[misc]
        open(2, "wb", closefd=False), "utf-8", "backslashreplace", line_buffering=True  # noqa: SIM115
    )  # fmt: skip
    limits = Confinement(**asked["limits"])
    os.environ.update(HOME=limits.scratch, TMPDIR=limits.scratch, MPLCONFIGDIR=limits.scratch)
    confine(limits)
    with open(payload, "rb") as file:
        given = json.load(file)
    module, _, name = ROLES[asked["run"]].partition(":")
    function = getattr(sys.modules[module], name)
    return lambda: function(given, others)


def _close_all_but(kept: set[int]) -> None:
    low = 3
    for descriptor in sorted(kept - {0, 1, 2}):
        os.closerange(low, descriptor)
        low = descriptor + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX") if os.sysconf("SC_OPEN_MAX") < 1 << 16 else 1 << 16)
