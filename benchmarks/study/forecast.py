"""What `passrl sweep --truth` would have said before training, by the sweep's own code, and whether it came true."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.study.arms import CORE, TASTES
from benchmarks.study.measures import Runs, values
from benchmarks.study.probe import shaped_arms
from benchmarks.study.signals import Batch, Models
from benchmarks.study.statistics import rank_correlation
from pass_ops import token_advantages
from pipelines.inspect.sweep.truth import Agreement, truth_advantages


def forecasts(batch: Batch, models: Models) -> Iterator[dict[str, Any]]:
    """One row an arm and level: alignment of its token advantages with the truth of steps, with _low and _high.

    The truth is the checker's verdict on each step, which no arm is given. Alignment is the sweep's
    (`pipelines.inspect.sweep.truth.TruthResult`), intervals over prompts.
    """
    rollouts = pa.table(
        {
            "group_id": [f"{row // batch.copies:05d}" for row in range(len(batch.completions))],
            "loss_mask": [[True] * len(one.ids) for one in batch.completions],
        }
    )
    scores = pa.table(
        {
            "process_scores": pa.array([list(one.truth) for one in batch.judged], pa.list_(pa.float32())),
            "process_ends": pa.array([list(one.ends) for one in batch.judged], pa.list_(pa.int32())),
        }
    )
    truth = truth_advantages(rollouts, scores, as_="value")
    arms = list(shaped_arms(batch, models))
    lengths = np.array([len(one.ids) for one in batch.completions])
    row_U = np.repeat(np.arange(len(lengths)), lengths)
    agreement = Agreement(len(arms))
    agreement.add(
        truth,
        [token_advantages(shaped).flatten().to_numpy().astype(np.float64) for _, _, shaped in arms],
        trainable=[shaped["trainable"].to_numpy() for _, _, shaped in arms],
        row_U=row_U,
        group_R=np.arange(len(lengths)) // batch.copies,
        counting_N=np.ones(len(row_U), bool),
    )
    for (arm, level, _), one in zip(arms, agreement.results(), strict=True):
        yield {
            "arm": arm, "level": level, "alignment": one.alignment.value, "alignment_low": one.alignment.low,
            "alignment_high": one.alignment.high,
        }  # fmt: skip


@dataclass(frozen=True)
class Point:
    """An arm at a level: what was forecast, and the gain in pass@1 of each seed."""

    arm: str
    level: str
    forecast: float
    gains: tuple[float, ...]

    @property
    def gain(self) -> float:
        """The mean over seeds."""
        return float(np.mean(self.gains))


def points(rows: Sequence[dict[str, Any]], runs: Runs) -> list[Point]:
    """The arms and levels that have both a forecast and finished cells, with the gains of their common seeds.

    Seeds have luck of their own, so arms are ranked on the same ones: those that every arm of the claims has which has
    any. An arm that lacks one of them (a further one, tried on few seeds) is left out.
    """
    gains = {
        (row["arm"], row["level"]): (row["alignment"], values(of, "gain"))
        for row in rows
        if row["alignment"] is not None and (of := runs.get((row["arm"], row["level"])))
    }
    seeds = [set(of) for (arm, _), (_, of) in gains.items() if arm in CORE]
    common = sorted(set.intersection(*seeds)) if seeds else []
    return [
        Point(arm, level, alignment, tuple(of[seed] for seed in common))
        for (arm, level), (alignment, of) in gains.items()
        if common and of.keys() >= set(common)
    ]


def correlations(found: Sequence[Point]) -> list[tuple[str, int, tuple[float, float, float] | None]]:
    """Which points, how many, and Spearman's correlation with its interval (None for fewer than three arms).

    Over all, and within each level: levels differ in how hard the signal makes it for every arm, which an estimator's
    user does not choose.
    """
    every: list[tuple[str, Sequence[Point]]] = [("all", found)]
    ordered = sorted(found, key=lambda point: point.level)
    of_level = {level: list(own) for level, own in groupby(ordered, key=lambda point: point.level)}
    every += [(level, of_level[level]) for level in TASTES if level in of_level]
    return [(name, len(own), correlation(own)) for name, own in every]


def ranks(numbers: Sequence[float]) -> list[int]:
    """The rank of each, 1 for the highest; equal ones share the better rank."""
    return [1 + sum(other > number for other in numbers) for number in numbers]


def misses(found: Sequence[Point], *, count: int = 3) -> list[tuple[Point, int, int]]:
    """The points whose ranks differ most, with both ranks (1 is best)."""
    both = zip(found, ranks([one.forecast for one in found]), ranks([one.gain for one in found]), strict=True)
    return sorted(both, key=lambda one: -abs(one[1] - one[2]))[:count]


def correlation(own: Sequence[Point]) -> tuple[float, float, float] | None:
    """Spearman's, with its interval over arms and seeds; None for fewer than three arms, and where one forecast is
    given to all.
    """
    arms = [one.arm for one in own]
    if len(set(arms)) < 3 or len({one.forecast for one in own}) == 1:
        return None
    return rank_correlation([one.forecast for one in own], np.array([one.gains for one in own]), clusters=arms)
