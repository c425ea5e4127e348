"""What the report knows of a cell: one number a measure, and the curve over rounds, from the stored rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

#: columns of the last row that are measures as they are
FINAL = (
    "pass1", "pass8", "greedy", "low_temperature", "length", "truncated", "steps", "padding", "chunks", "entropy",
    "teacher_kl", "tokens",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One finished cell: its measures (None where not measured) and its rows in order of rounds."""

    arm: str
    level: str
    lr: float
    seed: int
    measures: Mapping[str, float | None]
    start: Mapping[str, float | None]
    """the same measures of the start policy, where they exist: its row of round 0"""
    rows: Sequence[Mapping[str, Any]]


#: runs by arm and level, then by seed
Runs = Mapping[tuple[str, str], Mapping[int, Run]]


def read_runs(table: pa.Table) -> Runs:
    """The finished cells of the grid, out of all stored rows; tuning cells are left out.

    Raises ValueError where one arm has cells at two learning rates and one level (the grid trains each at the rate that
    tuning chose, so their mean would be that of no setting), and where cells were made in different worlds.
    """
    untuned = table.filter(pc.invert(table["tuning"]))
    worlds = sorted(untuned["world"].unique().to_pylist())
    if len(worlds) > 1:
        raise ValueError(
            f"the results are of different worlds ({', '.join(worlds)}), so nothing can be compared; "
            "remove the cells of the old one and run them again"
        )
    runs: dict[tuple[str, str], dict[int, Run]] = {}
    for run in every_run(untuned):
        of_arm = runs.setdefault((run.arm, run.level), {})
        other = next((one.lr for one in of_arm.values() if one.lr != run.lr), None)
        if other is not None:
            raise ValueError(
                f"{run.arm} at level {run.level} has cells at the learning rates {other:g} and {run.lr:g}, so its mean "
                "would be that of no setting; remove the cells of the rate that tuning did not choose"
            )
        of_arm[run.seed] = run
    return runs


def read_tuning(table: pa.Table) -> list[Run]:
    """The tuning cells out of all stored rows.

    Raises ValueError where some are of another world than the grid's cells (or than each other, where it has none), as
    `run.chosen_rates` does: what was learned there chose no rate here.
    """
    tuning, untuned = table.filter(table["tuning"]), table.filter(pc.invert(table["tuning"]))
    worlds = sorted({*tuning["world"].unique().to_pylist(), *untuned["world"].unique().to_pylist()})
    if len(worlds) > 1:
        raise ValueError(
            f"tuning cells are of another world than the rest ({', '.join(worlds)}), so they say nothing about its "
            "learning rates; remove the cells of the old one and tune again"
        )
    return every_run(tuning)


def every_run(table: pa.Table) -> list[Run]:
    """Every stored cell, ordered by arm, level, seed and learning rate."""
    cells: dict[tuple[str, str, int, float], list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        cells.setdefault((row["arm"], row["level"], row["seed"], row["lr"]), []).append(row)
    ordered = {key: sorted(found, key=lambda row: int(row["round"])) for key, found in sorted(cells.items())}
    budget = min((found[-1]["tokens"] for found in ordered.values()), default=0)
    return [
        Run(arm, level, lr, seed, _measures(found, budget), _start(found[0]), found)
        for (arm, level, seed, lr), found in ordered.items()
    ]


def values(runs: Mapping[int, Run], measure: str, *, at_start: bool = False) -> dict[int, float]:
    """A measure by seed, of the cells that have it."""
    found = {seed: (run.start if at_start else run.measures).get(measure) for seed, run in runs.items()}
    return {seed: value for seed, value in found.items() if value is not None}


def area(x: Sequence[float], y: Sequence[float], *, until: float) -> float:
    """The mean height of the line through the points (x, y) from x[0] to ``until``: the area below it by its width.

    x rises strictly. Raises ValueError where ``until`` is not beyond x[0] and at most x[-1].
    """
    if not x[0] < until <= x[-1]:
        raise ValueError(f"the curve runs from {x[0]:g} to {x[-1]:g}, so it has no area up to {until:g}")
    inside = [at for at in x if at < until]
    xs = np.array([*inside, until])
    ys = np.interp(xs, x, y)
    return float(np.trapezoid(ys, xs) / (until - x[0]))


def _measures(rows: Sequence[Mapping[str, Any]], budget: int) -> dict[str, float | None]:
    last = rows[-1]
    heights = [row["pass1"] for row in rows]
    found: dict[str, float | None] = {name: last[name] for name in FINAL}
    rollouts, tokens = ([float(row[name]) for row in rows] for name in ("rollouts", "tokens"))
    found["area"] = area(rollouts, heights, until=rollouts[-1]) if len(rows) > 1 else None
    found["area_tokens"] = area(tokens, heights, until=float(budget)) if len(rows) > 1 else None
    found["gain"] = gain = float(last["pass1"] - rows[0]["pass1"])
    found["gain_per_token"] = 1e6 * gain / last["tokens"] if last["tokens"] else None
    found["kl_rollout"] = _product(last["teacher_kl"], last["length"])
    found["length_change"] = _difference(last["length"], rows[0]["length"])
    return found


def _start(row: Mapping[str, Any]) -> dict[str, float | None]:
    return {**{name: row[name] for name in FINAL}, "kl_rollout": _product(row["teacher_kl"], row["length"])}


def _product(x: float | None, y: float | None) -> float | None:
    return None if x is None or y is None else x * y


def _difference(x: float | None, y: float | None) -> float | None:
    return None if x is None or y is None else x - y
