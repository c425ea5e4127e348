"""Intervals over prompts: a number recomputed with prompts drawn again, with replacement (Efron's bootstrap).

A prompt's rollouts stay together: they share a pool, so that they are no independent draws. Seeded: the same numbers
come out every time.

Axes: prompts (P), columns of sums (S), draws (B).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

DRAWS = 1000
COVERED = (2.5, 97.5)
_DRAWN_AT_ONCE = 1 << 20  # bounds memory


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number and the interval that 95 % of the draws fall into; None where it cannot be computed."""

    value: float | None
    low: float | None
    high: float | None


def draws(sums_PS: NDArray[Any], *, count: int = DRAWS, seed: int = 0) -> NDArray[np.float64]:
    """The columns' sums over each of `count` draws of the prompts, as many as there are [B, S].

    >>> draws(np.ones((3, 1)), count=2).tolist()
    [[3.0], [3.0]]
    """
    generator = np.random.default_rng(seed)
    prompts = len(sums_PS)
    at_once = max(1, _DRAWN_AT_ONCE // max(prompts, 1))
    drawn = []
    for first in range(0, count if prompts else 0, at_once):
        draws_here = min(at_once, count - first)
        picked_BP = generator.integers(prompts, size=(draws_here, prompts))
        flat = (picked_BP + prompts * np.arange(draws_here)[:, None]).ravel()
        times_BP = np.bincount(flat, minlength=draws_here * prompts).reshape(draws_here, prompts)
        drawn.append(times_BP @ np.asarray(sums_PS, np.float64))
    return np.concatenate([np.zeros((0, np.shape(sums_PS)[1])), *drawn])


def interval(value: float | None, drawn_B: NDArray[np.float64]) -> Estimate:
    """The estimate of `value` whose draws are given; draws that are not finite are left out."""
    finite_B = drawn_B[np.isfinite(drawn_B)]
    if value is None or not len(finite_B):
        return Estimate(value=value, low=None, high=None)
    low, high = np.percentile(finite_B, COVERED)
    return Estimate(value=value, low=float(low), high=float(high))


def mean_over_prompts(value_R: NDArray[Any], prompt_R: NDArray[np.int64], *, seed: int = 0) -> Estimate:
    """The mean of values, one a rollout, with the interval over the prompts that they belong to."""
    if not len(value_R):
        return Estimate(value=None, low=None, high=None)
    numbers = np.unique(prompt_R, return_inverse=True)[1]
    sums_PS = np.stack([np.bincount(numbers, weights=value_R), np.bincount(numbers)], axis=1)
    total_B, count_B = draws(sums_PS, seed=seed).T
    return interval(float(np.mean(value_R)), total_B / count_B)
