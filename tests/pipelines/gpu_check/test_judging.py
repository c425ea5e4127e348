"""What is held against its limits, where; and what a run of checks prints, writes and returns."""

from __future__ import annotations

import json
import math

import pytest

from pipelines.gpu_check.base import CheckError, Limit, Machine, Result, judged
from pipelines.gpu_check.checks import CHECKS
from pipelines.gpu_check.report import Line, markdown
from pipelines.gpu_check.run import choose, missing

CPU, GPU = Machine(device="cpu"), Machine(device="cuda")
LIMITS = {"difference": Limit(high=1e-3), "ratio": Limit(low=0.9, high=1.1, speed=True)}


@pytest.mark.parametrize(
    ("machine", "difference", "ratio", "status"),
    [
        (GPU, 0.0, 1.0, "ok"),
        (GPU, 1e-3, 0.9, "ok"),
        (GPU, 2e-3, 1.0, "failed"),
        (GPU, 0.0, 1.2, "failed"),
        (GPU, 0.0, math.inf, "failed"),
        (GPU, 0.0, math.nan, "failed"),
        (CPU, 0.0, 5.0, "ok"),
        (CPU, 2e-3, 1.0, "failed"),
        (CPU, math.nan, 1.0, "failed"),
    ],
)
def test_results_are_judged_everywhere_and_speed_and_memory_on_a_gpu(machine, difference, ratio, status):
    result = judged(machine, {"difference": difference, "ratio": ratio}, LIMITS)
    assert result.status == status
    assert result.limits == {"difference": "at most 0.001", "ratio": "0.9 to 1.1"}


def test_a_failure_names_every_figure_outside_its_limit():
    result = judged(GPU, {"difference": 0.5, "ratio": 2.0}, LIMITS)
    assert result.why == "difference is 0.5, outside at most 0.001; ratio is 2, outside 0.9 to 1.1"


def test_what_could_not_be_measured_is_not_judged():
    assert judged(GPU, {"difference": 0.0}, LIMITS).status == "ok"


def test_checks_run_in_their_own_order_and_an_unknown_one_is_refused():
    assert [check.name for check in choose(["kill", "driver"])] == ["driver", "kill"]
    assert choose([]) == list(CHECKS)
    with pytest.raises(CheckError, match=r"--only 'trian' is no check; .*train"):
        choose(["trian"])


def test_a_check_without_its_packages_or_cards_is_skipped(monkeypatch):
    checks = {check.name: check for check in CHECKS}
    assert missing(checks["torchrun"], GPU).why == "needs 2 GPUs, here are 0"
    monkeypatch.setattr("pipelines.gpu_check.run.installed", lambda package: package != "vllm")
    assert missing(checks["engine"], CPU).why == "not installed: vllm"
    assert missing(checks["train"], CPU) is None


def test_the_report_shows_outcomes_and_figures_beside_their_limits():
    failed = judged(GPU, {"difference": 0.5, "ratio": 1.0}, LIMITS)
    lines = [
        Line(check=CHECKS[0], result=failed, seconds=2.0, device=GPU.words),
        Line(check=CHECKS[1], result=Result(status="skipped", why="a | b"), seconds=0.0, device=GPU.words),
    ]
    page = markdown(GPU, lines)
    assert "0 ok, 1 failed, 1 skipped" in page
    assert "| difference | 0.5 | at most 0.001 |" in page
    assert r"| train | skipped | 0 | a \| b |" in page
    assert json.loads(lines[0].as_json())["status"] == "failed"
