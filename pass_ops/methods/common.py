"""What the families share. Legend of dimensions: _G rollouts of the group, _T tokens of one, _E its live steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pass_ops.errors import EstimatorError
from pass_ops.group import Group
from pass_ops.options.config import ShapingConfig

Floats = NDArray[np.float64]


def rewards(group: Group, config: ShapingConfig) -> Floats:
    """x_G = w_out * outcome + w_fmt * format."""
    found: Floats = config.weights.outcome * group.outcome + config.weights.format * group.format
    return found


def masked_norm(values: Floats, config: ShapingConfig) -> Floats:
    """(x - mean) / (std + eps); 0 where there is one value, or all are equal (docs/spec/method.md 1)."""
    if len(values) < 2 or np.ptp(values) == 0.0:
        return np.zeros(len(values))
    shift = values[0]  # large values that differ little keep their digits
    centred: Floats = (values - shift) - (values - shift).mean()
    scaled: Floats = centred / (values.std(ddof=config.std_ddof) + config.std_eps)
    return scaled


def others_mean(values: Floats) -> Floats:
    """The mean of the other values; a single one is its own."""
    others = len(values) - 1
    return (values.sum() - values) / others if others else values


def on_tokens(group: Group, values_G: Floats) -> list[Floats]:
    """A rollout's value at each of its tokens."""
    return [np.full(len(mask), value) for mask, value in zip(group.mask, values_G, strict=True)]


def live_steps(group: Group, i: int) -> tuple[Floats, NDArray[np.int64]]:
    """The scores of rollout i's live steps, and the live step that each of its tokens belongs to.

    A token of a step that is not live counts to the live one before it, or to the first.
    """
    live, ends = group.live[i], group.ends[i]
    starts = np.concatenate([[0], ends[:-1]])[live] if len(ends) else ends
    steps = np.searchsorted(starts, np.arange(len(group.mask[i])), side="right") - 1
    return group.scores[i][live], np.maximum(steps, 0)


def on_steps(values_E: Floats, steps_T: NDArray[np.int64]) -> Floats:
    """A step's value at each of its tokens; 0 where the rollout has no live step."""
    return values_E[steps_T] if len(values_E) else np.zeros(len(steps_T))


def token_column(group: Group, name: str) -> list[NDArray[np.generic]]:
    """A further column of numbers that holds one for each token; what stands at masked tokens may be anything.

    Raises:
        EstimatorError: a rollout has another number of them than tokens, or NaN, infinity or null at one that counts.
    """
    found = list(group.column(name))
    for i, (values, mask) in enumerate(zip(found, group.mask, strict=True)):
        where = f"rollout {i} of the group: {name}"
        if len(values) != len(mask):
            raise EstimatorError(
                f"{where} has {len(values)} values for {len(mask)} completion tokens; give one for each token"
            )
        wrong = mask & ~np.isfinite(values)
        if wrong.any():
            raise EstimatorError(
                f"{where} is {values[np.argmax(wrong)]} at token {int(np.argmax(wrong))}, which counts; it would spoil "
                "its whole group; make the whole list null where it could not be computed"
            )
    return found


def return_to_go(values: Floats) -> Floats:
    """The sum of what lies at or after each place."""
    found: Floats = values[::-1].cumsum()[::-1]
    return found


def split(values: Floats, parts: Sequence[NDArray[np.generic]]) -> list[Floats]:
    """Values that were concatenated, in parts of these lengths again."""
    return np.split(values, np.cumsum([len(part) for part in parts])[:-1])
