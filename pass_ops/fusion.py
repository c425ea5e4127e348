"""Advantage Fusion, AF (paper Eq. 4, Alg. 1): three standardized streams become one token advantage.

    A(i, t) = w_prc * s~(i, t) + w_out * r~_out(i) + w_fmt * r~_fmt(i)     if I_fmt,i = 1
    A(i, t) = W * r~_fmt(i)                                                  if I_fmt,i = 0

Within a rollout A is affine in the process score, and so is the score of `reward_shaping`, which is fused before it is
standardized. Both are carried as one map per rollout and evaluated only where a chunk needs it:

    A = slope * (weight * s + add - center) / scale + base
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pass_ops.options.config import Weights


class Fusion(NamedTuple):
    """The map from a process score to the fused advantage, for each row (center and scale are the group's)."""

    weight: float
    add_R: np.ndarray
    slope_R: np.ndarray
    base_R: np.ndarray


def fuse(weights: Weights, *, outcome_R: np.ndarray, format_R: np.ndarray, passed_R: np.ndarray) -> Fusion:
    """AF over standardized streams: the process score is standardized by itself, the others are added, gated.

    Args:
        weights: w_prc, w_out, w_fmt.
        outcome_R: standardized outcome reward, 0 where the stream is not used. float64.
        format_R: standardized format reward, 0 where the stream is not used. float64.
        passed_R: the indicator I_fmt; True everywhere where nothing is gated.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # what is too large is refused where it would be stored
        passed = weights.outcome * outcome_R + weights.format * format_R
        failed = weights.total * format_R
    return Fusion(
        weight=1.0,
        add_R=np.zeros(len(outcome_R)),
        slope_R=np.where(passed_R, weights.process, 0.0),
        base_R=np.where(passed_R, passed, failed),
    )


def shape_rewards(weights: Weights, *, outcome_R: np.ndarray, format_R: np.ndarray) -> Fusion:
    """Reward shaping (paper Table 3): the raw streams are summed per element, and the sum is standardized."""
    rows = len(outcome_R)
    return Fusion(
        weight=weights.process,
        add_R=weights.outcome * outcome_R + weights.format * format_R,
        slope_R=np.ones(rows),
        base_R=np.zeros(rows),
    )
