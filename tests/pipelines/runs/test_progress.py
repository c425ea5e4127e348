"""How far work is goes to standard error: a bar on a terminal, a line now and then elsewhere, nothing under --json."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from itertools import count
from types import SimpleNamespace

import pytest

from pipelines.runs import progress
from pipelines.runs.progress import Reporter
from pipelines.runs.tables import Sheet
from tests.processes import shown_on

WORK = """
from pipelines.runs.progress import Reporter
reporter = Reporter()
with reporter.step("round 0: train") as report:
    for done in range(17):
        report(done, 16, f"step {done}/16  loss -0.1")
reporter.line("the result")
"""


def test_results_are_on_standard_output_and_progress_beside_it(capsys):
    reporter = Reporter()
    with reporter.step("round 0: train") as report:
        report(1, 2, "step 1/2")
    sheet = Sheet("a")
    sheet.add_row("1")
    reporter.print(sheet)
    reporter.line("policy: somewhere")
    shown = capsys.readouterr()
    assert [line.strip() for line in shown.out.splitlines() if line.strip(" ─")] == ["a", "1", "policy: somewhere"]
    assert shown.err.startswith("  round 0: train: ")
    assert "\x1b" not in shown.out + shown.err


def test_without_a_terminal_a_line_is_told_now_and_then(capsys, monkeypatch):
    clock = count(0, progress.PLAIN_INTERVAL_SECONDS / 4)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    with Reporter().step("round 0: train") as report:
        for done in range(1, 17):
            report(done, 16, f"step {done}/16")
    lines = capsys.readouterr().err.splitlines()[:-1]
    assert 3 <= len(lines) <= 6
    assert all(line.startswith("round 0: train: step ") for line in lines)


def test_under_json_nothing_is_told(capsys):
    reporter = Reporter(quiet=True)
    with reporter.step("round 0: train") as report:
        report(1, 2, "step 1/2")
    reporter.note("rejected: 1")
    reporter.line("a result")
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_there_is_a_bar_and_standard_output_stays_plain():
    leader, follower = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    with subprocess.Popen(
        [sys.executable, "-c", WORK], stdout=subprocess.PIPE, stderr=follower,
        env=environment | {"TERM": "xterm-256color", "COLUMNS": "120"},
    ) as process:  # fmt: skip
        os.close(follower)
        told = shown_on(leader)
        assert process.stdout is not None
        assert process.stdout.read() == b"the result\n"
        assert process.wait(120) == 0
    os.close(leader)
    assert "16/16" in told.decode()
    assert "loss -0.1" in told.decode()
    assert "\x1b[" in told.decode()


@pytest.mark.parametrize(("given", "wanted"), [("97", None), ("wide", progress.WIDTH_ELSEWHERE)])
def test_columns_gives_the_width_where_there_is_no_terminal(monkeypatch, given, wanted):
    monkeypatch.setattr(progress.os, "isatty", lambda _: False)
    monkeypatch.setenv("COLUMNS", given)
    assert progress.plain_width() == wanted
