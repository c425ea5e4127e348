"""Shaped shards -> policy: the PASS trainer. Blind to the algorithm: per-token advantages arrive as data.

Importing the package imports no torch; `train` does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from trainer.errors import TrainerError
from trainer.options import TrainOptions

if TYPE_CHECKING:
    from trainer.run import TrainResult, sft, train

__all__ = ["TrainOptions", "TrainResult", "TrainerError", "sft", "train"]


def __getattr__(name: str) -> Any:
    if name in ("sft", "train", "TrainResult"):
        return getattr(import_module("trainer.run"), name)
    raise AttributeError(f"module 'trainer' has no attribute {name!r}")
