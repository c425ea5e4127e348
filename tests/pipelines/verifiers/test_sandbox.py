"""Programs under limits: what each of them is kept from, and that ordinary ones run."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time

import pytest

from pipelines.verifiers.sandbox import OUTPUT_LIMIT, run_python


def test_an_ordinary_program_reads_and_writes() -> None:
    run = run_python("import asyncio, sys\nasyncio.run(asyncio.sleep(0))\nprint(input()[::-1])", stdin="abc\n")
    assert (run.status, run.output) == ("ok", "cba\n")


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("while True: pass", "timeout"),
        ("import time; time.sleep(600)", "timeout"),
        ("x = bytearray(10 << 30)", "memory"),
        ("import ctypes; ctypes.string_at(0)", "failed"),
        ("raise KeyError", "failed"),
        ("import sys; sys.exit(3)", "failed"),
    ],
)
def test_how_a_program_ended(code: str, status: str) -> None:
    assert run_python(code, timeout_s=1.0).status == status


def test_no_program_reaches_a_server_on_this_machine() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = f"import socket; socket.create_connection(('127.0.0.1', {port}))"
        subprocess.run([sys.executable, "-c", code], check=True)  # it is there for everybody else
        run = run_python(code)
    assert run.status == "failed"
    assert "Operation not permitted" in run.error


def test_a_child_of_the_program_has_no_network_either() -> None:
    inner = "import socket; socket.socket()"
    run = run_python(f"import subprocess, sys; print(subprocess.call([sys.executable, '-c', {inner!r}]))")
    assert run.output == "1\n"


def test_output_is_cut_at_its_limit() -> None:
    run = run_python("while True: print('x' * 1000)", timeout_s=5.0)
    assert run.status == "failed"
    assert len(run.output) == OUTPUT_LIMIT


def test_a_program_sees_neither_the_environment_nor_this_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSRL_TEST_SECRET", "hunter2")
    run = run_python("import os; print(os.environ.get('PASSRL_TEST_SECRET'), sorted(os.listdir('.')))")
    assert run.output == "None ['.error', '.output', '.stdin', 'program.py']\n"


def test_a_program_dies_with_the_process_that_runs_it() -> None:
    """As where the pool kills a verifier at its limit while the verifier waits for a program."""
    script = (
        "from pipelines.verifiers.sandbox import run_python; run_python('import time; time.sleep(600)', timeout_s=600)"
    )
    runner = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    try:
        program = _child_of(runner.pid)
    finally:
        runner.kill()
        runner.wait()
    deadline = time.monotonic() + 20
    while _alive(program) and time.monotonic() < deadline:
        threading.Event().wait(0.05)
    assert not _alive(program)


def _child_of(pid: int) -> int:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            if children := file.read().split():
                child = int(children[0])
                with open(f"/proc/{child}/status", encoding="ascii", errors="replace") as status:
                    if "Seccomp:\t2" in status.read():
                        return child
        threading.Event().wait(0.05)
    raise AssertionError("the program did not start")


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
