"""Runs `passrl` in a process of its own that is killed with SIGKILL, at a named operation on files or by the clock.

The processes are forked from a server that has imported what a run needs, so that a kill costs seconds, not start-up.
The kill sits in `Store._hook`, and in what the trainer moves and removes files of its state with; they are patched in
the child alone: nothing in the project knows of it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from types import MappingProxyType
from typing import Any

PRELOAD = ["apache_beam", "torch", "transformers", "numba", "polars", "pipelines.runs.rounds", "pipelines.parts.job",
           "pipelines.cli.commands", "trainer.run", "pipelines.engines.vllm", "vllm.v1.engine.llm_engine",
           "tests.e2e.killing"]  # fmt: skip
WITHOUT_VLLM = [name for name in PRELOAD if "vllm" not in name]  # seconds less to start


@dataclass(frozen=True, kw_only=True)
class Point:
    """Die right before the count-th operation (from 1) whose "OPERATION PATH" the pattern is found in.

    OPERATION is one of a store's, or rename, unlink or rmtree of local files.
    """

    pattern: str
    count: int = 1


def passrl(
    arguments: Sequence[str],
    log: str,
    point: Point | None = None,
    *,
    preload: Sequence[str] = PRELOAD,
    environment: Mapping[str, str] | None = None,
) -> BaseProcess:
    """Start a command; its output goes to the file `log`. The first call of a process decides what is preloaded.

    environment: variables for it and the processes it starts, beside those the first call found.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    process = context.Process(target=_run, args=(list(arguments), log, point, dict(environment or {})))
    process.start()
    return process


def finished(arguments: Sequence[str], log: str) -> int:
    """Run a command to its end; its exit code."""
    process = passrl(arguments, log)
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def killed_at(point: Point, arguments: Sequence[str], log: str) -> None:
    """Run a command until it kills itself at the point; fails if it never came there."""
    process = passrl(arguments, log, point)
    process.join()
    assert process.exitcode == -signal.SIGKILL, f"{point} was not reached: exit code {process.exitcode}, see {log}"


def killed_after(seconds: float, arguments: Sequence[str], log: str) -> bool:
    """Run a command and kill it after some seconds; False if it was done before."""
    process = passrl(arguments, log)
    process.join(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    return process.exitcode == -signal.SIGKILL


def _run(
    arguments: list[str], log: str, point: Point | None, environment: Mapping[str, str] = MappingProxyType({})
) -> None:
    os.environ.update(environment)
    tempfile.tempdir = None  # TMPDIR is read anew
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    from pipelines.cli.parser import main

    if point is not None:
        _kill_at(point)
    sys.exit(main(arguments))


def _kill_at(point: Point) -> None:
    """Have this process kill itself at a point."""
    from pass_ops.shards.store import Store

    left = point.count

    def reached(told: str) -> None:
        nonlocal left
        if re.search(point.pattern, told):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def telling(name: str, does: Callable[..., Any]) -> Callable[..., Any]:
        def told(path: Any, *others: Any, **named: Any) -> Any:
            reached(f"{name} {path}")
            return does(path, *others, **named)

        return told

    Store._hook = lambda self, operation, name: reached(f"{operation} {self.root}/{name}")
    os.rename, os.unlink = telling("rename", os.rename), telling("unlink", os.unlink)
    shutil.rmtree = telling("rmtree", shutil.rmtree)  # type: ignore[assignment]
