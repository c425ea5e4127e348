"""What the machine can fail at in the middle of a run, told with the option that helps."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.distributed.checkpoint.api import CheckpointException

from trainer.batching import MicroBatch
from trainer.errors import DeviceMemoryError, NotSavedError
from trainer.policy import Policy


@contextmanager
def within_memory(batch: MicroBatch, policy: Policy) -> Iterator[None]:
    """A forward and backward pass; raises DeviceMemoryError, which names what to lower, where memory is used up."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        rows, width = batch.input_ids_BS.shape
        size = f"{rows} x {width} tokens" if len(batch.rollout_ids) > 1 else f"one rollout of {width} tokens"
        raise DeviceMemoryError(
            f"The device is out of memory in a micro-batch of {size} ({error}). The run stops at its "
            f"last good state. Lower micro_batch_tokens ({policy.micro_batch_tokens}) or logits_elements, "
            "or set gradient_checkpointing, and run the same command again: it goes on "
            "from there. What else helps needs a new run: compute_dtype 'bfloat16', or max_length and too_long 'drop'.",
            rollout_ids=batch.rollout_ids,
        ) from error


@contextmanager
def saved(what: str, folder: Path) -> Iterator[None]:
    """Writes under `folder`; raises NotSavedError, with the space that is left, where they fail."""
    try:
        yield
    except (OSError, RuntimeError, CheckpointException) as error:
        free = shutil.disk_usage(folder).free / 2**20
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise NotSavedError(
            f"The {what} could not be written to {folder} ({lines[-1]}); {free:,.0f} MiB are free there. Everything "
            "saved before is kept and complete: free some space (keep_checkpoints 1 keeps fewer), then run the same "
            "command again and it goes on from the last checkpoint."
        ) from error
