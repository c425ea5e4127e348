"""Programs under limits: what each of them is kept from, and that ordinary ones run."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.verifiers.sandbox import OUTPUT_LIMIT, run_python
from pipelines.verifiers.sandbox.session import Session, _nursery
from tests.processes import wait_until


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


@pytest.mark.parametrize(
    "start",
    [
        "os.fork()",
        "subprocess.run([sys.executable, '-c', '1'])",
        "os.system('true')",
        "os.execv('/bin/true', ['true'])",
    ],
)
def test_a_program_is_one_process(start: str) -> None:
    run = run_python(f"import os, subprocess, sys\nif {start} == 0x7f00: raise PermissionError('not permitted')")
    assert run.status == "failed"
    assert "not permitted" in run.error


def test_threads_pipes_and_numpy_work() -> None:
    code = """
        import os, socket, threading
        import numpy as np
        thread = threading.Thread(target=lambda: print(int(np.ones((50, 50)).sum())))
        thread.start(); thread.join()
        a, b = socket.socketpair(); a.send(b"x"); print(b.recv(1))
        open("here", "w").write("kept"); os.mkdir("in"); os.rename("here", "in/there"); print(open("in/there").read())
    """
    assert run_python(textwrap.dedent(code)).output == "2500\nb'x'\nkept\n"


def test_output_is_cut_at_its_limit() -> None:
    run = run_python("while True: print('x' * 1000)", timeout_s=60.0)
    assert run.status == "failed"
    assert len(run.output) == OUTPUT_LIMIT


def test_what_a_program_leaves_open_is_written_and_its_exit_functions_run() -> None:
    code = "import atexit, sys\natexit.register(print, 'last')\nfile = open(1, 'w', closefd=False)\nfile.write('first')"
    assert run_python(code).output == "last\nfirst"


def test_integers_of_any_length_are_printed() -> None:
    assert len(run_python("print(10**5000)").output) == 5002


def test_scratch_folders_are_gone_however_deep_they_were(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = (
        "import os\nfor _ in range(300):\n    os.mkdir('a' * 200)\n    os.chdir('a' * 200)\nopen('x', 'w').write('y')"
    )
    run_python(code)
    assert list(tmp_path.iterdir()) == []


def test_on_a_busy_machine_a_program_has_the_processor_time_it_is_given() -> None:
    """Half a second of computing under a limit of one, while it gets a fraction of a core."""
    code = "import time\nwhile time.process_time() < 0.5: pass\nprint('done')"
    cores = os.sched_getaffinity(0)
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4 * len(cores))]
    try:
        assert run_python(code, timeout_s=1.0).output == "done\n"
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def test_a_program_that_waits_for_this_process_to_read_is_not_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """It fills its pipe while this process, on a busy machine, does not get a core for longer than its limit."""
    take, delays = Session._take, iter([3.0])

    def late(session: Session, descriptor: int) -> None:
        time.sleep(next(delays, 0.0))
        take(session, descriptor)

    monkeypatch.setattr(Session, "_take", late)
    run = run_python("import sys\nfor _ in range(20): sys.stdout.write('x' * 10_000)", timeout_s=1.0)
    assert (run.status, len(run.output)) == ("ok", 200_000)


def test_a_program_killed_from_outside_is_run_again(tmp_path: Path) -> None:
    """By the system out of memory, say: it takes the program and its neighbours, and the verdict is the same."""
    found = []
    code = "import time\nprint('begun', flush=True)\ntime.sleep(5.0)\nprint('ended')"
    nursery = _nursery().process.pid
    runner = threading.Thread(target=lambda: found.append(run_python(code)))
    runner.start()
    with contextlib.suppress(ProcessLookupError):  # it may have ended: then nothing is to be shown
        os.kill(_confined(nursery), signal.SIGKILL)
    runner.join()
    assert [run.output for run in found] == ["begun\nended\n"]


def test_a_nursery_that_is_killed_is_replaced() -> None:
    assert run_python("print(1)").output == "1\n"
    _nursery().process.kill()
    assert run_python("print(2)").output == "2\n"


def test_where_no_process_can_be_confined_no_program_runs() -> None:
    script = f"""
        import sys; sys.path[:0] = [{str(Path(__file__).parent)!r}]
        import escapes
        # prctl(PR_SET_SECCOMP) is refused from here on, as where a container's own filter does so
        escapes.filter_calls([(0x20, 0, 0, 0), (0x15, 0, 3, 157), (0x20, 0, 0, 16), (0x15, 0, 1, 22),
                              (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)])
        from pipelines.verifiers.sandbox import run_python
        try:
            run_python("print(1)")
        except OSError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=300, check=False
    )
    assert "cannot be run here" in done.stdout, done.stderr


def test_a_program_sees_neither_the_environment_nor_this_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSRL_TEST_SECRET", "hunter2")
    run = run_python("import os; print(os.environ.get('PASSRL_TEST_SECRET'), sorted(os.listdir('.')))")
    assert run.output == "None []\n"


def test_a_program_dies_with_the_process_that_runs_it() -> None:
    """As where the pool kills a verifier at its limit while the verifier waits for a program."""
    script = (
        "from pipelines.verifiers.sandbox import run_python; run_python('import time; time.sleep(600)', timeout_s=600)"
    )
    runner = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    try:
        program = _confined(runner.pid)
    finally:
        runner.kill()
        runner.wait()
    wait_until(lambda: not _alive(program))


def _confined(ancestor: int) -> int:
    """A process in which a program runs that this process, or one that it started, has forked; waits for it."""
    found: list[int] = []
    wait_until(lambda: found.extend(filter(_is_confined, _descendants(ancestor))) or found)
    return found[0]


def _is_confined(pid: int) -> bool:
    with contextlib.suppress(OSError):  # it ended meanwhile
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
        return "Seccomp:\t2" in status and "State:\tZ" not in status
    return False


def _descendants(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                yield child
                yield from _descendants(child)


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:  # ProcessLookupError where it goes between the opening and the reading
        return False
