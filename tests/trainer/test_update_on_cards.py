"""`train_on`: torchrun as a child of this process, on two CPU ranks. What it makes is compared in tests/e2e."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.runs.rank import RankError
from pipelines.runs.torchrun import RanksDied, train_on
from tests.processes import MARK, marked
from tests.trainer.rows import changed
from tests.trainer.test_distributed import OPTIONS, ROWS
from trainer.errors import NonFiniteTrainingError

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
