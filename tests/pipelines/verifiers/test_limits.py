"""What a process has used, as the time limits count it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from pipelines.verifiers.limits import ready, used
from tests.processes import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc")


def test_a_process_whose_threads_come_and_go_is_never_taken_for_one_that_is_gone() -> None:
    """Where nothing is known of a process the wall clock is its limit's, which a busy machine would then decide."""
    over = threading.Event()

    def come_and_go() -> None:
        while not over.is_set():
            threads = [threading.Thread(target=time.sleep, args=(0.0,)) for _ in range(20)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    busy = threading.Thread(target=come_and_go)
    busy.start()
    try:
        found = [used(os.getpid()) for _ in range(2000)]
    finally:
        over.set()
        busy.join()
    assert None not in found


def test_of_a_process_that_is_gone_nothing_is_known() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert used(ended.pid) is None


def test_who_waits_for_a_core_is_told_from_who_sleeps() -> None:
    commands = ("import time; time.sleep(3600)", "while True: pass")
    sleeping, computing = (subprocess.Popen([sys.executable, "-c", command]) for command in commands)
    try:
        wait_until(lambda: not ready(sleeping.pid) and ready(computing.pid))
    finally:
        for process in (sleeping, computing):
            process.kill()
            process.wait()
    assert not ready(computing.pid)
