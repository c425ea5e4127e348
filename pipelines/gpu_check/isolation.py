"""A check, or one side of a comparison, in a process of its own, which ends with all that it started.

Every process below bears a mark in its environment; torchrun's ranks and vLLM's workers leave the session of whoever
started them, but keep the environment.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
MARK = "PASSRL_GPU_CHECK"
OFFLINE = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
SECONDS_TO_END = 30.0
TAIL = 2000  # characters of a log that a failed line quotes


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a process ended. code: its exit code, None where it was ended for its time. answer: what it left."""

    code: int | None
    answer: Any
    log: str

    @property
    def words(self) -> str:
        """What went wrong, with the end of its log."""
        last = "\n".join(self.log.strip().splitlines()[-8:])[-TAIL:]
        if self.code is not None and self.code < 0:
            return f"its process was ended by {signal.Signals(-self.code).name}; {last}"
        return f"its process ended with exit code {self.code}; {last}"


def run_marked(arguments: Sequence[str], *, request: Any, log: Path, seconds: float) -> Ended:
    """Run `python ARGUMENTS ANSWER` with a pickled request on standard input; at the end nothing of it is left.

    What the process pickles into the file ANSWER is the answer. Standard output and error go into `log`.
    """
    answer = log.with_suffix(".answer")
    answer.unlink(missing_ok=True)
    with marked() as environment, log.open("wb") as written:
        process = subprocess.Popen(
            [sys.executable, *arguments, str(answer)],
            stdin=subprocess.PIPE,
            stdout=written,
            stderr=subprocess.STDOUT,
            env=environment | OFFLINE,
            start_new_session=True,
        )
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(pickle.dumps(request), timeout=seconds)
            code = process.poll()
        finally:
            end_marked(environment[MARK])
            process.wait()
    left = pickle.loads(answer.read_bytes()) if answer.exists() else None
    return Ended(code=code, answer=left, log=log.read_text(encoding="utf-8", errors="replace"))


@contextlib.contextmanager
def marked() -> Iterator[dict[str, str]]:
    """An environment for a process whose descendants are to be found; they are ended afterwards."""
    mark = uuid.uuid4().hex
    inherited = os.environ.get(MARK)
    try:
        yield dict(os.environ) | {MARK: mark if inherited is None else f"{inherited},{mark}"}
    finally:
        end_marked(mark)


def alive(mark: str) -> dict[int, str]:
    """Command line, by pid, of every process that bears the mark and has not ended."""
    found = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and mark.encode() in _value((entry / "environ").read_bytes(), MARK):
                found[int(entry.name)] = (entry / "cmdline").read_text(errors="replace").replace("\0", " ").strip()
    return found


def end_marked(mark: str) -> None:
    """SIGKILL to every process that bears the mark, until none is left."""
    until = time.monotonic() + SECONDS_TO_END
    while (pids := alive(mark)) and time.monotonic() < until:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    """Whether the condition comes true in that time."""
    until = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < until:
        time.sleep(0.1)
    return met


def alone(function: Callable[..., T], *arguments: Any, environment: Mapping[str, str] | None = None) -> T:
    """The function's result, computed in a fresh process: one vLLM engine or one trainer each, and no leftovers.

    Raises what the function raises, and BrokenProcessPool where its process died.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_with_environment, dict(environment or {}), function, arguments).result()


def _with_environment(environment: Mapping[str, str], function: Callable[..., T], arguments: Sequence[Any]) -> T:
    os.environ.update(environment)
    return function(*arguments)


def _value(environ: bytes, name: str) -> bytes:
    prefix = f"{name}=".encode()
    return next((item.removeprefix(prefix) for item in environ.split(b"\0") if item.startswith(prefix)), b"")
