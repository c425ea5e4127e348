"""Sums and means over the tokens of each rollout.

Dimensions: _N tokens with a loss, concatenated; rows_N says which rollout a token belongs to.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rollout_sum(values_N: Tensor, rows_N: Tensor) -> Tensor:
    """For every token, the sum over its rollout's tokens."""
    if not len(rows_N):
        return values_N
    sums = torch.zeros(int(rows_N.max()) + 1, dtype=values_N.dtype, device=values_N.device)
    return sums.index_add(0, rows_N, values_N)[rows_N]


def rollout_mean(values_N: Tensor, rows_N: Tensor) -> Tensor:
    """For every token, the mean over its rollout's tokens."""
    return rollout_sum(values_N, rows_N) / rollout_sum(torch.ones_like(values_N), rows_N)
