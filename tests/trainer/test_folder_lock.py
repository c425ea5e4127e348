"""One trainer per folder."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading

import pytest

from tests.trainer.rows import random_rows
from trainer import train
from trainer.errors import RunFolderError
from trainer.folder_lock import LOCK, locked


def test_a_second_trainer_is_refused_with_who_since_when_and_where(make_shaped, policy_folder, small_options, tmp_path):
    data, out = make_shaped([random_rows(groups=4, size=2)]), tmp_path / "out"
    refused = []

    def again(*_: object) -> None:
        with pytest.raises(
            RunFolderError, match=rf"{out} is being written .*process {os.getpid()} on .* since 20"
        ) as e:
            train([data], policy=policy_folder, out=str(out), options=small_options)
        refused.append(e)

    first = train([data], policy=policy_folder, out=str(out), options=small_options, progress=again)
    assert len(refused) == first.steps == 2
    assert not (out / LOCK).exists()
    assert train([data], policy=policy_folder, out=str(out), options=small_options) == first


def test_two_runs_with_one_export_folder_are_refused(make_shaped, policy_folder, small_options, tmp_path):
    data, export = make_shaped([random_rows(groups=4, size=2)]), str(tmp_path / "policy")

    def other(*_: object) -> None:
        with pytest.raises(RunFolderError, match="another trainer"):
            train([data], policy=policy_folder, out=str(tmp_path / "b"), options=small_options, export=export)

    train([data], policy=policy_folder, out=str(tmp_path / "a"), options=small_options, export=export, progress=other)


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    path = tmp_path / "out" / LOCK
    program = "import os, sys; from pathlib import Path; from trainer.folder_lock import locked\n"
    program += "with locked(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", program, str(path)], check=False).returncode == -9
    assert path.exists()
    with locked(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert not path.exists()


def test_a_look_at_the_lock_refuses_no_trainer(tmp_path):
    """`passrl clean` holds it for a moment, to see whether anybody else does."""
    path = tmp_path / LOCK
    looking = path.open("a")
    fcntl.flock(looking, fcntl.LOCK_EX)
    later = threading.Timer(0.3, looking.close)
    later.start()
    with locked(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    later.join()


def test_the_lock_of_another_machine_is_a_persons_to_judge(tmp_path):
    path = tmp_path / LOCK
    path.write_text(json.dumps({"pid": 1, "host": "elsewhere", "since": "2026-01-01"}))
    with pytest.raises(RunFolderError, match=rf"process 1 on elsewhere since 2026-01-01.*remove {path}"), locked(path):
        pass
    assert path.exists()
