"""What step scores would do to a training: the advantages that shaping makes of them, held against the labels.

Legend: _S steps, end to end over solutions; _N solutions; _T tokens, end to end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pass_ops import ShapingConfig, shape, token_advantages

#: solutions shaped at a time (whole groups)
_SLICE = 4096
RIGHT, WRONG, NEITHER = 1, 0, -1
#: the score that a step without a label has where the labels are the scores
_NEITHER_SCORE = 0.5


@dataclass(frozen=True, kw_only=True)
class StepTable:
    """Scored and labelled solutions.

    Of each step: score_S, label_S (RIGHT, WRONG, NEITHER), counted_S (False where an earlier solution has the same
    step), end_S (exclusive token end). Of each solution: steps_N, first_error_N (-1 none, -2 not known), group_N (a
    number a problem), answer_N (1, 0, or NaN where not known), placed_N (whether its token ends are known).
    """

    score_S: NDArray[np.float64]
    label_S: NDArray[np.int8]
    counted_S: NDArray[np.bool_]
    end_S: NDArray[np.int32]
    steps_N: NDArray[np.int64]
    first_error_N: NDArray[np.int64]
    group_N: NDArray[np.int64]
    answer_N: NDArray[np.float32]
    placed_N: NDArray[np.bool_]

    @property
    def starts_N(self) -> NDArray[np.int64]:
        """Where each solution's steps begin."""
        return np.cumsum(self.steps_N) - self.steps_N

    @property
    def first_wrong_S(self) -> NDArray[np.bool_]:
        """Whether a step is its solution's first wrong one."""
        first_S = np.zeros(len(self.score_S), bool)
        has_N = self.first_error_N >= 0
        first_S[(self.starts_N + self.first_error_N)[has_N]] = True
        return first_S

    def take(self, of_N: NDArray[np.int64]) -> StepTable:
        """These solutions, in this order."""
        steps_N = self.steps_N[of_N]
        inside_S = np.arange(int(steps_N.sum())) - np.repeat(np.cumsum(steps_N) - steps_N, steps_N)
        at_S = np.repeat(self.starts_N[of_N], steps_N) + inside_S
        names = {"score_S", "label_S", "counted_S", "end_S"}
        return StepTable(
            **{name: value[at_S if name in names else of_N] for name, value in vars(self).items()}
        )  # fmt: skip

    def scored_by_labels(self) -> StepTable:
        """The same steps as a flawless signal would score them: 1 right, 0 wrong, and 0.5 where there is no label."""
        score_S = np.where(self.label_S == NEITHER, _NEITHER_SCORE, self.label_S == RIGHT)
        return replace(self, score_S=score_S.astype(np.float64))


@dataclass(frozen=True, kw_only=True)
class Effect:
    """The advantages of labelled steps, each step once. Shares are None where there is no such step.

    agreement: the share of steps whose advantage has the sign of their label (above 0 right, below 0 wrong).
    right_punished: the share of right steps with an advantage below 0. wrong_rewarded, first_wrong_rewarded: the
    shares of wrong, and of first wrong, steps with one above 0. right, wrong, first_wrong: mean advantages.
    """

    steps: int
    agreement: float | None
    right_punished: float | None
    wrong_rewarded: float | None
    first_wrong_rewarded: float | None
    right: float | None
    wrong: float | None
    first_wrong: float | None


def effect(table: StepTable, config: ShapingConfig) -> Effect:
    """Shape the solutions whose token ends are known, a problem's as one group, and compare with the labels."""
    found: list[tuple[NDArray[np.float32], StepTable, NDArray[np.bool_]]] = []
    for part in _slices(table):
        advantage_S, trainable_S = step_advantages(part, config)
        found.append((advantage_S, part, part.counted_S & trainable_S))
    columns = [
        (advantage_S[of_S], part.label_S[of_S], part.first_wrong_S[of_S]) for advantage_S, part, of_S in found
    ]  # fmt: skip
    empty = (np.zeros(0, np.float32), np.zeros(0, np.int8), np.zeros(0, bool))
    advantage_S, label_S, first_S = (np.concatenate(parts) for parts in zip(empty, *columns, strict=True))
    right_S, wrong_S = label_S == RIGHT, label_S == WRONG
    fits_S = np.where(right_S, advantage_S > 0, advantage_S < 0)
    return Effect(
        steps=int((right_S | wrong_S).sum()),
        agreement=_mean(fits_S, right_S | wrong_S),
        right_punished=_mean(advantage_S < 0, right_S),
        wrong_rewarded=_mean(advantage_S > 0, wrong_S),
        first_wrong_rewarded=_mean(advantage_S > 0, first_S),
        right=_mean(advantage_S, right_S),
        wrong=_mean(advantage_S, wrong_S),
        first_wrong=_mean(advantage_S, first_S),
    )


def step_advantages(table: StepTable, config: ShapingConfig) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Each step's advantage at its last token, and whether its solution is trainable; groups are adjacent."""
    starts_N, lengths_N = table.starts_N, table.end_S[np.cumsum(table.steps_N) - 1].astype(np.int64)
    shaped = shape(_rollouts(table, starts_N, lengths_N), config)
    advantage_T = token_advantages(shaped).flatten().to_numpy()
    before_S = np.repeat(np.cumsum(lengths_N) - lengths_N, table.steps_N)
    trainable_N = shaped["trainable"].to_numpy().astype(bool)
    return advantage_T[before_S + table.end_S - 1], np.repeat(trainable_N, table.steps_N)


def _rollouts(table: StepTable, starts_N: NDArray[np.int64], lengths_N: NDArray[np.int64]) -> pa.Table:
    steps = pa.array(np.append(starts_N, len(table.score_S)).astype(np.int32))
    tokens = pa.array(np.append(0, np.cumsum(lengths_N)).astype(np.int32))
    mask_T = pa.array(np.ones(int(lengths_N.sum()), bool))
    return pa.table(
        {
            "group_id": pa.array(table.group_N).cast(pa.string()),
            "loss_mask": pa.ListArray.from_arrays(tokens, mask_T),
            "process_scores": pa.ListArray.from_arrays(steps, pa.array(table.score_S.astype(np.float32))),
            "process_ends": pa.ListArray.from_arrays(steps, pa.array(table.end_S)),
            "outcome_reward": pa.array(table.answer_N, from_pandas=True),
        }
    )


def _slices(table: StepTable) -> Iterator[StepTable]:
    """The placed solutions, by problem, some thousand at a time."""
    placed = np.flatnonzero(table.placed_N)
    placed = placed[np.argsort(table.group_N[placed], kind="stable")]
    if len(placed) == 0:
        return
    bounds = np.append(np.flatnonzero(np.diff(table.group_N[placed])) + 1, len(placed))
    start = 0
    for bound in bounds:
        if bound - start >= _SLICE or bound == len(placed):
            yield table.take(placed[start:bound])
            start = int(bound)


def _mean(values_S: NDArray[Any], of_S: NDArray[np.bool_]) -> float | None:
    return float(values_S[of_S].mean()) if of_S.any() else None
