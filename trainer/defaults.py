"""Options that were left open, by the device: pure functions of its kind and of what fits on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from trainer.gpu_memory import TOKENS
from trainer.options import TrainOptions

CPU_TOKENS = 2048  # of a micro-batch: they fit a CPU's caches


def with_defaults(options: TrainOptions, *, device: str, fits: Callable[[TrainOptions], bool]) -> TrainOptions:
    """The options with a value for each that depends on the device, except `deterministic` (`trainer.run`).

    device: its kind, cuda or cpu. fits: whether an update with these options fits on each device, asked only where
    the answer decides.

    >>> with_defaults(TrainOptions(), device="cpu", fits=lambda _: True).compute_dtype
    'float32'
    >>> with_defaults(TrainOptions(), device="cuda", fits=lambda _: False).gradient_checkpointing
    True
    """
    cuda = device != "cpu"
    open_ones: dict[str, Any] = {
        "compute_dtype": "bfloat16" if cuda or options.weights_dtype == "bfloat16" else "float32",
        "head_dtype": "float32" if cuda else "compute",
        "micro_batch_tokens": TOKENS if cuda else CPU_TOKENS,
    }
    chosen = replace(options, **{name: value for name, value in open_ones.items() if getattr(options, name) is None})
    if chosen.gradient_checkpointing is not None:
        return chosen
    plain = replace(chosen, gradient_checkpointing=False)
    if not cuda or options.share_prompts or fits(plain):
        return plain
    return replace(chosen, gradient_checkpointing=True)
