"""Programs of a model in confined processes, as their supervisor sees them. Linux.

`confine` says what a process may do, `nursery` forks it, `session` watches what it uses and ends it; here is what is
run. Whatever a program does costs its own run at most and leaves no process and no file:

- processor time over the limit, more idle time than that again and again, memory, output or files beyond their bounds
  end the run; time during which other processes had the cores does not count, so a busy machine changes no verdict;
- where something from outside ends a process of this module (the system out of memory, an operator), the run starts
  again, three times at most.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pipelines.verifiers.sandbox.confine import active_isolation
from pipelines.verifiers.sandbox.roles import NONCE_BYTES
from pipelines.verifiers.sandbox.session import Budget, LostError, Session, Status

__all__ = ["OUTPUT_LIMIT", "Budget", "Run", "active_isolation", "run_cells", "run_python", "run_test"]

OUTPUT_LIMIT = 32 << 20  # bytes of output that are read; more ends the program
ATTEMPTS = 3

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Run:
    """How a program ended. status: ok (exit code 0), failed, timeout, memory. output, error: its two streams."""

    status: Status
    output: str
    error: str


def run_python(
    code: str | Sequence[str],
    *,
    stdin: str = "",
    timeout_s: float = 5.0,
    memory_mb: int = 512,
    prelude: str = "",
    output_limit: int = OUTPUT_LIMIT,
    budget: Budget | None = None,
) -> Run:
    """Run a program under the limits of this module.

    code: the program, or parts of it that are compiled one by one and share their names. timeout_s: seconds of the
    processor. memory_mb: of data, beyond which allocations fail. prelude: code of a data
    set's harness before it. budget: shared by several runs.
    """
    parts = [code] if isinstance(code, str) else list(code)

    def attempt(session: Session) -> Run:
        given = {"parts": parts, "prelude": prelude}
        pid, (output, error) = session.start("script", given, stdin=stdin.encode("utf-8", "surrogatepass"), pipes=2)
        session.read_to_end([output, error], limit=output_limit)
        code_number = session.end(pid)
        texts = [session.said(one).decode("utf-8", "replace") for one in (output, error)]
        status = session.exceeded or ("ok" if code_number == 0 else "failed")
        if status == "failed" and "MemoryError" in texts[1][-500:]:
            status = "memory"
        return Run(status, *texts)

    return _attempts(attempt, timeout_s=timeout_s, memory_mb=memory_mb, budget=budget) or Run("failed", "", "")


def run_test(
    code: Sequence[str],
    test: Mapping[str, Any],
    *,
    timeout_s: float = 5.0,
    memory_mb: int = 512,
    prelude: str = "",
    budget: Budget | None = None,
) -> tuple[str, str]:
    """(status, detail) of a test against a program: passed, failed or reference, which says that the test is at fault.

    test: what `pipelines.verifiers.sandbox.harness.tests` takes. It runs in another process than the program does,
    under the same limits; the two talk over a socket.
    """

    def attempt(session: Session) -> tuple[str, str]:
        ours, theirs = socket.socketpair()
        verdict, report = os.pipe()
        with ours, theirs, open(report, "wb", closefd=True) as reporting:
            session.start("program", {"parts": list(code), "prelude": prelude}, others=[theirs.fileno()])
            harness, _ = session.start("tests", dict(test), others=[ours.fileno(), reporting.fileno()])
        session.watch(verdict)
        session.read_to_end([verdict], limit=1 << 16)
        session.end(harness)
        if session.exceeded:
            return "failed", session.exceeded
        try:
            found = json.loads(session.said(verdict))
        except ValueError:
            return "failed", "the tests did not come to their end"
        return str(found["status"]), str(found["detail"])

    return _attempts(attempt, timeout_s=timeout_s, memory_mb=memory_mb, budget=budget) or ("failed", "it was not run")


def run_cells(code: Sequence[str], *, timeout_s: float = 5.0, memory_mb: int = 512) -> list[bool]:
    """Which of these pieces of code ran through, one after the other in one process and one namespace.

    One that ends the process, or that is running at the limit, did not, nor did any after it. Before each piece the
    process is told a number and must answer with it: what an earlier piece has written counts against it, not for it.
    """

    def attempt(session: Session) -> list[bool]:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            session.start("cells", {"parts": list(code), "prelude": ""}, others=[theirs.fileno()])
            theirs.close()
            line = ours.detach()
        session.watch(line)
        ran: list[bool] = []
        for number in range(len(code)):
            nonce = os.urandom(NONCE_BYTES)
            before = len(session.said(line))
            with contextlib.suppress(OSError):
                os.write(line, nonce)
            session.read_until(line, before + NONCE_BYTES + 1)
            said = session.said(line)
            expected = number * (NONCE_BYTES + 1)
            if before != expected or said[expected:] not in {nonce + b"0", nonce + b"1"}:
                break
            ran.append(said.endswith(b"1"))
        return ran + [False] * (len(code) - len(ran))

    return _attempts(attempt, timeout_s=timeout_s, memory_mb=memory_mb, budget=None) or [False] * len(code)


def _attempts(
    attempt: Callable[[Session], _T], *, timeout_s: float, memory_mb: int, budget: Budget | None
) -> _T | None:
    """What a run gives; None where no time was left for it, or where it was killed from outside every time."""
    for _ in range(ATTEMPTS):
        if budget is not None and budget.left_s <= 0:
            return None
        with contextlib.suppress(LostError), Session(timeout_s=timeout_s, memory_mb=memory_mb) as session:
            found = attempt(session)
            if budget is not None:
                budget.left_s -= session.spent()
            return found
    return None
