"""What a loss reads, and the checks that every loss function makes of its arguments.

Dimensions: _N tokens with a loss; rows_N says which rollout a token belongs to.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, get_args

import torch
from torch import Tensor

from pass_ops.support.nearest import advice
from trainer.errors import LossInputError


@dataclass(frozen=True, kw_only=True)
class LossInputs:
    """The tokens of a micro-batch as `policy_loss` reads them: float32 [N], natural logs; rows_N int64 [N].

    Raises LossInputError where the arrays differ in length or have another type.
    """

    logprobs_N: Tensor  # of the policy, at the sampling temperature
    logprobs_t1_N: Tensor  # of the policy, at temperature 1
    behavior_N: Tensor  # of the sampler
    advantages_N: Tensor
    weights_N: Tensor  # factor of each token in the step's sum (`loss_weights`)
    rows_N: Tensor
    old_N: Tensor | None = None  # of the recomputed old policy; None: the sampler is the old policy
    reference_N: Tensor | None = None  # at temperature 1; needed where kl_coef is above 0
    entropy_N: Tensor | None = None  # at the sampling temperature; needed where entropy_coef is above 0

    def __post_init__(self) -> None:
        check_tokens(**{item.name: getattr(self, item.name) for item in fields(self)})

    def of_rollout(self, row: int) -> LossInputs:
        """The tokens of one rollout."""
        mine_N = self.rows_N == row
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return LossInputs(**{name: None if value is None else value[mine_N] for name, value in values.items()})


def check_tokens(**arrays_N: Tensor | None) -> None:
    """Raises LossInputError unless all arrays are one-dimensional tensors of one length: floats, rows_N integers.

    Reads no values, so nothing waits for a device. Without it an array of length 1 would be broadcast to all tokens.
    """
    given = {name: array for name, array in arrays_N.items() if array is not None}
    for name, array in given.items():
        if not isinstance(array, Tensor):
            raise LossInputError(f"{name} is a {type(array).__name__}; give a torch.Tensor of shape [tokens].")
        fits = array.dtype == torch.int64 if name == "rows_N" else array.is_floating_point()
        if array.dim() != 1 or not fits:
            raise LossInputError(
                f"{name} is of shape {list(array.shape)} and {array.dtype}; give "
                f"{'int64' if name == 'rows_N' else 'floats'} of shape [tokens]."
            )
    lengths = {name: len(array) for name, array in given.items()}
    if len(set(lengths.values())) > 1:
        raise LossInputError(f"All arrays need one entry per token, but their lengths differ: {lengths}.")


def check_choice(name: str, value: str, choices: Any) -> None:
    """Raises LossInputError unless `value` is one of the choices of a Literal type."""
    if value not in get_args(choices):
        raise LossInputError(f"{name} is {value!r}; {advice(str(value), get_args(choices))}.")
