"""Verdicts computed again: which differ, and that nothing stored changes."""

from __future__ import annotations

import pytest

from pass_ops import shards
from pipelines.signals import SignalInputError, build_signal
from pipelines.signals.reverify import diff_lines, reverify
from pipelines.signals.stage import score


@pytest.fixture
def stored(run) -> str:
    """The fixture's rollouts by the last digit after "="."""
    signal = build_signal("outcome", {"verifier": "regex", "verifier_options": {"pattern": r"=(\d)\Z"}, "workers": 1})
    score(signal=signal, rollouts=run.rollouts, out=run.signal("right"))
    return run.signal("right")


def test_the_same_verifier_changes_nothing(run, stored: str) -> None:
    signal = build_signal("outcome", {"verifier": "regex", "verifier_options": {"pattern": r"=(\d)$"}, "workers": 1})
    diff = reverify(signal, rollouts=run.rollouts, stored=stored)
    assert (diff.rows, diff.changes) == (9, [])
    assert diff.moves == {"ok -> ok": 4, "unparseable -> unparseable": 3, "wrong -> wrong": 2}


def test_another_verifier_shows_each_verdict_that_differs_and_rewrites_nothing(run, stored: str) -> None:
    before = shards.open_dataset(stored).content_digest
    first_digit = {"verifier": "regex", "verifier_options": {"pattern": r"\A=?(\d)"}, "workers": 1}
    seen = []
    diff = reverify(
        build_signal("outcome", first_digit),
        rollouts=run.rollouts,
        stored=stored,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert diff.moves == {
        "ok -> wrong": 3,
        "unparseable -> wrong": 2,
        "wrong -> wrong": 2,
        "ok -> ok": 1,
        "unparseable -> unparseable": 1,
    }
    assert [change.rollout_id for change in diff.changes] == ["p0/0", "p1/0", "p1/1", "p1/2", "p2/0"]
    assert diff.changes[0].before == ("ok", 1.0, "5")
    assert diff.changes[0].after == ("wrong", 0.0, "2")
    assert seen == [(1, 2), (2, 2)]
    lines = list(diff_lines("right", diff))
    assert lines[0] == "right: 5 of 9 verdicts change"
    assert "  p0/0: ok 1.0 ('5') -> wrong 0.0 ('2'); '5'" in lines
    assert shards.open_dataset(stored).content_digest == before


def test_only_verdicts_can_be_compared(run, stored: str) -> None:
    with pytest.raises(SignalInputError, match="is of kind format; only verdicts"):
        reverify(build_signal("format", {"pattern": "x"}), rollouts=run.rollouts, stored=stored)
