"""Turns out-of-memory and disk-full errors into messages that name the option to change; lets the device go."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException

from pass_ops.support.frames import clear_frames
from trainer.batching import MicroBatch
from trainer.errors import NotSavedError
from trainer.policy import Policy


@contextmanager
def within_memory(batch: MicroBatch, policy: Policy) -> Iterator[None]:
    """Around a forward and backward pass: raises DeviceMemoryError, naming what to lower, where memory runs out."""
    rows, width = batch.input_ids_BS.shape
    size = f"{rows} x {width} tokens" if len(batch.rollout_ids) > 1 else f"one rollout of {width} tokens"
    with policy.fitting(
        f"in a micro-batch of {size}",
        hint=(
            f"The last good state is kept. Lower micro_batch_tokens ({policy.micro_batch_tokens}) or logits_elements "
            "and run the same command again: it continues from there. "
        ),
        rollout_ids=batch.rollout_ids,
    ):
        yield


@contextmanager
def saved(what: str, folder: Path) -> Iterator[None]:
    """Around writes under `folder`: raises NotSavedError, with the space left, where they fail."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise  # of the device, not of the disk
    except (OSError, RuntimeError, CheckpointException, SafetensorError) as error:
        free = shutil.disk_usage(folder).free / 2**20
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise NotSavedError(
            f"The {what} could not be written to {folder} ({lines[-1]}); {free:,.0f} MiB are free there. Everything "
            "saved before is kept and complete: free some space (keep_checkpoints 1 keeps fewer), then run the same "
            "command again; it continues from the last checkpoint."
        ) from error


@contextmanager
def leaving_nothing() -> Iterator[None]:
    """Around a whole run: afterwards neither its error nor torch's cache holds what it had on the device."""
    try:
        yield
    except BaseException as error:
        clear_frames(error)
        raise
    finally:
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
