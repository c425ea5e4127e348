"""Shaped shards -> policy: the PASS trainer. Blind to the algorithm: per-token advantages arrive as data.

Importing the package imports no torch; `train` does.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from trainer.errors import TrainerError
from trainer.options import TrainOptions

if TYPE_CHECKING:
    from trainer.run import TrainResult, sft, train

__all__ = ["TrainOptions", "TrainResult", "TrainerError", "is_main_process", "sft", "train"]


def is_main_process() -> bool:
    """Whether this is the one process, or of torchrun's ranks the first: the one that writes and speaks."""
    return os.environ.get("RANK", "0") == "0"


def __getattr__(name: str) -> Any:
    if name in ("sft", "train", "TrainResult"):
        return getattr(import_module("trainer.run"), name)
    raise AttributeError(f"module 'trainer' has no attribute {name!r}")
