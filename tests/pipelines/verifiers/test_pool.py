"""The pool of killable processes: what one call does to itself, and nothing to its neighbours."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import pytest

from pipelines.verifiers import pool as pool_module
from pipelines.verifiers.limits import Used
from pipelines.verifiers.pool import CallPool, WorkerStartError, shared_pool

LIMIT_S = 2.0

MODULE = """
import ctypes, os, sys, threading, time

napping = threading.Event()

def act(what):
    if what == "hang": time.sleep(3600)
    if what == "spin": exec("while True: pass")
    if what == "leave": os._exit(0)
    if what == "quit": sys.exit(3)
    if what == "segfault": ctypes.string_at(0)
    if what == "raise": raise LookupError("no such thing")
    if what == "print": print("to standard output")
    if what == "late": threading.Thread(target=lambda: napping.wait() and os._exit(7)).start()
    if what == "nap": napping.set(); time.sleep(0.5)
    if what == "long nap": time.sleep(2)
    if what == "longest nap": time.sleep(60)
    if what == "lock": return threading.Lock()
    return what.upper()

def killed_until(path, times, signal):
    # as by an operator, or by a system out of memory
    with open(path, "a") as file: file.write("x")
    if os.path.getsize(path) <= times:
        os.kill(os.getpid(), signal)
        time.sleep(3600)
    return "answered"

def compute(seconds):
    while time.process_time() < seconds: pass
    return "computed"

def leave_a_file(_):
    from pipelines.verifiers.scratch import Scratch
    open(Scratch().path + "/left", "w").close()
    time.sleep(3600)

def same(value): return value
def pid(_): return os.getpid()
def tell_and_hang():
    print(os.getpid(), file=sys.stderr, flush=True)
    time.sleep(3600)

def loaded(name): return name in sys.modules
def shout(text, *, mark): return text + mark
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "pool_acts.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return "pool_acts"


@pytest.fixture
def make_pool(module: str):
    pools = []

    def make(name: str = "act", *, workers: int = 1, adapter: str = "copy:copy") -> CallPool:
        pools.append(CallPool(f"{module}:{name}", adapter=adapter, workers=workers))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def outcomes(pool: CallPool, calls: list[str]) -> list[tuple[str, object]]:
    results = pool.map([(call,) for call in calls], options={}, timeout_s=LIMIT_S)
    return [(result.status, result.value) for result in results]


@pytest.mark.parametrize(
    ("bad", "status"),
    [
        ("hang", "timeout"),
        ("spin", "timeout"),
        ("leave", "error"),
        ("quit", "error"),
        ("segfault", "error"),
        ("raise", "error"),
    ],
)
def test_a_bad_call_loses_its_own_result_and_its_neighbours_keep_theirs(make_pool, bad: str, status: str) -> None:
    found = outcomes(make_pool(), ["a", "b", bad, "c", "d"])
    assert found == [("ok", "A"), ("ok", "B"), (status, None), ("ok", "C"), ("ok", "D")]


def test_several_bad_calls_in_a_row_are_each_told_apart(make_pool) -> None:
    found = outcomes(make_pool(), ["leave", "hang", "segfault", "a", "raise"])
    assert [status for status, _ in found] == ["error", "timeout", "error", "ok", "error"]


def test_details_say_what_happened(make_pool) -> None:
    results = make_pool().map([("segfault",), ("leave",), ("raise",), ("hang",)], options={}, timeout_s=LIMIT_S)
    assert [result.detail for result in results] == [
        "it ended the process that called it (SIGSEGV)",
        "it ended the process that called it (exit code 0)",
        "LookupError: no such thing",
        "no result within 2 s",
    ]


def test_a_process_brought_down_later_by_an_earlier_call_costs_the_later_call_nothing(make_pool) -> None:
    assert outcomes(make_pool(), ["late", "nap", "a"]) == [("ok", "LATE"), ("ok", "NAP"), ("ok", "A")]


def test_the_limit_is_of_each_call_and_not_of_all(make_pool) -> None:
    assert outcomes(make_pool(), ["nap"] * 4) == [("ok", "NAP")] * 4


def test_a_call_that_would_end_after_its_limit_is_not_waited_for(make_pool) -> None:
    (result,) = make_pool().map([("longest nap",)], options={}, timeout_s=0.7)
    assert result.status == "timeout"


def test_results_keep_the_order_of_many_calls_over_several_processes(make_pool) -> None:
    calls = [f"x{i}" for i in range(1000)]
    assert outcomes(make_pool(workers=2), calls) == [("ok", call.upper()) for call in calls]


def test_four_threads_may_call_one_pool_at_once(make_pool) -> None:
    pool = make_pool(workers=2)
    found: dict[int, list[tuple[str, object]]] = {}

    def work(thread: int) -> None:
        calls = [f"t{thread}-{i}" for i in range(50)]
        calls[thread * 10] = "leave"
        found[thread] = outcomes(pool, calls)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        expected = [("ok", f"T{i}-{j}") for j in range(50)]
        expected[i * 10] = ("error", None)
        assert found[i] == expected


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
@pytest.mark.parametrize(("times", "status"), [(2, "ok"), (3, "error")])
def test_a_call_whose_process_is_killed_from_outside_is_asked_again(
    make_pool, tmp_path: Path, how: signal.Signals, times: int, status: str
) -> None:
    calls = [(str(tmp_path / "a"), 0, how), (str(tmp_path / "b"), times, how), (str(tmp_path / "c"), 0, how)]
    results = make_pool("killed_until").map(calls, options={}, timeout_s=2.0)
    if how == signal.SIGSTOP and status == "error":
        status = "timeout"
    assert [result.status for result in results] == ["ok", status, "ok"]


