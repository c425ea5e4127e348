"""The report is written from stored files alone, the same bytes each time, and the committed one is what is written."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.study.forecast import Point, correlations, misses
from benchmarks.study.probe import write_rows
from benchmarks.study.report import MADE_OF, report, write_report
from benchmarks.study.store import HOME
from benchmarks.study.stored import read_stored
from tests.benchmarks.study.generated import results


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study's folder with generated results, drift and forecast."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "results").mkdir()
    pq.write_table(results(seeds=4), folder / "results" / "all.parquet")
    arms = [("pass_k07", "low"), ("pass_k0", "low"), ("reward_shaping", "low"), ("grpo_outcome", "none")]
    drift = {"length": 1.5, "length_low": 1.0, "length_high": 2.0, "pass1": 0.01, "pass1_low": 0.0, "pass1_high": 0.02,
             "tokens_a_point": 1.5}  # fmt: skip
    write_rows(folder / "probe" / "drift.parquet", [{"arm": arm, "level": level, **drift} for arm, level in arms])
    write_rows(
        folder / "probe" / "forecast.parquet",
        [
            {"arm": arm, "level": level, "alignment": 0.5 - 0.1 * at, "alignment_low": 0.0, "alignment_high": 1.0}
            for at, (arm, level) in enumerate(arms)
        ],
    )
    write_report(folder)
    return folder


def test_equal_files_give_equal_bytes(home: Path) -> None:
    made = report(read_stored(home))
    assert {name: (home / name).read_bytes() for name in made} == made
    assert all(name in made["index.md"].decode() for name in ("tables.md", "claims.md", "mechanism.md", "forecast.md"))


def test_the_first_page_says_question_world_result_and_limits_in_a_page(home: Path) -> None:
    page = (home / "index.md").read_text()
    headings = [line for line in page.splitlines() if line.startswith("#")]
    assert headings == [
        "# Do the paper's claims hold at small scale?",
        "## The world",
        "## The result",
        "## What it does not show",
        "## Run it again",
    ]
    assert "92 cells are finished: 23 arms and levels, 4 seeds each." in page
    assert len(page.split()) < 1500  # ten minutes at a slow reader's pace


def test_one_more_cell_changes_the_report(home: Path, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    table = results(seeds=4)
    pq.write_table(table.filter(pa.compute.not_equal(table["seed"], 3)), tmp_path / "results" / "all.parquet")
    after = report(read_stored(tmp_path))
    listed = after[MADE_OF].decode().split()
    assert "pass_k07-low-lr0.001-s2" in listed
    assert list(read_stored(home, cells=listed).cells) == listed
    different = {name for name, content in after.items() if (home / name).read_bytes() != content}
    assert different >= {"index.md", "tables.md", "images/pass1.svg"}


def test_a_study_without_results_says_so(tmp_path: Path) -> None:
    page = report(read_stored(tmp_path))["index.md"].decode()
    assert "No cell is finished yet." in page
    assert "0 reproduced, 0 not reproduced, 0 undecided at this size, 17 not run" in page


def test_the_committed_report_is_what_the_command_writes() -> None:
    listed = (HOME / MADE_OF).read_text().split()
    stored = read_stored(HOME, cells=listed)
    assert list(stored.cells) == listed
    for name, content in report(stored).items():
        assert (HOME / name).read_bytes() == content, f"{name}: run python -m benchmarks.study report"


def test_the_forecasts_correlation_and_misses_by_hand() -> None:
    """Ranks 1 2 3 4 against 1 2 4 3: correlation 1 - 6 * 2 / (4 * 15) = 0.8."""
    gains = (0.4, 0.3, 0.1, 0.2)
    found = [Point(f"arm{at}", "low", 1 - 0.1 * at, (gain, gain)) for at, gain in enumerate(gains)]
    (_, count, every), (level, _, of_level) = correlations(found)
    assert every is not None
    assert of_level is not None
    assert (count, every[0], level, of_level[0]) == (4, pytest.approx(0.8), "low", pytest.approx(0.8))
    assert [(point.arm, before, after) for point, before, after in misses(found, count=2)] == [
        ("arm2", 3, 4),
        ("arm3", 4, 3),
    ]
    assert correlations(found[:2])[0] == ("all", 2, None)
