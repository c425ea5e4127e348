"""The page "Your first run on GPUs" shows what the command computes, and the driver that the pins need."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.first_gpu_run import CONFIG, disk_table, estimate, hours_table, memory_table
from pipelines.engines.machine import needed_driver
from pipelines.runs.config import load_config

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "first-gpu-run.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("table", [memory_table, hours_table, disk_table])
def test_the_page_shows_the_computed_table(table):
    assert table(load_config(CONFIG)) in PAGE


def test_the_hours_are_the_tokens_over_the_speed():
    found = estimate(load_config(CONFIG))
    assert found.rollouts == 1024 * 16
    assert found.tokens == found.rollouts * 3072 // 2
    assert f"| {found.tokens / 6200 / 3600:.2f} | {found.tokens / 6200 / 8 / 3600:.2f} |" in hours_table(
        load_config(CONFIG)
    )


def test_the_page_names_the_driver_that_the_pins_need():
    pins = (ROOT / "requirements" / "gpu.txt").read_text(encoding="utf-8")
    (cuda,) = re.findall(r"^cuda-toolkit==(\d+\.\d+)", pins, re.MULTILINE)
    assert f"| driver | {needed_driver(cuda)} or newer: the pinned torch brings CUDA {cuda} " in PAGE
