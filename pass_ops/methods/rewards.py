"""Methods over a rollout's rewards alone, x = w_out * outcome + w_fmt * format."""

from __future__ import annotations

import numpy as np

from pass_ops.group import Group
from pass_ops.methods.common import Floats, masked_norm, rewards
from pass_ops.options.config import ShapingConfig


def opo(group: Group, config: ShapingConfig) -> Floats:
    """On-policy optimal baseline (arXiv 2505.23585): the mean reward, weighted by length.

    A(i) = x_i - sum_j L_j x_j / sum_j L_j,  L the unmasked tokens of a rollout.
    """
    x_G, lengths_G = rewards(group, config), np.array([mask.sum() for mask in group.mask], dtype=np.float64)
    total = lengths_G.sum()
    if total == 0.0:
        return np.zeros(len(x_G))
    shifted_G = x_G - x_G[0]
    advantages_G: Floats = shifted_G - (lengths_G * shifted_G).sum() / total
    return advantages_G


def pass_at_k(group: Group, config: ShapingConfig, *, divide_by_std: bool = False) -> Floats:
    """Pass@k training (arXiv 2503.19595) with k = G: only the best rollout is credited, by what it adds to the maximum.

    A(i) = x_(1) - x_(2) for the first rollout with the largest reward x_(1), x_(2) the second largest; 0 for the others
    and in a group of one. divide_by_std: over std + eps, as verl does unless told otherwise.
    """
    x_G = rewards(group, config)
    advantages_G = np.zeros(len(x_G))
    if len(x_G) > 1:
        second, best = np.sort(x_G)[-2:]
        scale = x_G.std(ddof=config.std_ddof) + config.std_eps if divide_by_std and best > second else 1.0
        advantages_G[np.argmax(x_G)] = (best - second) / scale
    return advantages_G


def grpo_lambda(group: Group, config: ShapingConfig, *, decay: float = 0.99, both: bool = False) -> list[Floats]:
    """GRPO-lambda (arXiv 2510.00194): the group's standardized reward, traced over the tokens before.

    The paper takes the ratio of token t to be exp of sum_(j <= t) tr(t, j) log ratio_j, with tr(t, j) = d^(t - j)
    ("recent") or max(d^(t - j), d^j) ("both", j from 0), d = gamma * lambda (its Sec. 3.2, Eq. 2). Where all ratios are
    1, at the first step of an update, the gradient of its objective is that of plain GRPO with

        A(i, j) = N(x_i) * sum_(t >= j) tr(t, j)

    over the n unmasked tokens t of the rollout, which is what is given here. Its clipping of the traced ratio is not.
    """
    advantages = []
    for mask, value in zip(group.mask, masked_norm(rewards(group, config), config), strict=True):
        at = np.flatnonzero(mask)
        places = np.arange(len(at))
        powers = decay**places
        sums = powers.cumsum()  # of the powers up to each
        most = len(at) - 1 - places  # the largest lag, behind which the rollout ends
        traced = sums[most]
        if both:  # d^lag up to lag j, d^j from there
            traced = sums[np.minimum(most, places)] + np.maximum(most - places, 0) * powers
        of_tokens = np.zeros(len(mask))
        of_tokens[at] = value * traced
        advantages.append(of_tokens)
    return advantages
