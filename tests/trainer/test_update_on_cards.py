"""`train_on`: torchrun as a child of this process, on two CPU ranks. What it makes is compared in tests/e2e."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.runs import torchrun
from pipelines.runs.rank import RankError
from pipelines.runs.torchrun import RanksDied, train_on, trainer_for
from tests.processes import MARK, marked
from tests.trainer.rows import changed
from tests.trainer.test_distributed import OPTIONS, ROWS
from trainer import train
from trainer.errors import NonFiniteTrainingError, StateError
from trainer.records import DONE, METRICS

PATIENT = replace(OPTIONS, old_policy="behavior", batch_size=6)


@pytest.fixture(autouse=True)
def mark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """At its end, a test has left no process."""
    monkeypatch.setenv(MARK, str(tmp_path))
    yield
    assert not marked(str(tmp_path))


def silent(done: int, total: int, note: str = "") -> None:
    """Report nothing."""


def test_what_stops_the_ranks_is_raised_here_as_it_was_there(make_shaped, policy_folder, tmp_path):
    behavior = tuple(-200.0 if m else 0.0 for m in ROWS[7].mask)
    shaped = make_shaped([changed(ROWS, 7, behavior=behavior, advantages=(-1.0, -1.0))])
    with pytest.raises(NonFiniteTrainingError, match=ROWS[7].rollout_id) as raised:
        train_on(
            ("cpu", "cpu"),
            progress=silent,
            shaped=[shaped],
            policy=policy_folder,
            out=str(tmp_path / "out"),
            options=PATIENT,
        )
    assert raised.value.rollout_ids == (ROWS[7].rollout_id,)
    assert "Traceback" not in str(raised.value)


def test_an_error_nobody_planned_keeps_its_words(make_shaped, policy_folder, tmp_path):
    with pytest.raises(RankError, match=r"TypeError: .*no_such_argument"):
        train_on(("cpu", "cpu"), progress=silent, no_such_argument=1)


def test_ranks_that_always_die_are_given_up_with_their_last_words(monkeypatch, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "if 'RANK' in os.environ and 'pipelines.runs.rank' in ' '.join(sys.orig_argv):\n"
        f"    open({str(tmp_path / 'died')!r}, 'a').write(os.environ['RANK'])\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    with pytest.raises(RanksDied, match=r"died 3 times without a further step(.|\n)*SIGKILL"):
        train_on(("cpu",), progress=silent)
    assert (tmp_path / "died").read_text() == "000"


class ProcessStartedError(Exception):
    """In the place of torchrun."""


@pytest.fixture
def ended(make_shaped, policy_folder, tmp_path, monkeypatch) -> dict[str, Any]:
    """What an update was called with that has ended; from here on no process can be started for one."""
    shaped = make_shaped([ROWS])
    arguments = {"shaped": [shaped], "policy": policy_folder, "out": str(tmp_path / "out"), "options": PATIENT}
    train(**arguments)

    def started(*_: object) -> None:
        raise ProcessStartedError

    monkeypatch.setattr(torchrun, "_Attempt", started)
    return arguments


def files(folder: str) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_an_update_that_has_ended_gives_its_result_and_starts_no_process(ended):
    there = files(ended["out"])
    assert trainer_for(("cpu", "cpu"))(**ended, progress=silent) == train(**ended)
    assert files(ended["out"]) == there


def test_another_update_in_the_folder_of_one_that_ended_is_refused_as_ever(ended):
    other = ended | {"options": replace(PATIENT, lr=2e-3)}
    with pytest.raises(StateError) as by_one:
        train(**other)
    with pytest.raises(StateError) as by_many:
        trainer_for(("cpu", "cpu"))(**other, progress=silent)
    assert str(by_many.value) == str(by_one.value)


def test_what_an_ended_update_left_is_still_held_against_what_it_wrote(ended):
    with Path(ended["out"], METRICS).open("a") as file:
        file.write("{}\n")
    with pytest.raises(StateError, match="changed: it is not what the training wrote"):
        trainer_for(("cpu",))(**ended, progress=silent)


@pytest.mark.parametrize("gone", [DONE, "policy", "."])
def test_where_something_is_left_to_do_processes_are_started(ended, gone):
    path = Path(ended["out"], gone)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ProcessStartedError):
        trainer_for(("cpu", "cpu"))(**ended, progress=silent)
