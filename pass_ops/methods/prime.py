"""PRIME's advantages (arXiv 2502.01456, Eq. 5 and its code), written as an estimator of your own would be.

    x~       = n / (n - 1) * (x - m)       leave-one-out, each source by itself: m the mean of the n rollouts' means
    R(i, t)  = sum over t' >= t of  w_prc * s~(i, t') + w_out * r~_out(i, t') + w_fmt * r~_fmt(i, t')
    A(i, t)  = (R(i, t) - mean(R)) / (std(R) + eps)           over the group's unmasked tokens

A score lies at the last token of its step, outcome and format at the rollout's last token. PRIME's code whitens over
the training batch; here it is the group, since a shard's values must not depend on which groups share it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pass_ops.group import Group
from pass_ops.options.config import ShapingConfig

Floats = NDArray[np.float64]


def prime(group: Group, config: ShapingConfig) -> list[Floats]:
    """Leave-one-out per source, weighted sum, return-to-go, masked whitening; one array of advantages a rollout."""
    weights = config.weights
    rewards = [np.zeros(len(mask)) for mask in group.mask]
    process = leave_one_out([scores[live] for scores, live in zip(group.scores, group.live, strict=True)])
    for lies, ends, live, values in zip(rewards, group.ends, group.live, process, strict=True):
        lies[ends[live] - 1] = weights.process * values
    for weight, x_R in ((weights.outcome, group.outcome), (weights.format, group.format)):
        for lies, (value,) in zip(rewards, leave_one_out([x_R[i : i + 1] for i in range(len(group))]), strict=True):
            lies[-1:] += weight * value
    return whiten([lies[::-1].cumsum()[::-1] for lies in rewards], group.mask, config)


def leave_one_out(values: Sequence[Floats]) -> list[Floats]:
    """The operator, n / (n - 1) * (x - m), on each rollout's values; 0 where only one rollout has any."""
    means = [x.mean() for x in values if len(x)]
    n = len(means)
    if n < 2:
        return [np.zeros(len(x)) for x in values]
    shift = means[0]  # equal values then give exactly 0
    m = np.mean(np.array(means) - shift)
    return [n / (n - 1) * (x - shift - m) for x in values]


def whiten(values: Sequence[Floats], mask: Sequence[NDArray[np.bool_]], config: ShapingConfig) -> list[Floats]:
    """Zero mean and unit deviation over all unmasked values; 0 where they are one, or all equal."""
    kept = np.concatenate([x[counts] for x, counts in zip(values, mask, strict=True)])
    if len(kept) < 2 or np.ptp(kept) == 0.0:
        return [np.zeros(len(x)) for x in values]
    mean, scale = kept.mean(), kept.std(ddof=config.std_ddof) + config.std_eps
    return [(x - mean) / scale for x in values]
