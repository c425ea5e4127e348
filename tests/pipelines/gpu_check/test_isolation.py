"""A check that crashes, is killed or hangs is one failed line, and nothing of it is left."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.gpu_check.base import CheckOptions, Machine
from pipelines.gpu_check.checks import CHECKS
from pipelines.gpu_check.isolation import alone
from pipelines.gpu_check.run import run_check

CPU = Machine(device="cpu")


@pytest.fixture
def outcome(tmp_path):
    """outcome("raises") -> the result of a check of tests/pipelines/gpu_check/faulty.py."""
    (tmp_path / "logs").mkdir()

    def run(name, *, seconds=300.0):
        check = replace(CHECKS[0], name=name, place=f"tests.pipelines.gpu_check.faulty:{name}")
        return run_check(check, CPU, CheckOptions(out=str(tmp_path)), seconds=seconds)

    return run


def test_a_check_that_raises_says_what(outcome, tmp_path):
    result = outcome("raises")
    assert (result.status, result.why) == ("failed", "MemoryError: the card has no room")
    assert "Traceback" in (tmp_path / "logs" / "raises.log").read_text()


def test_a_check_that_is_killed_says_so_with_its_last_words(outcome):
    result = outcome("is_killed")
    assert result.status == "failed"
    assert "ended by SIGKILL" in result.why
    assert "the last words" in result.why


def test_a_check_that_hangs_is_ended_with_all_that_it_started(outcome, tmp_path):
    for seconds in (8, 40, 200):  # a busy machine starts it late
        result = outcome("hangs", seconds=float(seconds))
        assert result.status == "failed"
        assert result.why.startswith(f"not done after {seconds} s ")
        if (tmp_path / "pid").exists():
            break
    assert not _environment_of(int((tmp_path / "pid").read_text()))


def _environment_of(pid):
    """Empty where the process has ended."""
    try:
        return Path("/proc", str(pid), "environ").read_bytes()
    except OSError:
        return b""


def test_a_check_is_not_begun_after_the_minutes(outcome):
    result = outcome("raises", seconds=-1.0)
    assert result.status == "skipped"
    assert "--only raises" in result.why


def test_a_function_alone_has_a_process_and_an_environment_of_its_own():
    assert alone(os.getpid) != os.getpid()
    assert alone(os.getenv, "OF_ITS_OWN", environment={"OF_ITS_OWN": "yes"}) == "yes"
    assert "OF_ITS_OWN" not in os.environ
    with pytest.raises(ZeroDivisionError):
        alone(divmod, 1, 0)
