"""Process signals as trainers' users give them, one completion at a time, as the tensors of `pass_ops.torch`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pass_ops.errors import LengthMismatchError, OptionError
from pass_ops.options.config import ShapingConfig, Standardizers, Weights
from pass_ops.torch import token_advantages_from_batch

#: one score and one exclusive token end for each step; None where they could not be computed
Steps = tuple[Sequence[float], Sequence[int]]


def shaping_config(options: Mapping[str, Any]) -> ShapingConfig:
    """A ShapingConfig from plain data, as a trainer's own configuration file holds it; `weights` and `standardize` are
    tables. Raises OptionError.

    >>> shaping_config({"k": 0.5, "weights": {"format": 0.0}}).weights.outcome
    1.0
    """
    given = dict(options)
    if isinstance(given.get("weights"), Mapping):
        given["weights"] = Weights(**given["weights"])
    if isinstance(given.get("standardize"), Mapping):
        given["standardize"] = Standardizers(**given["standardize"])
    return ShapingConfig(**given)


def process_tensors(
    signals: Sequence[Any], *, mask: torch.Tensor, lengths: Sequence[int], config: ShapingConfig
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """(scores, ends) for `token_advantages_from_batch` from one entry a completion.

    Args:
        signals: with config.signal "prm" (scores, ends) of the completion's steps, with "kl" one score for each of its
            tokens; None where it could not be computed.
        mask: [B, T], the batch's loss mask.
        lengths: tokens of each completion.
        config: says which of the two it is.

    Raises:
        LengthMismatchError: entries, scores or ends of another number than there have to be.
        OptionError: the configuration has streams, which name columns that a trainer's batch does not have.
    """
    if config.streams is not None and config.estimator == "pass":
        raise OptionError("config.streams name signals by column, and a trainer's batch has none; use pass_ops.shape")
    if len(signals) != len(mask):
        raise LengthMismatchError(
            f"the process signal has {len(signals)} entries for {len(mask)} completions; give one for each, None where "
            "it could not be computed"
        )
    if config.signal == "kl":
        return _tokens(signals, lengths=lengths, width=mask.shape[1]).to(mask.device), None
    scores, ends = _steps(signals, lengths=lengths)
    return scores.to(mask.device), ends.to(mask.device)


def left_aligned(values: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """[B, T] whose rows end at the right edge, moved to the left edge; 0 behind their lengths [B].

    >>> left_aligned(torch.tensor([[0, 1, 2], [3, 4, 5]]), torch.tensor([2, 3]))
    tensor([[1, 2, 0],
            [3, 4, 5]])
    """
    width = values.shape[1]
    places = torch.arange(width, device=values.device)
    lengths = lengths.to(values.device)[:, None]
    moved = values.gather(1, (places + width - lengths).clamp(max=width - 1))
    return moved * (places < lengths)


def right_aligned(values: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The reverse of `left_aligned`.

    >>> right_aligned(torch.tensor([[1, 2, 0], [3, 4, 5]]), torch.tensor([2, 3]))
    tensor([[0, 1, 2],
            [3, 4, 5]])
    """
    return left_aligned(values.flip(1), lengths).flip(1) if values.shape[1] else values


def _tokens(signals: Sequence[Sequence[float] | None], *, lengths: Sequence[int], width: int) -> torch.Tensor:
    found = torch.zeros(len(signals), width)
    for row, (scores, length) in enumerate(zip(signals, lengths, strict=True)):
        if scores is None:
            found[row] = torch.nan
        elif len(scores) != length:
            raise LengthMismatchError(
                f"rollout {row}: the process signal has {len(scores)} values for {length} completion tokens; signal "
                "'kl' takes one for each (for one per step set signal='prm')"
            )
        else:
            found[row, :length] = torch.as_tensor(scores, dtype=torch.float32)
    return found


def _steps(signals: Sequence[Steps | None], *, lengths: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    rows = []
    for row, (signal, length) in enumerate(zip(signals, lengths, strict=True)):
        scores, ends = ([torch.nan], [length]) if signal is None else signal
        if len(scores) != len(ends):
            raise LengthMismatchError(
                f"rollout {row}: the process signal has {len(scores)} scores and {len(ends)} ends; give one of each "
                "for each step"
            )
        rows.append((torch.as_tensor(scores, dtype=torch.float32), torch.as_tensor(ends, dtype=torch.long)))
    return _stacked([scores for scores, _ in rows]), _stacked([ends for _, ends in rows])


def _stacked(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    if not rows:
        return torch.zeros(0, 0)
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)


__all__ = ["Steps", "process_tensors", "shaping_config", "token_advantages_from_batch"]
