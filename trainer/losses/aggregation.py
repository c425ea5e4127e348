"""From per-token losses to one number: the weight of every token, known before any forward pass."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def loss_weights(
    unmasked_R: NDArray[np.int64], *, aggregation: str, constant: float | None = None
) -> NDArray[np.float64]:
    """The weight of every unmasked token of rollout r, so that the step's loss is a plain weighted sum.

    R rollouts with u_r unmasked tokens each: rollout_mean 1 / (R u_r), token_mean 1 / sum(u), constant 1 / (R c).
    """
    rollouts = len(unmasked_R)
    if aggregation == "rollout_mean":
        return 1.0 / (rollouts * unmasked_R)
    if aggregation == "token_mean":
        return np.full(rollouts, 1.0 / unmasked_R.sum())
    return np.full(rollouts, 1.0 / (rollouts * float(constant or 0)))
