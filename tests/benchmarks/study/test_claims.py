"""Verdicts, measures and tables on generated results with known effects."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.study.claims import CLAIMS, findings
from benchmarks.study.measures import area, read_runs, read_tuning, values
from benchmarks.study.statistics import ERROR, Verdict, detectable
from benchmarks.study.store import SCHEMA
from benchmarks.study.tables import RESULTS, cell, claims_table, differences_table, measures_table, parts_table
from tests.benchmarks.study.generated import results, row

YES, NO, OPEN = Verdict.REPRODUCED, Verdict.NOT_REPRODUCED, Verdict.UNDECIDED


def test_verdicts_are_those_of_the_effects_that_were_put_in() -> None:
    """PASS falls by 0.2 at level high and nowhere else; under G-OPD the baseline lengthens."""
    found = {(one.claim.text, one.level): one.verdict for one in findings(read_runs(results()))}
    assert {level: found["PASS beats GRPO(outcome)", level] for level in ("low", "slight", "high")} == {
        "low": YES,
        "slight": YES,
        "high": NO,
    }
    collapse = "without Divide-Length (k = 0) length inflates and accuracy falls"
    assert [found[collapse, level] for level in ("low", "high")] == [YES, NO]  # longer at high too, but more accurate
    assert [found["k = 0.7 is at least as good as k = 1", level] for level in ("low", "high")] == [YES, NO]
    assert found["under OPD the baseline shortens and PASS lengthens", "none"] is YES
    assert found["under G-OPD the baseline shortens and PASS lengthens", "none"] is NO


def test_noise_or_few_seeds_leave_every_claim_about_accuracy_undecided() -> None:
    for table in (results(seeds=1), results(seeds=3, spread=0.3)):
        assert {one.verdict for one in findings(read_runs(table)) if one.level != "none"} == {OPEN}


def test_a_claim_whose_cells_are_missing_was_not_run() -> None:
    table = results()
    found = findings(read_runs(table.filter(pa.compute.not_equal(table["arm"], "pass_k1"))))
    [one] = [one for one in found if one.claim.text.startswith("k = 0.7") and one.level == "low"]
    assert (one.verdict, one.parts[0].estimate) == (Verdict.NOT_RUN, None)
    assert "| k = 0.7 is at least as good as k = 1 | low | pass@1: PASS less PASS, k = 1 | 0 | – | – |" in parts_table(
        found
    )


def test_every_comparison_of_the_family_is_corrected_for_all_of_them() -> None:
    found = findings(read_runs(results(seeds=6)))
    family = sum(len(claim.parts) * len(claim.levels) for claim in CLAIMS)
    assert family == sum(len(one.parts) for one in found) == 22
    for one in found:
        for part in one.parts:
            assert part.estimate is not None
            assert part.estimate.deviation is not None
            assert part.detectable == detectable(part.estimate.deviation, 6, error=ERROR / family)


def test_pairing_takes_the_luck_of_seeds_off() -> None:
    """A seed's luck has a deviation of 0.05, its own noise one of 0.01: 0.014 for a difference."""
    runs = read_runs(results(seeds=40))
    alone = np.std(list(values(runs["pass_k07", "low"], "pass1").values()), ddof=1)
    [one] = [o for o in findings(runs) if o.claim.text == "PASS beats reward shaping" and o.level == "low"]
    assert one.parts[0].estimate is not None
    assert one.parts[0].estimate.deviation == pytest.approx(0.014, abs=0.004)
    assert alone > 0.035


def test_areas_by_hand() -> None:
    assert area([0.0, 2.0, 4.0], [0.0, 1.0, 1.0], until=4.0) == pytest.approx(0.75)
    assert area([0.0, 2.0, 4.0], [0.0, 1.0, 1.0], until=3.0) == pytest.approx(2 / 3)
    assert area([0.0, 2.0], [0.5, 0.5], until=1.0) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="no area up to 5"):
        area([0.0, 2.0, 4.0], [0.0, 1.0, 1.0], until=5.0)


def test_measures_of_a_cell_by_hand() -> None:
    """Two rounds; another cell generated 1,000 tokens only, so equal tokens end there."""
    rows = [
        row("pass_k07", "low", 0, 0, pass1=0.2, length=80.0, tokens=0),
        row("pass_k07", "low", 0, 2, pass1=0.6, length=90.0, tokens=2000, teacher_kl=0.1, chunks=8.0),
        row("pass_k1", "low", 0, 0, pass1=0.2, length=80.0, tokens=0),
        row("pass_k1", "low", 0, 2, pass1=0.2, length=80.0, tokens=1000),
    ]
    found = read_runs(pa.Table.from_pylist(rows, schema=SCHEMA))["pass_k07", "low"][0].measures
    expected = {"pass1": 0.6, "area": 0.4, "area_tokens": 0.3, "gain": 0.4, "gain_per_token": 200.0,
                "kl_rollout": 9.0, "length_change": 10.0, "chunks": 8.0, "tokens": 2000.0}  # fmt: skip
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_tuning_cells_are_no_results_and_mixtures_are_refused() -> None:
    first = row("pass_k07", "low", 0, 1, pass1=0.5, length=80.0)
    tuned = {**first, "seed": 1000, "lr": 5e-4, "tuning": True}
    assert list(read_runs(pa.Table.from_pylist([first, tuned], schema=SCHEMA))["pass_k07", "low"]) == [0]
    with pytest.raises(ValueError, match=r"learning rates 0\.001 and 0\.002"):
        read_runs(pa.Table.from_pylist([first, {**first, "seed": 1, "lr": 2e-3}], schema=SCHEMA))
    with pytest.raises(ValueError, match="different worlds"):
        read_runs(pa.Table.from_pylist([first, {**first, "seed": 1, "world": "x"}], schema=SCHEMA))


def test_tables_hold_arms_in_order_with_outcome_beside_every_level() -> None:
    runs = read_runs(results())
    lines = measures_table(runs, "slight", RESULTS).splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:6]] == [
        "start",
        "GRPO(outcome)",
        "PASS",
        "GRPO(process)",
    ]
    assert "0.300 | 0.500" in lines[2]
    against = differences_table(runs, "low", reference="pass_k07", measures=("pass1",))
    assert "PASS, k = 1" in against
    assert "\n| PASS |" not in against
    assert "| PASS beats GRPO(outcome) | reproduced | reproduced | not reproduced |  |" in claims_table(findings(runs))


def test_a_cell_of_a_table_by_hand() -> None:
    """0.4, 0.5, 0.6: deviation 0.1, t 4.3027, half 0.2484."""
    assert cell({0: 0.4, 1: 0.5, 2: 0.6}, "pass1") == "0.500 ± 0.248"
    assert cell({0: 0.4}, "pass1") == "0.400"
    assert cell({}, "chunks") == "–"


def test_tuning_cells_of_another_world_choose_no_rate_in_the_report_either() -> None:
    cell = row("pass_k07", "low", 0, 20, pass1=0.5, length=80.0)
    tuned = {**cell, "tuning": True, "seed": 1000, "lr": 3e-4}
    [run] = read_tuning(pa.Table.from_pylist([cell, tuned], schema=SCHEMA))
    assert (run.seed, run.lr) == (1000, 3e-4)
    for others in ([{**tuned, "world": "x"}, cell], [{**tuned, "world": "x"}, tuned]):
        with pytest.raises(ValueError, match=r"tuning cells are of another world than the rest \(w, x\)"):
            read_tuning(pa.Table.from_pylist(others, schema=SCHEMA))