def test_on_a_busy_machine_a_call_has_the_processor_time_it_is_given(make_pool) -> None:
    """Half a second of computing under a limit of one, while it gets a fraction of a core."""
    pool = make_pool("compute")
    pool.map([(0.0,)], options={}, timeout_s=LIMIT_S)
    cores = os.sched_getaffinity(0)
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4 * len(cores))]
    try:
        (result,) = pool.map([(0.7,)], options={}, timeout_s=1.0)
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    assert result.value == "computed"


def test_a_wait_for_a_core_that_is_told_when_it_has_ended_does_not_count_as_idle(make_pool, monkeypatch) -> None:
    """As seen of a call that gets a moment of a core three times a second: run delays grow only as each wait ends."""
    began = time.monotonic()

    def seen(_: int) -> Used:
        turns = int((time.monotonic() - began) / 0.3)
        return Used(turns * 0.01, turns * 0.29)

    monkeypatch.setattr(pool_module, "used", seen)
    (result,) = make_pool("act").map([("long nap",)], options={}, timeout_s=1.0)
    assert result.value == "LONG NAP"


def test_a_wait_for_a_core_that_has_not_ended_is_not_idle(make_pool, monkeypatch) -> None:
    """As seen of a call that gets no core at all for twice its limit: both clocks stand still."""
    monkeypatch.setattr(pool_module, "used", lambda _: Used(0.0, 0.0))
    monkeypatch.setattr(pool_module, "ready", lambda _: True)
    (result,) = make_pool("act").map([("long nap",)], options={}, timeout_s=1.0)
    assert result.value == "LONG NAP"


def test_what_a_killed_process_left_in_a_scratch_folder_is_gone(make_pool, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    outcomes(make_pool("leave_a_file"), ["hang"])
    assert list(tmp_path.glob("passrl-*")) == []


def test_options_reach_the_function(make_pool) -> None:
    results = make_pool("shout").map([("hey",)], options={"mark": "!"}, timeout_s=LIMIT_S)
    assert results[0].value == "hey!"


def test_an_adapter_that_refuses_the_value_is_an_error_of_that_call(make_pool) -> None:
    results = make_pool(adapter="math:sqrt").map([("a",)], options={}, timeout_s=LIMIT_S)
    assert (results[0].status, results[0].detail) == ("error", "TypeError: must be real number, not str")


def test_a_value_that_cannot_be_sent_is_an_error_of_that_call(make_pool) -> None:
    assert outcomes(make_pool(adapter="pool_acts:same"), ["lock", "a"]) == [("error", None), ("ok", "A")]


def test_a_function_that_cannot_be_imported_is_named_with_the_cause(module: str) -> None:
    pool = CallPool(f"{module}:nothing", adapter="copy:copy", workers=1)
    with pytest.raises(WorkerStartError, match=r"(?s)pool_acts:nothing: .* has no 'nothing'"):
        pool.map([("a",)], options={}, timeout_s=LIMIT_S)
    pool.close()


def test_a_module_that_ends_the_process_while_it_is_imported_is_reported(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "leaves_at_import.py").write_text("import os; os._exit(9)")
    monkeypatch.syspath_prepend(tmp_path)
    pool = CallPool("leaves_at_import:f", adapter="copy:copy", workers=1)
    with pytest.raises(WorkerStartError, match=r"exit code 9"):
        pool.map([("a",)], options={}, timeout_s=LIMIT_S)
    pool.close()


@pytest.mark.parametrize("heavy", ["torch", "numba", "pyarrow", "apache_beam", "numpy", "pytest"])
def test_a_child_is_light(make_pool, heavy: str) -> None:
    assert outcomes(make_pool("loaded"), [heavy]) == [("ok", False)]


def test_closing_kills_the_children_and_later_calls_are_refused(make_pool) -> None:
    pool = make_pool("pid")
    ((_, child),) = outcomes(pool, ["a"])
    pool.close()
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    with pytest.raises(RuntimeError):
        pool.map([("a",)], options={}, timeout_s=LIMIT_S)


def test_no_calls_start_no_process(make_pool) -> None:
    assert make_pool("nothing").map([], options={}, timeout_s=LIMIT_S) == []


def test_what_a_function_prints_is_not_on_standard_output(module: str, tmp_path: Path) -> None:
    script = f"""
        import sys; sys.path.insert(0, {str(tmp_path)!r})
        from pipelines.verifiers.pool import shared_pool
        pool = shared_pool("pool_acts:act", adapter="copy:copy", workers=1)
        print(pool.map([("print",)], options={{}}, timeout_s=5)[0].value)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.stdout, "to standard output" in done.stderr) == ("PRINT\n", True)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal")
def test_a_hanging_child_does_not_outlive_a_killed_parent(module: str, tmp_path: Path) -> None:
    script = f"""
        import sys; sys.path.insert(0, {str(tmp_path)!r})
        from pipelines.verifiers.pool import CallPool
        CallPool("pool_acts:tell_and_hang", adapter="copy:copy", workers=1).map([()], options={{}}, timeout_s=600)
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stderr=subprocess.PIPE, text=True)
    child = int(parent.stderr.readline())
    # A pidfd becomes readable when the process has ended: no polling, no sleep.
    ended = os.pidfd_open(child)
    parent.kill()
    parent.wait()
    assert select.select([ended], [], [], 120)[0] == [ended]
    os.close(ended)


def test_the_shared_pool_is_one_per_function_and_size(module: str) -> None:
    first = shared_pool(f"{module}:pid", adapter="copy:copy", workers=1)
    assert shared_pool(f"{module}:pid", adapter="copy:copy", workers=1) is first
    assert shared_pool(f"{module}:pid", adapter="copy:copy", workers=2) is not first
    first.close()
