"""What appended steps would earn: the real estimator over stored groups of which one rollout has steps put in.

Every other rollout of the group stays as it is, and the outcome and format rewards stay too: the question is whether a
policy that pads *one* rollout is paid for it. Nothing of an estimator is written down here; `pass_ops.shape` answers.

Legend: rows of the sample (R), padded rows (P), tokens that count (U).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pass_ops import ShapingConfig, Statistics, pool_statistics, shape, token_advantages
from pass_ops.reading.groups import group_bounds, group_numbers
from pass_ops.reading.ragged import list_lengths, list_values
from pipelines.inspect.elements import elements
from pipelines.inspect.padding import MASK, POSITIONS, Place, Position, padded, places
from pipelines.inspect.resample import Estimate, mean_over_prompts
from pipelines.inspect.scored import Scored, scored_columns
from pipelines.inspect.stored import rightness

STEPS = (1, 8)
QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
#: rollouts of a group that are padded, each in a copy of its group
PER_GROUP = 4
SIDES = ("all", "right", "wrong")
_RIGHT = {"right": 1, "wrong": 0}


@dataclass(frozen=True, kw_only=True)
class Level:
    """What an added step is scored: the value of each column of process scores, and their quantile. column: that of
    the signal which `score` is about.
    """

    quantile: float | None
    values: Mapping[str, float]
    column: str = "process_scores"

    @property
    def score(self) -> float | None:
        """The value of the process signal itself; None where none is read."""
        return self.values.get(self.column)


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What `steps` added steps of one score at one position would earn a rollout.

    quantile: of the process scores that are stored; None for a score given as a number. column: whose score it is;
    other process signals are at the same quantile, or at their median. total: change of the rollout's
    total credit, the advantage at its first token that counts (S(o) of the paper wherever an estimator has it). own:
    mean advantage of the added tokens themselves; above 0, the update makes them likelier. Both by side: "all", and
    those that the verifier found "right" or "wrong". rollouts: padded, by side.
    """

    position: Position
    steps: int
    quantile: float | None
    score: float | None
    column: str | None
    rollouts: Mapping[str, int]
    total: Mapping[str, Estimate]
    own: Mapping[str, Estimate]


def score_levels(
    table: pa.Table, quantiles: Sequence[float] = QUANTILES, *, config: ShapingConfig | None = None
) -> list[Level]:
    """Levels at quantiles of the stored scores, over what counts; equal levels once. One without scores.

    config: where it has streams, the scores are those of its streams of steps or tokens, each at its own quantile.
    """
    scored = scored_columns(table, config)
    columns = _live_scores(table, scored)
    levels = [
        Level(
            quantile=q,
            values={name: float(np.quantile(live, q)) for name, live in columns.items()},
            column=scored.column,
        )
        for q in (quantiles if columns else (0.5,))
    ]
    return [level for n, level in enumerate(levels) if all(level.values != other.values for other in levels[:n])]


def poor_level(table: pa.Table, *, config: ShapingConfig | None = None) -> Level:
    """What poor steps are scored: the mean of the stored scores that are below their mean."""
    scored = scored_columns(table, config)
    values = {}
    for name, live in _live_scores(table, scored).items():
        below = live[live < live.mean()]
        values[name] = float((below if below.size else live).mean())
    return Level(quantile=None, values=values, column=scored.column)


def given_levels(table: pa.Table, scores: Sequence[float], *, config: ShapingConfig | None = None) -> list[Level]:
    """Levels at given scores of the process signal; other process signals stay at their median."""
    (median,) = score_levels(table, (0.5,), config=config)
    return [replace(median, quantile=None, values=dict(median.values) | {median.column: score}) for score in scores]


def _live_scores(table: pa.Table, scored: Scored) -> dict[str, NDArray[np.float64]]:
    """Column of process scores -> its values, of steps or tokens that count."""
    columns = {}
    for name, ends in scored.ends.items():
        found = elements(mask=table[MASK], scores=table[name], ends=None if ends is None else table[ends])
        if (live := found.value_E[found.live_E]).size:
            columns[name] = live
    return columns


def forecast(
    table: pa.Table,
    config: ShapingConfig,
    *,
    levels: Sequence[Level] | None = None,
    positions: Sequence[Position] = POSITIONS,
    steps: Sequence[int] = STEPS,
    seed: int = 0,
    statistics: Statistics | None = None,
) -> list[Forecast]:
    """Every combination of position, number of steps and score level, on whole groups of stored rollouts.

    Args:
        table: the columns that `shape` reads, and verify_status where right and wrong are to be told apart. At most
            PER_GROUP trainable rollouts of each group are padded, drawn by the seed.
        config: the estimator and its options, or streams: added steps then get a score from each of them that has a
            value for a step or token, and steps are those of the signal that the score is about.
        levels: what added steps are scored (default: `score_levels`).
        positions: where they are put.
        steps: how many are added.
        seed: of the draw of rollouts, and of the intervals.
        statistics: what is recorded of pools of the whole dataset, which one padded rollout does not move (default:
            those of the table as it is).

    Raises what `shape` raises. Empty where no rollout is trainable.
    """
    if config.dataset_pools and statistics is None:
        statistics = pool_statistics([table], config)

    def shaped_by(rows: pa.Table) -> pa.Table:
        return shape(rows, config, statistics=statistics)

    chosen_P = _chosen(shaped_by(table), seed=seed)
    if not len(chosen_P):
        return []
    copies, rows = _copies(table, chosen_P)
    group_P = group_numbers(group_bounds(table["group_id"]))[chosen_P]
    right_P = rightness(table, config)[chosen_P]
    before_P = _first_counted(shaped_by(copies), rows)
    levels = score_levels(table, config=config) if levels is None else levels
    steps_end = scored_columns(table, config).steps_end
    found = []
    for position in positions:
        where = places(copies, rows, position, steps_end=steps_end)
        for count in steps:
            for level in levels:
                shaped = shaped_by(padded(copies, where, steps=count, scores=level.values))
                made = _Padded(
                    gain_P=_first_counted(shaped, rows) - before_P,
                    own_P=_added_mean(shaped, where, steps=count),
                    group_P=group_P,
                    right_P=right_P,
                )
                found.append(made.forecast(level, position=position, steps=count, seed=seed))
    return found


