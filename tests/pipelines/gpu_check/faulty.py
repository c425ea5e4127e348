"""Checks that go wrong, as `pipelines.gpu_check` runs them: each in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from pipelines.gpu_check.base import CheckOptions, Machine, Result


def raises(machine: Machine, options: CheckOptions) -> Result:
    raise MemoryError("the card has no room")


def is_killed(machine: Machine, options: CheckOptions) -> Result:
    print("the last words", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def hangs(machine: Machine, options: CheckOptions) -> Result:
    """With a process that left its session, as torchrun's ranks do."""
    child = subprocess.Popen(
        [sys.executable, "-c", "import threading; threading.Event().wait()"], start_new_session=True
    )
    (Path(options.out) / "pid.part").write_text(str(child.pid))
    (Path(options.out) / "pid.part").replace(Path(options.out) / "pid")
    threading.Event().wait()
    raise AssertionError("unreachable")
