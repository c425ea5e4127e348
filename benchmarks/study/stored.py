"""All that the report is made of, as it lies in docs/study/."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.study.arms import Cell
from benchmarks.study.measures import Run, Runs, every_run, read_runs, read_tuning
from benchmarks.study.probe import read_rows
from benchmarks.study.store import read_results

_KEY = ("arm", "level", "lr", "seed")


@dataclass(frozen=True)
class Stored:
    """All that the report is made of."""

    cells: Sequence[str]
    runs: Runs
    pilots: Sequence[Run]
    """cells run before the grid of learning rates was set; no claim is judged by them"""
    tuning: Sequence[Run]
    """the cells that learning rates were chosen by"""
    drift: Sequence[Mapping[str, Any]]
    forecast: Sequence[dict[str, Any]]
    credit: Sequence[Mapping[str, Any]]
    """what each arm's advantages are made of, on the start policy's rollouts and on the published ones"""
    cards: Mapping[str, Mapping[str, Any]]
    """card.json of each start model"""
    levels: Mapping[str, Mapping[str, Any]]
    """what the process reward model is at each taste for padding"""


def read_stored(home: Path, *, cells: Collection[str] | None = None) -> Stored:
    """Everything below ``home``, or of the results these cells only; what is not there yet is empty.

    Raises ValueError as `read_runs` and `read_tuning` do.
    """
    cards = {path.parent.name: json.loads(path.read_text()) for path in sorted(home.glob("models/*/card.json"))}
    levels = home / "models" / "levels.json"
    results = read_results(home / "results")
    names = [Cell(*key).name for key in zip(*(results[name].to_pylist() for name in _KEY), strict=True)]
    if cells is not None:
        results = results.filter(pa.array([name in cells for name in names], pa.bool_()))
        names = [name for name in names if name in cells]
    return Stored(
        cells=sorted(set(names)),
        runs=read_runs(results),
        pilots=every_run(read_results(home / "pilots")),
        tuning=read_tuning(results),
        drift=read_rows(home / "probe" / "drift.parquet"),
        forecast=read_rows(home / "probe" / "forecast.parquet"),
        credit=read_rows(home / "probe" / "credit.parquet"),
        cards=cards,
        levels=json.loads(levels.read_text())["levels"] if levels.exists() else {},
    )
