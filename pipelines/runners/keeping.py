"""Where a worker pool keeps engines, and what starts the process that holds them.

The pool listens on a socket of its own for each group of GPUs and tells its workers where. Nobody accepts there until a
worker wants an engine: only then is the process started (`pipelines.engines.kept_host`) and given the socket. It may
end at any time, of itself after a while without a worker or of a fault: whoever connects meanwhile waits in the
socket's queue, and the next process finds him there.

Whoever connects can have the process unpickle, that is run, what he sends. So the socket has mode 0600 in a folder of
mode 0700, and asks for a key that only the pool's own processes have.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pass_ops.errors import PassError

#: holds an `Address` in the environment of a worker
VARIABLE = "PASSRL_KEPT_ENGINES"
LONGEST_PATH = 107  # bytes of a Unix socket's (unix(7))
_PREFIX = "passrl-pool-"
_YOUNG_SECONDS = 60.0  # a folder this young may be that of a pool that has not locked it yet


class KeepingError(PassError, OSError):
    """The folder for the sockets cannot be made."""


@dataclass(frozen=True)
class Address:
    """Of kept engines. key: what their process asks for, in hexadecimal digits."""

    path: str
    key: str

    def variable(self) -> dict[str, str]:
        """As a worker's environment has it."""
        return {VARIABLE: f"{self.key}@{self.path}"}

    @classmethod
    def found(cls, environment: Mapping[str, str] = os.environ) -> Address | None:
        """That of the pool which started this process; None where no pool did, or it keeps no engines.

        >>> Address.found({VARIABLE: "ab12@/tmp/x/0.sock"})
        Address(path='/tmp/x/0.sock', key='ab12')
        """
        key, _, path = environment.get(VARIABLE, "").partition("@")
        return cls(path=path, key=key) if path else None


@contextlib.contextmanager
def socket_folder() -> Iterator[Path]:
    """A folder for the sockets of this process, gone at the end. Those of pools that were killed go now.

    Raises KeepingError where it cannot be made, or a socket's path would be too long.
    """
    try:
        for old in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
            _remove_dead(old)
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))  # mode 0700
    except OSError as error:
        raise KeepingError(
            f"no folder for the sockets of kept engines can be made ({error}). Set TMPDIR to a folder that can be "
            "written to, or --keep-engines 0."
        ) from error
    try:
        if len(os.fsencode(folder / "00.sock")) > LONGEST_PATH:
            raise KeepingError(
                f"{folder} is too long for the path of a socket ({LONGEST_PATH} bytes). Set TMPDIR to a shorter "
                "folder, or --keep-engines 0."
            )
        with open(folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_dead(folder: Path) -> None:
    """Remove the folder of a pool that is no more: nobody holds its lock, which the system frees with the process."""
    with contextlib.suppress(OSError):  # another user's, or another pool removes it too
        if folder.stat().st_uid != os.getuid() or time.time() - folder.stat().st_mtime < _YOUNG_SECONDS:
            return
        with open(folder / "lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)


class EngineKeeper:
    """Has a process for the engines of one group of GPUs whenever a worker asks for one.

    Args:
        folder: for its socket, accessible to this user only.
        number: of the group.
        gpus: CUDA_VISIBLE_DEVICES of the engines; None = this process's.
        idle_seconds: so long without a worker, and the process ends.
    """

    def __init__(self, folder: Path, number: int, *, gpus: str | None, idle_seconds: float) -> None:
        self.address = Address(path=str(folder / f"{number}.sock"), key=secrets.token_hex(32))
        self._gpus = gpus
        self._idle_seconds = idle_seconds
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(self.address.path)
        os.chmod(self.address.path, 0o600)
        self._listening.listen(64)
        self._listening.setblocking(False)
        threading.Thread(target=self._keep, daemon=True, name=f"engines-{number}").start()

    def _keep(self) -> None:
        while True:
            select.select([self._listening], [], [])
            try:
                code = self._run()
            except OSError:  # no process can be started
                traceback.print_exc()
                code = 1
            if code:
                self._turn_away()

    def _run(self) -> int:
        """One process, to its end; its exit code."""
        handle = self._listening.fileno()
        command = [sys.executable, "-m", "pipelines.engines.kept_host", f"--socket={handle}"]
        # Standard input brings the key and stays open as long as this process lives: the engines end with it. A session
        # of its own, to be killed with the processes that its engines started.
        process = subprocess.Popen(
            [*command, f"--idle-seconds={self._idle_seconds}"],
            stdin=subprocess.PIPE,
            pass_fds=(handle,),
            start_new_session=True,
            env=os.environ | ({} if self._gpus is None else {"CUDA_VISIBLE_DEVICES": self._gpus}),
        )
        assert process.stdin is not None
        with contextlib.suppress(OSError):  # it is dead already
            process.stdin.write(f"{self.address.key}\n".encode())
            process.stdin.flush()
        code = process.wait()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            process.stdin.close()
        return code

    def _turn_away(self) -> None:
        """Hang up on those who wait: they try again, and give up where one process after another dies.

        On all of them at once: one that tries again at once would else be here in time to be turned away twice.
        """
        waiting = []
        with contextlib.suppress(BlockingIOError):
            while True:
                waiting.append(self._listening.accept()[0])
        for line in waiting:
            line.close()
