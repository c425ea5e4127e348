"""What is done to a model's layers one by one before it is trained: recomputing and compiling them."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from trainer.errors import TrainOptionError


def checkpoint_layers(model: Any, folder: str) -> None:
    """Recomputes every layer in the backward pass instead of keeping its activations.

    transformers' own switch works in training mode only. Raises TrainOptionError where the model has no such layers.
    """
    advice = "recomputed one by one. Set it to false and lower micro_batch_tokens."
    for layer in _layers(model, folder, option="gradient_checkpointing", advice=advice):
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)


def compile_layers(model: Any, folder: str) -> None:
    """Compiles every layer for lengths of any size. Raises TrainOptionError where the model has no such layers."""
    for layer in _layers(model, folder, option="compile_layers", advice="compiled one by one. Set it to false."):
        layer.forward = torch.compile(layer.forward, dynamic=True)


def float32_gradients(model: Any) -> None:
    """Adds the gradients of weights held in another type up in float32: of many micro-batches, bfloat16 would lose
    what is small against the sum so far.
    """
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.grad_dtype = torch.float32


def _layers(model: Any, folder: str, *, option: str, advice: str) -> list[Any]:
    from transformers.modeling_layers import GradientCheckpointingLayer

    found = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not found:
        raise TrainOptionError(
            f"{option} is set, but {folder} ({type(model).__name__}) has no layers that can be {advice}"
        )
    return found
