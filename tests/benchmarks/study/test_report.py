"""The report is written from stored files alone, the same bytes each time, and the committed one is what is written."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.study.arms import CORE
from benchmarks.study.claims import findings
from benchmarks.study.explain import candidates, explanation
from benchmarks.study.forecast import Point, correlations, misses, points, ranks
from benchmarks.study.measures import read_runs
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
    shares = (0.8, 0.9, 0.3, 0.2)
    write_rows(
        folder / "probe" / "credit.parquet",
        [
            {
                "arm": arm,
                "level": level,
                "round": number,
                "rollouts": 8,
                "failed": 0.125,
                "rms": 2.0,
                "failed_share": share,
            }
            for number in (None, 10)
            for (arm, level), share in zip(arms, shares, strict=True)
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
    assert "Verdicts before the last planned seed are interim ones" in page
    headings = [line for line in page.splitlines() if line.startswith("#")]
    assert headings == [
        "# Do the paper's claims hold at small scale?",
        "## The world",
        "## The result",
        "## PASS beside GRPO(outcome)",
        "## What it does not show",
        "## Run it again",
    ]
    assert "92 cells are finished: 23 arms and levels, 4 seeds each." in page
    assert len(page.split()) < 1000  # ten minutes at a slow reader's pace


def test_pass_is_put_beside_grpo_in_stored_numbers(home: Path) -> None:
    section = (home / "beside.md").read_text()
    assert "12.5 % fail it" in section
    assert "80 % in PASS, 30 % in reward shaping, 20 % in GRPO(outcome)" in section
    assert "At most 0.00 % of a round's tokens" in section
    [row] = [line for line in section.splitlines() if line.startswith("| PASS | 0.7")]
    assert row.endswith("| 2.00 | 0.80 | 0.80 | – |")
    assert "no cell of it has been trained yet" in section
    runs = read_stored(home).runs
    gains = {
        arm: [np.diff([row["pass1"] for row in run.rows if row["round"] in (0, 10, 20)]) for run in of.values()]
        for (arm, level), of in runs.items()
        if (arm, level) == ("grpo_outcome", "none")
    }
    first, second = np.mean(gains["grpo_outcome"], axis=0)
    assert f"GRPO(outcome) {first:.3f} and {second:.3f}" in section


def test_training_without_format_is_told_once_it_is_run(home: Path, tmp_path: Path) -> None:
    table = results(seeds=4)
    chosen = table.filter(
        pa.compute.and_(pa.compute.equal(table["arm"], "pass_k07"), pa.compute.equal(table["level"], "low"))
    )
    more = [{**row, "arm": "pass_no_format", "pass1": row["pass1"] + 0.1} for row in chosen.to_pylist()]
    shutil.copytree(home, tmp_path / "study")
    both = pa.concat_tables([table, pa.Table.from_pylist(more, schema=table.schema)])
    pq.write_table(both, tmp_path / "study" / "results" / "all.parquet")
    pages = report(read_stored(tmp_path / "study"))
    page = pages["beside.md"].decode()
    grpo = table.filter(pa.compute.equal(table["arm"], "grpo_outcome")).to_pylist()
    last = {row["seed"]: row["pass1"] for row in grpo if row["round"] == 20 and not row["tuning"]}
    apart = np.mean([row["pass1"] - last[row["seed"]] for row in more if row["round"] == 20 and not row["tuning"]])
    assert "of the same seeds: +0.100 (+0.100 to +0.100) and " in page
    assert re.search(rf"and {re.escape(format(apart, '+.3f'))} \([^)]*\) at low \(seeds: 4\)\.", page)
    assert f"less GRPO(outcome) is {apart:+.3f} (" in pages["index.md"].decode()


def test_a_quantity_that_ranks_as_the_gain_does_covers_the_misses(home: Path) -> None:
    """The alignment ranks the four points against their gains; weight of failed format ranks them as they gained."""
    stored = read_stored(home)
    keys = [("pass_k07", "low"), ("reward_shaping", "low"), ("pass_k0", "low"), ("grpo_outcome", "none")]
    gain = {key: np.mean([run.measures["gain"] for run in stored.runs[key].values()]) for key in keys}
    order = sorted(keys, key=lambda key: gain[key])  # the worst is forecast as the best
    forecast = [{"arm": arm, "level": level, "alignment": 1.0 - 0.1 * at} for at, (arm, level) in enumerate(order)]
    credit = [
        {"arm": arm, "level": level, "round": None, "rms": 1.0, "failed_share": 0.9 - 0.1 * at}
        for at, (arm, level) in enumerate(order)
    ]
    turned = replace(stored, forecast=forecast, credit=credit)
    held = points(forecast, turned.runs)
    by_name = {one.name: one for one in candidates(turned, held)}
    weight = [by_name["small weight of failed format"].of[one.arm, one.level] for one in held]
    assert ranks(weight) == ranks([one.gain for one in held])
    text = "\n".join(explanation(turned, held))
    assert "| alignment (the forecast) | -1.00 (" in text
    assert "| small weight of failed format | +1.00 (" in text
    assert "forecast as 1 and found 4 of 4: covered by small weight of failed format (rank 4)" in text
    assert "Over all 4 points small weight of failed format ranks best (+1.00; the alignment -1.00)" in text


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


def test_arms_with_more_seeds_are_compared_on_common_ones(tmp_path: Path) -> None:
    """PASS has finished two seeds that nobody else has, with luck of their own: no comparison may see them."""
    table, only = results(seeds=6), pa.compute
    late = only.and_(only.greater_equal(table["seed"], 4), only.not_equal(table["arm"], "pass_k07"))
    lucky = [
        {**row, "pass1": row["pass1"] + 0.2 * (row["seed"] >= 4 and row["round"] > 0)}
        for row in table.filter(only.invert(late)).to_pylist()
    ]
    few = {}
    for name, rows in (("unequal", lucky), ("equal", [row for row in lucky if row["seed"] < 4])):
        (tmp_path / name / "results").mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), tmp_path / name / "results" / "all.parquet")
        few[name] = read_stored(tmp_path / name)
    found, equal = (findings(few[name].runs) for name in ("unequal", "equal"))
    for one, other in zip(found, equal, strict=True):
        assert one.verdict is other.verdict
        assert [part.estimate for part in one.parts] == [part.estimate for part in other.parts]
    forecast = [{"arm": arm, "level": level, "alignment": 0.1} for arm, level in few["equal"].runs]
    assert points(forecast, few["unequal"].runs) == points(forecast, few["equal"].runs)
    made, fair = report(few["unequal"]), report(few["equal"])
    assert "98 cells are finished: 23 arms and levels, 4 to 6 seeds each." in made["index.md"].decode()
    assert made["claims.md"] == fair["claims.md"]
    assert made["images/claims.svg"] == fair["images/claims.svg"]
    assert made["images/pass1.svg"] != fair["images/pass1.svg"]  # an arm's own curve has all of its seeds


def test_an_arm_without_a_common_seed_is_in_no_correlation() -> None:
    table, only = results(seeds=3), pa.compute
    of_one_seed = table.filter(only.and_(only.equal(table["arm"], "pass_k1"), only.equal(table["seed"], 0)))
    lone = [{**row, "arm": "pass_k03", "seed": 9} for row in of_one_seed.to_pylist()]
    runs = read_runs(pa.concat_tables([table, pa.Table.from_pylist(lone, schema=table.schema)]))
    forecast = [{"arm": arm, "level": level, "alignment": 0.1} for arm, level in runs]
    found = points(forecast, runs)
    assert {point.arm for point in found} == set(CORE)
    assert {len(point.gains) for point in found} == {3}
