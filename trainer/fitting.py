"""Whether an update fits on the devices at hand, and what is said where memory runs out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from trainer.errors import DeviceMemoryError
from trainer.gpu_memory import ModelShape, does_not_fit, model_shape, training, usable, ways_to_fit
from trainer.loading import stored_shapes
from trainer.model_folder import base_folder
from trainer.options import TrainOptions

NEW_RUN = "Changed optimizer, lora_rank, weights_dtype or compute_dtype need a new run; the rest continues this one."


def folder_shape(folder: str) -> ModelShape:
    """The shape of a model folder, or of an adapter's base, from its config and the headers of its weights."""
    base = base_folder(folder)
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    return model_shape(config, stored_shapes(base))


def card_bytes(device: torch.device) -> int | None:
    """Memory of the GPU; None for a CPU."""
    return int(torch.cuda.get_device_properties(device).total_memory) if device.type == "cuda" else None


def fits(folder: str, options: TrainOptions, *, device: torch.device, gpus: int) -> bool:
    """Whether the update fits on each GPU, as computed; a CPU's memory is not asked."""
    card = card_bytes(device)
    return card is None or training(folder_shape(folder), options, gpus=gpus).total <= usable(card)


@contextmanager
def fitting(
    what: str,
    folder: str,
    options: TrainOptions,
    *,
    device: torch.device,
    gpus: int = 1,
    hint: str = "",
    rollout_ids: tuple[str, ...] = (),
) -> Iterator[None]:
    """Raises DeviceMemoryError where memory runs out inside: while doing `what`, the hint, what fits and with what."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        shape, card = folder_shape(folder), card_bytes(device)
        limit = None if card is None else usable(card)
        needed = does_not_fit(
            "As computed, this update",
            training(shape, options, gpus=gpus),
            limit=limit,
            ways=ways_to_fit(shape, options, gpus=gpus, limit=limit),
        )
        raise DeviceMemoryError(
            f"The device ran out of memory {what} ({str(error).splitlines()[0]}). {hint}{needed} {NEW_RUN}",
            rollout_ids=rollout_ids,
        ) from error
