"""What appended steps would earn: the real estimator over stored groups of which one rollout has steps put in.

Every other rollout of the group stays as it is, and the outcome and format rewards stay too: the question is whether a
policy that pads *one* rollout is paid for it. Nothing of an estimator is written down here; `pass_ops.shape` answers.

Legend: rows of the sample (R), padded rows (P), tokens that count (U).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pass_ops import ShapingConfig, shape, token_advantages
from pass_ops.reading.groups import group_bounds, group_numbers
from pass_ops.reading.ragged import list_lengths, list_values
from pipelines.inspect.elements import elements
from pipelines.inspect.padding import MASK, POSITIONS, SCORES, Place, Position, padded, places
from pipelines.inspect.resample import Estimate, mean_over_prompts
from pipelines.inspect.stored import rightness

STEPS = (1, 8)
QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
#: rollouts of a group that are padded, each in a copy of its group
PER_GROUP = 4
SIDES = ("all", "right", "wrong")
_RIGHT = {"right": 1, "wrong": 0}


@dataclass(frozen=True, kw_only=True)
class Level:
    """What an added step is scored: the value of each column of process scores, and their quantile."""

    quantile: float | None
    values: Mapping[str, float]

    @property
    def score(self) -> float | None:
        """The value of the process signal itself; None where none is read."""
        return self.values.get("process_scores")


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What `steps` added steps of one score at one position would earn a rollout.

    quantile: of the process scores that are stored; None for a score given as a number. total: change of the rollout's
    total credit, the advantage at its first token that counts (S(o) of the paper wherever an estimator has it). own:
    mean advantage of the added tokens themselves; above 0, the update makes them likelier. Both by side: "all", and
    those that the verifier found "right" or "wrong". rollouts: padded, by side.
    """

    position: Position
    steps: int
    quantile: float | None
    score: float | None
    rollouts: Mapping[str, int]
    total: Mapping[str, Estimate]
    own: Mapping[str, Estimate]


def score_levels(table: pa.Table, quantiles: Sequence[float] = QUANTILES) -> list[Level]:
    """Levels at quantiles of the stored scores, over what counts; equal levels once. One without scores."""
    columns = _live_scores(table)
    levels = [
        Level(quantile=q, values={name: float(np.quantile(live, q)) for name, live in columns.items()})
        for q in (quantiles if columns else (0.5,))
    ]
    return [level for n, level in enumerate(levels) if all(level.values != other.values for other in levels[:n])]


def poor_level(table: pa.Table) -> Level:
    """What poor steps are scored: the mean of the stored scores that are below their mean."""
    values = {}
    for name, live in _live_scores(table).items():
        below = live[live < live.mean()]
        values[name] = float((below if below.size else live).mean())
    return Level(quantile=None, values=values)


def _live_scores(table: pa.Table) -> dict[str, NDArray[np.float64]]:
    """Column of process scores -> its values, of steps or tokens that count."""
    columns = {}
    for name in (name for name in table.column_names if name.endswith(SCORES)):
        ends = name.removesuffix(SCORES) + "_ends"
        found = elements(mask=table[MASK], scores=table[name], ends=table[ends] if ends in table.column_names else None)
        if (live := found.value_E[found.live_E]).size:
            columns[name] = live
    return columns


def given_levels(table: pa.Table, scores: Sequence[float]) -> list[Level]:
    """Levels at given scores of the process signal; other process signals stay at their median."""
    (median,) = score_levels(table, (0.5,))
    return [Level(quantile=None, values=dict(median.values) | {"process_scores": score}) for score in scores]


def forecast(
    table: pa.Table,
    config: ShapingConfig,
    *,
    levels: Sequence[Level] | None = None,
    positions: Sequence[Position] = POSITIONS,
    steps: Sequence[int] = STEPS,
    seed: int = 0,
) -> list[Forecast]:
    """Every combination of position, number of steps and score level, on whole groups of stored rollouts.

    Args:
        table: the columns that `shape` reads, and verify_status where right and wrong are to be told apart. At most
            PER_GROUP trainable rollouts of each group are padded, drawn by the seed.
        config: the estimator and its options.
        levels: what added steps are scored (default: `score_levels`).
        positions: where they are put.
        steps: how many are added.
        seed: of the draw of rollouts, and of the intervals.

    Raises what `shape` raises. Empty where no rollout is trainable.
    """
    chosen_P = _chosen(shape(table, config), seed=seed)
    if not len(chosen_P):
        return []
    copies, rows = _copies(table, chosen_P)
    group_P = group_numbers(group_bounds(table["group_id"]))[chosen_P]
    right_P = rightness(table)[chosen_P]
    before_P = _first_counted(shape(copies, config), rows)
    found = []
    for position in positions:
        where = places(copies, rows, position)
        for count in steps:
            for level in score_levels(table) if levels is None else levels:
                shaped = shape(padded(copies, where, steps=count, scores=level.values), config)
                gain_P = _first_counted(shaped, rows) - before_P
                own_P = _added_mean(shaped, where, steps=count)
                found.append(
                    Forecast(
                        position=position,
                        steps=count,
                        quantile=level.quantile,
                        score=level.score,
                        rollouts={side: int(of_side.sum()) for side, of_side in _sides(right_P)},
                        total=_estimates(gain_P, group_P, right_P, seed=seed),
                        own=_estimates(own_P, group_P, right_P, seed=seed),
                    )
                )
    return found


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