@dataclass(frozen=True, kw_only=True)
class _Padded:
    """What became of the padded rows: change of the total credit, mean advantage of what was added; whose they are."""

    gain_P: NDArray[np.float64]
    own_P: NDArray[np.float64]
    group_P: NDArray[np.int64]
    right_P: NDArray[np.int8]

    def forecast(self, level: Level, *, position: Position, steps: int, seed: int) -> Forecast:
        return Forecast(
            position=position,
            steps=steps,
            quantile=level.quantile,
            score=level.score,
            column=None if level.score is None else level.column,
            rollouts={side: int(of_side.sum()) for side, of_side in _sides(self.right_P)},
            total=_estimates(self.gain_P, self.group_P, self.right_P, seed=seed),
            own=_estimates(self.own_P, self.group_P, self.right_P, seed=seed),
        )


def pays_from(forecasts: Sequence[Forecast], *, position: Position, steps: int, side: str = "all") -> float | None:
    """The lowest score at which added steps raise the total credit on average: between two levels, by a straight line.

    None where they raise it at no level; the lowest level's score where they do at each.
    """
    line: list[tuple[float | None, float | None]] = [
        (one.score, one.total[side].value)
        for one in forecasts
        if one.position == position and one.steps == steps and one.score is not None
    ]
    points = sorted((score, gain) for score, gain in line if score is not None and gain is not None)
    for number, (score, gain) in enumerate(points):
        if gain > 0.0:
            if number == 0:
                return score
            below, lost = points[number - 1]
            return below + (score - below) * -lost / (gain - lost)
    return None


def _chosen(shaped: pa.Table, *, seed: int) -> NDArray[np.int64]:
    """Trainable rows, at most PER_GROUP of each group."""
    generator = np.random.default_rng(seed)
    trainable_R = shaped["trainable"].to_numpy()
    bounds_G1 = group_bounds(shaped["group_id"])
    chosen = []
    for first, last in pairwise(bounds_G1):
        rows = first + np.flatnonzero(trainable_R[first:last])
        chosen.append(np.sort(generator.permutation(rows)[:PER_GROUP]))
    return np.concatenate([np.zeros(0, np.int64), *chosen])


def _copies(table: pa.Table, chosen_P: NDArray[np.int64]) -> tuple[pa.Table, list[int]]:
    """A copy of its group for each chosen row, under a name of its own, and the row's place among the copies."""
    bounds_G1 = group_bounds(table["group_id"])
    group_P = np.searchsorted(bounds_G1, chosen_P, side="right") - 1
    first_P, size_P = bounds_G1[group_P], np.diff(bounds_G1)[group_P]
    index = np.concatenate([first + np.arange(size) for first, size in zip(first_P, size_P, strict=True)])
    copies = table.take(pa.array(index))
    names = pa.array(np.repeat(np.arange(len(chosen_P)), size_P).astype(str))
    copies = copies.set_column(copies.column_names.index("group_id"), "group_id", names)
    return copies, ((np.cumsum(size_P) - size_P) + chosen_P - first_P).tolist()


def _rows_of(shaped: pa.Table, rows: Sequence[int]) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.float64]]]:
    """Mask and token advantages of each of these rows."""
    some = shaped.take(pa.array(rows))
    cuts = np.cumsum(list_lengths(some[MASK]))[:-1]
    masks = np.split(list_values(some[MASK]), cuts)
    return zip(masks, np.split(token_advantages(some).values.to_numpy().astype(np.float64), cuts), strict=True)


def _first_counted(shaped: pa.Table, rows: Sequence[int]) -> NDArray[np.float64]:
    """The advantage at the first token that counts, of rows that have one."""
    return np.array([advantage_T[np.argmax(mask_T)] for mask_T, advantage_T in _rows_of(shaped, rows)])


def _added_mean(shaped: pa.Table, where: Sequence[Place], *, steps: int) -> NDArray[np.float64]:
    """The mean advantage of the added tokens of each place."""
    advantages = (advantage_T for _, advantage_T in _rows_of(shaped, [place.row for place in where]))
    return np.array(
        [a_T[at.at : at.at + steps * (at.last - at.first)].mean() for a_T, at in zip(advantages, where, strict=True)]
    )


def _sides(right_P: NDArray[np.int8]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    for side in SIDES:
        yield side, right_P == _RIGHT[side] if side in _RIGHT else np.ones(len(right_P), np.bool_)


def _estimates(
    value_P: NDArray[np.float64], group_P: NDArray[np.int64], right_P: NDArray[np.int8], *, seed: int
) -> dict[str, Estimate]:
    return {side: mean_over_prompts(value_P[of_side], group_P[of_side], seed=seed) for side, of_side in _sides(right_P)}
