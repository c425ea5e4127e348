"""From per-token losses to one number: the weight of every token, known before any forward pass."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trainer.errors import LossInputError
from trainer.losses.inputs import check_choice
from trainer.options import Aggregation


def loss_weights(
    unmasked_R: NDArray[np.int64], *, aggregation: Aggregation, constant: float | None = None
) -> NDArray[np.float64]:
    """The weight of every unmasked token of rollout r, float64 [R], so that the step's loss is a plain weighted sum.

    R rollouts with u_r unmasked tokens each: rollout_mean 1 / (R u_r), token_mean 1 / sum(u), constant 1 / (R c).
    Raises LossInputError where a rollout has no unmasked token, or constant is missing or not above 0.
    """
    check_choice("aggregation", aggregation, Aggregation)
    rollouts = len(unmasked_R)
    if np.ndim(unmasked_R) != 1 or not (np.asarray(unmasked_R) > 0).all():
        raise LossInputError(f"unmasked_R is {unmasked_R}; give one count above 0 per rollout.")
    if aggregation == "rollout_mean":
        return 1.0 / (rollouts * unmasked_R)
    if aggregation == "token_mean":
        return np.full(rollouts, 1.0 / unmasked_R.sum())
    if constant is None or not constant > 0:
        raise LossInputError(f"constant is {constant}; aggregation 'constant' divides by it, give a number above 0.")
    return np.full(rollouts, 1.0 / (rollouts * float(constant)))
