"""The folder of a pool's sockets: its own, gone with it, or with the next pool where it was killed."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipelines.runners import keeping
from pipelines.runners.keeping import EngineKeeper, KeepingError, socket_folder

HOLD = """
import signal
from pipelines.runners.keeping import socket_folder
with socket_folder() as folder:
    print(folder, flush=True)
    signal.pause()
"""


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("t")
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def aged(folder: Path) -> Path:
    long_ago = time.time() - 3600
    os.utime(folder, (long_ago, long_ago))
    return folder


def test_the_folder_is_for_this_user_and_goes_at_the_end(temporary: Path) -> None:
    with socket_folder() as folder:
        assert folder.parent == temporary
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not list(temporary.iterdir())


def test_the_folder_of_a_killed_pool_goes_with_the_next_and_a_live_ones_stays(temporary: Path) -> None:
    holders = [subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        killed, alive = (aged(Path(str(holder.stdout and holder.stdout.readline()).strip())) for holder in holders)
        holders[0].send_signal(signal.SIGKILL)
        holders[0].wait()
        assert killed.exists()
        with socket_folder():
            assert not killed.exists()
            assert alive.exists()
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()


def test_a_folder_that_is_no_pools_stays(temporary: Path) -> None:
    theirs = temporary / "passrl-pool-notes"
    theirs.mkdir()
    (theirs / "text").write_text("mine")
    aged(theirs)
    with socket_folder():
        pass
    assert (theirs / "text").exists()


def test_a_path_too_long_for_a_socket_is_refused_in_words(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = temporary / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with pytest.raises(KeepingError, match="TMPDIR"), socket_folder():
        pass
    assert not list(long.iterdir())


def test_the_variable_reads_as_it_is_written() -> None:
    address = keeping.Address(path="/tmp/a@b/0.sock", key="00ff")
    assert keeping.Address.found(address.variable()) == address
    assert keeping.Address.found({}) is None


def test_whoever_waits_is_turned_away_once_for_each_process_that_died(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each end of the line counts as a death (`engines.kept.connected`), so one death may not end it twice."""
    runs: list[float] = []

    def dies(keeper: EngineKeeper) -> int:
        runs.append(time.monotonic())
        time.sleep(0.2)  # meanwhile all of them are waiting
        return 1

    monkeypatch.setattr(EngineKeeper, "_run", dies)
    with socket_folder() as folder:
        address = EngineKeeper(folder, 0, gpus=None, idle_seconds=60.0).address
        most: list[int] = []

        def waits() -> None:
            ends = 0
            while len(runs) < 5:
                with socket.socket(socket.AF_UNIX) as line:
                    line.connect(address.path)
                    ends += line.recv(1) == b""
                    most.append(ends - len(runs))

        workers = [threading.Thread(target=waits) for _ in range(16)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(timeout=60)
        assert max(most) <= 0
