"""Token advantages of a padded torch batch: what a trainer of one's own calls. The only module here that imports torch.

>>> import torch
>>> from pass_ops import ShapingConfig, Weights
>>> token_advantages_from_batch(
...     scores=torch.tensor([[1.0, 0.5], [0.5, 0.0]]),  # one a step
...     ends=torch.tensor([[1, 3], [2, 0]]),  # exclusive token ends; 0 fills up
...     outcome=torch.tensor([1.0, 0.0]),
...     mask=torch.tensor([[1, 1, 1], [1, 1, 0]]),
...     group_index=torch.tensor([7, 7]),
...     config=ShapingConfig(k=0.0, weights=Weights(format=0.0)),
... ).round(decimals=3)
tensor([[ 1.9920,  0.1300,  0.1300],
        [-1.2840, -1.2840,  0.0000]])

Legend of dimensions: see `pass_ops.reading.ragged`; B rows of a batch of T columns, K the most steps of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch

from pass_ops.errors import ColumnTypeError, OptionError
from pass_ops.options.config import ShapingConfig
from pass_ops.padded import shape_padded
from pass_ops.reading.ragged import Array

GroupIndex: TypeAlias = torch.Tensor | np.ndarray[Any, Any] | Sequence[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class ShapedBatch:
    """What `shape_batch` makes of a batch, on the mask's device.

    Attributes:
        advantages: [B, T] float32; 0 at tokens that do not count.
        trainable: [B] bool; False where a value was missing, or no token counts: such a row belongs to no denominator.
    """

    advantages: torch.Tensor
    trainable: torch.Tensor


def token_advantages_from_batch(
    scores: torch.Tensor | None,
    ends: torch.Tensor | None = None,
    *,
    mask: torch.Tensor,
    group_index: GroupIndex,
    outcome: torch.Tensor | None = None,
    format: torch.Tensor | None = None,  # noqa: A002 - the method's word
    format_ok: torch.Tensor | None = None,
    config: ShapingConfig = ShapingConfig(),
) -> torch.Tensor:
    """`shape_batch` without its `trainable`: one advantage for each token, [B, T] float32 on the mask's device."""
    return shape_batch(
        scores, ends, mask=mask, group_index=group_index, outcome=outcome, format=format, format_ok=format_ok,
        config=config,
    ).advantages  # fmt: skip


def shape_batch(
    scores: torch.Tensor | None,
    ends: torch.Tensor | None = None,
    *,
    mask: torch.Tensor,
    group_index: GroupIndex,
    outcome: torch.Tensor | None = None,
    format: torch.Tensor | None = None,  # noqa: A002
    format_ok: torch.Tensor | None = None,
    config: ShapingConfig = ShapingConfig(),
) -> ShapedBatch:
    """Form the advantages of a padded batch with the estimator that `config` names: `pass_ops.shape` on its rows.

    Row b has the completion tokens t = 0 .. T - 1, of which those count where mask(b, t) is 1; the others (padding,
    tools' output) carry nothing and get advantage 0. For the rest, A(b, t) is the advantage of token t's chunk
    (docs/spec/method.md, Alg. 4 for `pass`), from the streams of the rows with b's group index, to the last bit what
    `shape` gives for these rows in this order.

    Args:
        scores: the process signal. With config.signal "kl" [B, T], one score per token, such as log p_teacher -
            log p_policy in nats. With "prm" [B, K], one per step, beside integer `ends`; or [B, T], read where bool
            `ends` are True. None where the estimator reads none. Floating point of any width; float64 is rounded to
            float32.
        ends: with "prm" only. [B, K] integers, the exclusive token ends of the steps, ascending and filled up with 0
            on the right; or [B, T] bool, True at each step's last token. No token may count after the last step.
        mask: [B, T], True or 1 where the token counts (the policy chose it); bool, or any type with only 0 and 1.
        group_index: [B], equal for the rollouts of one prompt: an integer tensor, an array or a sequence of integers
            or strings. The rows of a group may lie anywhere; where they are not adjacent the batch is copied once.
        outcome: [B], the outcome rewards; needed unless config.weights.outcome is 0.
        format: [B], the format rewards; a bool tensor is taken for format_ok.
        format_ok: [B], whether the format is right: bool, or 0 and 1. Given, it is the gate of `pass`, and it stands
            in for a missing `format`. One of the two is needed unless config.weights.format is 0.
        config: the estimator and its options; by default PASS with the paper's.

    NaN is a value that could not be computed: in outcome, format or format_ok, or in a score that is about a token
    that counts, it makes its row not trainable (advantage 0) and keeps it out of every pool. At other places of
    `scores` nothing is read.

    Tensors may be on any device and part of a graph; the arithmetic runs on the CPU in float64, and the result has no
    gradient. On the CPU neither float32 scores [B, T] nor rewards are copied. Estimators that are functions of a group
    get each row without its padding on the right, at the price of a copy.

    Raises:
        MissingColumnError: a stream that the options need was not given.
        OptionError: `ends` with config.signal "kl"; `config` of another type.
        LengthMismatchError: shapes that do not belong together.
        ColumnTypeError: no tensor, a dtype that does not fit, or a mask or format_ok with other values than 0 and 1.
        StepEndsError: ends that do not ascend from above 0 to at most T, a fill in between, or a token that counts
            after the last step.
        NullValueError: a group index that is None or NaN.
        NonFiniteError: an infinite reward, or an infinite score at a token that counts.
        OutputOverflowError: more than 2**31 - 1 elements, or an advantage beyond float32.
        ShapingError: the root of all of these; they name the row as "rollout" and its number in the batch.
    """
    if not isinstance(config, ShapingConfig):
        raise OptionError(f"config: expected a ShapingConfig, got {config!r}; build one, ShapingConfig(estimator=...)")
    if isinstance(format, torch.Tensor) and format.dtype == torch.bool and format_ok is None:
        format, format_ok = None, format  # noqa: A001
    given = {"scores": scores, "ends": ends, "outcome": outcome, "format": format, "format_ok": format_ok}
    advantages, trainable = shape_padded(
        config,
        mask=_numpy(mask, name="mask"),
        group_index=(
            _numpy(group_index, name="group_index")
            if isinstance(group_index, torch.Tensor)
            else np.asarray(group_index, dtype=None if isinstance(group_index, np.ndarray) else object)
        ),
        **{name: None if values is None else _numpy(values, name=name) for name, values in given.items()},
    )
    return ShapedBatch(
        advantages=torch.from_numpy(advantages).to(mask.device), trainable=torch.from_numpy(trainable).to(mask.device)
    )


def _numpy(given: Any, *, name: str) -> Array:
    """A tensor's values on the CPU, without a copy where they lie there in a dtype that numpy has."""
    if not isinstance(given, torch.Tensor):
        raise ColumnTypeError(f"{name}: expected a torch tensor, got {type(given).__name__}; use torch.as_tensor")
    given = given.detach()
    if given.dtype in (torch.bfloat16, torch.float16):  # numpy has no bfloat16; both fit in float32
        given = given.to(torch.float32)
    if given.is_complex() or given.is_sparse or given.is_nested:
        raise ColumnTypeError(f"{name}: expected a dense tensor of real numbers, got {given.dtype} {given.layout}")
    found: Array = given.cpu().contiguous().numpy()
    return found
