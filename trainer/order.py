"""Which rollouts form a step: a pure function of (index, options, seed, epoch, step).

Dimensions: _R rows (rollouts) of the index, _U units (groups or single rollouts), _P parts. Nothing here depends on
the number of workers, on batching or on what was read before, so a position in the data is one number: the step.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from trainer.options import DEFAULT_BATCH_SIZE, TrainOptions

IntArray = NDArray[np.int64]
Integers = NDArray[np.int32] | NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Units:
    """Units in the order of the data: unit u is rows_R[starts_U[u]:starts_U[u + 1]], in part part_U[u]."""

    rows_R: NDArray[np.int32]
    starts_U: IntArray  # units + 1
    part_U: NDArray[np.int32]
    tokens_U: IntArray

    def __len__(self) -> int:
        return len(self.part_U)


def form_units(
    rows_R: NDArray[np.int32], *, unit_R: Integers, part_R: NDArray[np.int32], tokens_R: NDArray[np.int32]
) -> Units:
    """Units from rows in the order of the data; rows of one unit are adjacent and share unit_R."""
    first_R = np.flatnonzero(np.append(len(rows_R) > 0, unit_R[1:] != unit_R[:-1])[: len(rows_R)])
    return Units(
        rows_R=rows_R,
        starts_U=np.append(first_R, len(rows_R)),
        part_U=part_R[first_R],
        tokens_U=np.add.reduceat(tokens_R, first_R, dtype=np.int64) if len(rows_R) else np.zeros(0, np.int64),
    )


def step_counts(units: int, options: TrainOptions) -> list[int]:
    """Steps of each epoch: `updates` spread evenly over the epochs, else ceil(units / batch_size) each."""
    if options.updates is not None:
        bounds = [options.updates * e // options.epochs for e in range(options.epochs + 1)]
        return [min(b - a, units) for a, b in pairwise(bounds)]
    return [-(-units // (options.batch_size or DEFAULT_BATCH_SIZE))] * options.epochs


def epoch_order(units: Units, *, seed: int, epoch: int, shuffle_tokens: int) -> IntArray:
    """The units of an epoch in training order.

    Parts are shuffled and cut into windows of about shuffle_tokens tokens (at least one part); units are shuffled
    within a window, so that a reader holds at most two windows. Data that fit one window are shuffled completely.
    """
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch])))
    parts_P, start_P = np.unique(units.part_U, return_index=True)
    end_P = np.append(start_P[1:], len(units))
    tokens_P = np.add.reduceat(units.tokens_U, start_P)
    window: list[IntArray] = []
    windows: list[IntArray] = []
    tokens = 0
    for p in rng.permutation(len(parts_P)):
        if window and tokens + tokens_P[p] > shuffle_tokens:
            windows.append(rng.permutation(np.concatenate(window)))
            window, tokens = [], 0
        window.append(np.arange(start_P[p], end_P[p]))
        tokens += int(tokens_P[p])
    windows.append(rng.permutation(np.concatenate(window)))
    return np.concatenate(windows)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One optimizer step: its number in this call of `train`, its epoch, and its rows of the index."""

    number: int
    epoch: int
    rows_R: Integers


def all_steps(units: Units, options: TrainOptions) -> list[Step]:
    """Every step of the call, in order; an epoch's steps are as equal in size as possible, and none is empty."""
    steps: list[Step] = []
    for epoch, count in enumerate(step_counts(len(units), options)):
        order_U = epoch_order(units, seed=options.seed, epoch=epoch, shuffle_tokens=options.shuffle_tokens)
        for step_U in np.array_split(order_U, count):
            rows = [units.rows_R[units.starts_U[u] : units.starts_U[u + 1]] for u in step_U]
            steps.append(Step(number=len(steps), epoch=epoch, rows_R=np.concatenate(rows)))
    return steps
