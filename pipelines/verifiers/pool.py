"""Functions that may hang or crash, called in child processes that can be killed.

A call's time limit counts from the answer to the call before it: the seconds in which the child computes or does
nothing at all. While other processes have the cores it does not count, so a busy machine changes no verdict. What goes
wrong is that call's alone: the child is killed, a fresh one goes on with the next call. No signal is used and nothing
is forked with a copy of this process, so it works on any thread (Beam's are never the main one) of a process that holds
an engine. Children are new interpreters that import neither this process's `__main__` nor, of this project, anything
beyond `pass_ops.support.importing` and `pipelines.verifiers`.

docs/decisions/005-verifier-pool.md says why not a library's pool.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from pass_ops.errors import PassError
from pass_ops.support.temporary import temporary_prefix
from pipelines.verifiers.batches import Board, board_handle
from pipelines.verifiers.limits import hide_memory, ready, stopped, used
from pipelines.verifiers.scratch import PARENT_VARIABLE, remove_folder

# A child imports the target before its first call; what that import costs is in no call's limit.
START_LIMIT_S = 120.0
# The wall clock's limit of a call, in its time limits and at least in seconds: far above what a busy machine takes.
WALL_FACTOR, WALL_LIMIT_S = 60.0, 600.0
# How often a call is asked again whose child was killed from outside (the system out of memory, an operator).
KILLED_LIMIT = 3
CHUNK_CALLS = 256
_TICK_S = 0.05
DEFAULT_MEMORY_MB = 4096
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[3]); "
    "from pipelines.verifiers.worker import main; "
    "main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[4:6], int(sys.argv[6]))"
)


class WorkerStartError(PassError, RuntimeError):
    """The function to call cannot be imported in a child process, or the child does not start."""


class CallResult(NamedTuple):
    """status: ok (value is the adapted return value), timeout or error (value None, detail says why)."""

    status: str
    value: Any = None
    detail: str = ""


class CallPool:
    """Up to `workers` child processes that call one function; thread-safe, any number of threads may `map` at once.

    target: the function, `module:name`. adapter: `module:name` of a function from its return value to plain built-in
    values; what it raises is an error of that call. memory_mb: what one child may hold; beyond it allocations fail.
    """

    def __init__(self, target: str, *, adapter: str, workers: int, memory_mb: int = DEFAULT_MEMORY_MB) -> None:
        if workers < 1:
            raise ValueError(f"workers is {workers}; it must be at least 1")
        self._target, self._adapter = target, adapter
        self._workers, self._memory_mb = workers, memory_mb
        # One thread a child: the kernel ends a child with the thread that started it (worker._die_with_parent).
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix=f"verify-{target}")
        self._mine = threading.local()
        self._children: set[_Child] = set()
        self._lock = threading.Lock()
        self._closed = False
        hide_memory()  # reference answers and the environment's secrets are in this process

    def map(
        self, calls: Sequence[tuple[Any, ...]], *, options: Mapping[str, Any], timeout_s: float
    ) -> list[CallResult]:
        """The results of `function(*call, **options)`, in order. Raises WorkerStartError where none can be called.

        calls: tuples of arguments, or `Columns` of them, of which a child gets its share as it is, without an object
        a text.
        """
        size = max(1, min(CHUNK_CALLS, -(-len(calls) // (4 * self._workers))))
        stop = threading.Event()
        futures = [
            self._threads.submit(self._run, calls[start : start + size], dict(options), timeout_s, stop)
            for start in range(0, len(calls), size)
        ]
        try:
            return [result for future in futures for result in future.result()]
        finally:
            stop.set()
            for future in futures:
                future.cancel()

    def pids(self) -> list[int]:
        """The children's process ids."""
        with self._lock:
            return [child.pid for child in self._children]

    def close(self) -> None:
        """Kill the children and end the threads; a `map` under way raises. Closing twice is no error."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._closed = True
            for child in self._children:
                child.kill()

    def _run(
        self, calls: Sequence[tuple[Any, ...]], options: Mapping[str, Any], timeout_s: float, stop: threading.Event
    ) -> list[CallResult]:
        results: list[CallResult] = []
        killed = 0  # children that died at the next call
        while len(results) < len(calls) and not stop.is_set():
            child = self._child()
            before = len(results)
            failure = child.call(calls[before:], options, timeout_s, results)
            if failure is None:
                break
            self._discard(child)
            killed = (killed if len(results) == before else 0) + child.killed_from_outside
            # A child that had answered before may have been brought down by an earlier call (a thread it left behind):
            # the call at which it died is asked again, as the first of a fresh child. So is one whose child was killed
            # from outside, but for a call at which that happens every time.
            again = child.killed_from_outside or (failure.status != "timeout" and child.answered)
            if len(results) < len(calls) and (killed >= KILLED_LIMIT or not again):
                results.append(failure)
                killed = 0
        return results

    def _child(self) -> _Child:
        child: _Child | None = getattr(self._mine, "child", None)
        if child is None:
            with self._lock:
                if self._closed:
                    raise WorkerStartError(f"{self._target}: its pool was closed while calls were under way")
                child = _Child(self._target, self._adapter, self._memory_mb)
                self._children.add(child)
            failure = child.start_failure()
            if failure is not None:
                self._discard(child)
                raise WorkerStartError(
                    f"{self._target}: it cannot be called in a child process, so nothing can be scored: {failure}"
                )
            self._mine.child = child
        return child

    def _discard(self, child: _Child) -> None:
        self._mine.child = None
        with self._lock:
            self._children.discard(child)
        child.kill()
        child.hang_up()


class _Child:
    """One child process and the line to it."""

    def __init__(self, target: str, adapter: str, memory_mb: int) -> None:
        here, there = socket.socketpair()
        with there:
            handle = there.fileno()
            board = board_handle()
            arguments = [str(handle), str(board), json.dumps(sys.path), target, adapter, str(memory_mb)]
            command = [sys.executable, "-u", "-c", _BOOT, *arguments]
            # A session of its own: a terminal's Ctrl-C does not reach it, and it is killed with what it started itself.
            # What a verifier prints goes to standard error, at once (-u); standard output may be somebody's JSON.
            # What the programs it runs leave behind when it is killed goes with it.
            self._scratch = os.path.join(tempfile.gettempdir(), temporary_prefix() + uuid.uuid4().hex[:12])
            self._process = subprocess.Popen(
                command,
                pass_fds=(handle, board),
                stdin=subprocess.DEVNULL,
                stdout=2,
                start_new_session=True,
                env=os.environ | {PARENT_VARIABLE: self._scratch},
            )
            self._board = Board(board)
            os.close(board)
        self._line = Connection(here.detach())
        self.answered = 0
        self.killed_from_outside = False

    @property
    def pid(self) -> int:
        return self._process.pid

    def start_failure(self) -> str | None:
        """Wait for the child to import its function; why it could not."""
        try:
            if not self._line.poll(START_LIMIT_S):
                return f"the import took more than {START_LIMIT_S:.0f} s"
            state, detail = self._line.recv()
        except (EOFError, OSError):
            return f"the import ended the process ({self._exit_name()})"
        return None if state == "ready" else str(detail)

    def call(
        self, calls: Sequence[tuple[Any, ...]], options: Mapping[str, Any], timeout_s: float, results: list[CallResult]
    ) -> CallResult | None:
        """Append the results of calls in order; the failure of the first that has none, which ends the child's use."""
        before, received = len(results), 0
        failure = answered = None
        try:
            self._line.send((options, calls))
            while received < len(calls):
                if (answered := self._stuck(received, timeout_s)) is not None:
                    self.killed_from_outside = stopped(self._process.pid)
                    failure = CallResult("timeout", detail=f"no result within {timeout_s:g} s")
                    break
                results += map(CallResult._make, self._line.recv())
                received = len(results) - before
        except (EOFError, OSError):
            name = self._exit_name()
            self.killed_from_outside = self._process.returncode in {-signal.SIGKILL, -signal.SIGTERM}
            failure = CallResult("error", detail=f"it ended the process that called it ({name})")
        if failure is not None:
            results += map(CallResult._make, self._left(received, answered))
        self.answered += len(results) - before
        return failure

    def _left(self, received: int, answered: int | None) -> list[Any]:
        """The answers of a child that is of no more use, from number `received` to number `answered` (None: all)."""
        self.kill()  # nobody writes on the board any more
        sent: list[Any] = []
        with contextlib.suppress(EOFError, OSError):
            while self._line.poll():
                sent += self._line.recv()
        answered = self._board.answered if answered is None else answered
        return (sent + self._board.read(received=received + len(sent), answered=answered))[: answered - received]

    def _stuck(self, received: int, timeout_s: float) -> int | None:
        """None once something comes over the line; how many calls are answered where the next one took too long.

        A call takes too long that has computed, or done nothing, for so many seconds. received: answers that came.
        """
        if self._line.poll(min(_TICK_S, timeout_s)):
            return None
        answered = max(received, self._board.answered)
        started = looked = time.monotonic()
        first = last = used(self._process.pid)
        idle = 0.0
        while not self._line.poll(_TICK_S):
            now, at = used(self._process.pid), time.monotonic()
            if self._board.answered > answered:  # it is at another call by now
                answered, started, first, last, idle = self._board.answered, at, now, now, 0.0
            elif now is None or first is None:  # no Linux, or just ended: by the wall clock
                idle = at - started
            elif now == last and not ready(self._process.pid):  # it neither computed nor waited for a core
                idle += min(at - looked, 2 * _TICK_S)  # where this process looks late, the machine was busy or paused
            elif last is not None:
                # A wait for a core is told once it has ended; what of it came before this look was not idle.
                idle = max(0.0, idle - max(0.0, now.queued - last.queued - (at - looked)))
            computed = now.computed - first.computed if now and first else 0.0
            if max(idle, computed) >= timeout_s or at - started >= max(WALL_FACTOR * timeout_s, WALL_LIMIT_S):
                return answered
            last, looked = now, at
        return None

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        remove_folder(self._scratch)

    def hang_up(self) -> None:
        self._line.close()
        self._board.close()

    def _exit_name(self) -> str:
        """How the process at the other end of a closed line ended."""
        try:
            code = self._process.wait(timeout=10.0)
        except subprocess.TimeoutExpired:
            return "it lives, but closed its line"
        return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


# The process's pools, by what they call: kept over parts, stages and rounds, closed at exit.
_pools: dict[tuple[str, str, int, int], CallPool] = {}
_pools_lock = threading.Lock()


def shared_pool(
    target: str, *, adapter: str, workers: int | None = None, memory_mb: int = DEFAULT_MEMORY_MB
) -> CallPool:
    """The pool that this process keeps for target; workers None = one a core."""
    key = (target, adapter, workers or os.cpu_count() or 1, memory_mb)
    with _pools_lock:
        if key not in _pools:
            _pools[key] = CallPool(target, adapter=adapter, workers=key[2], memory_mb=memory_mb)
        return _pools[key]


def close_pools() -> None:
    """Close every shared pool; the next `shared_pool` starts afresh."""
    with _pools_lock:
        pools = list(_pools.values())
        _pools.clear()
    for pool in pools:
        pool.close()


# At the interpreter's end, before it waits for the pools' threads: those wait for their children, up to the time limit
# of a call, which would hold up a Ctrl-C for so long. atexit comes after that wait; concurrent.futures registers alike.
threading._register_atexit(close_pools)  # type: ignore[attr-defined]
