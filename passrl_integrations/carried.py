"""Streams that travel beside the one reward channel of a trainer, and the advantages they give with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pass_ops.options.config import ShapingConfig
from passrl_integrations.steps import Steps, process_tensors, token_advantages_from_batch


def streams(
    outcome: float | None,
    process: Steps | Sequence[float] | None = None,
    *,
    format: float | None = None,  # noqa: A002 - the method's word
    format_ok: bool | None = None,
) -> dict[str, Any]:
    """What a rollout carries: None stands for what could not be computed, or is not used.

    >>> streams(1.0, ([0.5, 0.9], [12, 40]))["process"]
    ([0.5, 0.9], [12, 40])
    """
    return {"outcome": outcome, "process": process, "format": format, "format_ok": format_ok}


@dataclass(frozen=True, kw_only=True)
class Carried:
    """What lies beside the rewards of a batch.

    Attributes:
        streams: one entry a row, as `streams` makes it; None where a row has none.
        lengths: tokens of each completion.
        teacher_minus_policy: [B, T], the process signal of OPD, used where no row carries one.
    """

    streams: Sequence[Mapping[str, Any] | None]
    lengths: Sequence[int]
    teacher_minus_policy: torch.Tensor | None = None


def advantages_of(
    outcome: torch.Tensor, carried: Carried | None, *, mask: torch.Tensor, group_index: Any, shaping: ShapingConfig
) -> torch.Tensor:
    """The token advantages of a batch, [B, T]: its rewards are the outcome, the other streams are carried.

    Rows in which no token counts may be anything (trainers fill batches up); such rows carry no process signal.
    """
    if carried is None:
        return token_advantages_from_batch(None, mask=mask, group_index=group_index, outcome=outcome, config=shaping)
    missing = [found is not None and found["outcome"] is None for found in carried.streams]
    outcome = outcome.masked_fill(torch.tensor(missing, device=outcome.device), torch.nan)
    scores, ends = _process(carried, mask, shaping)
    formats = _numbers(carried, "format", mask) if shaping.weights.format != 0.0 else None
    return token_advantages_from_batch(
        scores, ends, mask=mask, group_index=group_index, outcome=outcome, format=formats,
        format_ok=_numbers(carried, "format_ok", mask), config=shaping,
    )  # fmt: skip


def _process(
    carried: Carried, mask: torch.Tensor, shaping: ShapingConfig
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    if not shaping.reads_process:
        return None, None
    signals = [None if found is None else found["process"] for found in carried.streams]
    per_token = shaping.signal == "kl"
    if per_token and carried.teacher_minus_policy is not None and all(signal is None for signal in signals):
        return carried.teacher_minus_policy, None
    counts = mask.bool().any(dim=1).tolist()
    signals = [
        signal if counted else [0.0] * length if per_token else ([], [])
        for signal, counted, length in zip(signals, counts, carried.lengths, strict=True)
    ]
    return process_tensors(signals, mask=mask, lengths=carried.lengths, config=shaping)


def _numbers(carried: Carried, name: str, like: torch.Tensor) -> torch.Tensor | None:
    """One stream of one number a row, NaN where it is missing; None where no row has it."""
    values = [None if found is None else found[name] for found in carried.streams]
    if all(value is None for value in values):
        return None
    found = [torch.nan if value is None else float(value) for value in values]
    return torch.tensor(found, dtype=torch.float32, device=like.device)
