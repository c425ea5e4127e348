"""Shaped shards -> policy: the PASS trainer. It is blind to the algorithm: per-token advantages arrive as data.

`train` and `sft` are whole runs: resumable, with checkpoints, metrics and an exported policy. For a loop of your own:

    policy = load_policy(folder, options)
    optimizer = make_optimizer(policy.model, options)
    for step in batches(["runs/mine/round-000/shaped"], policy=policy, options=options):
        for micro_batch in step.micro_batches:
            loss, metrics = batch_loss(policy, micro_batch.to(policy.device), options=options)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()

`apply_gradients` in place of the last two lines clips the gradient and stops where it explodes; `learning_rate` is the
schedule; `policy_loss` is the loss alone, from `LossInputs`. Importing the package imports no library; its names do.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.batching import MicroBatch, StepBatch
    from trainer.errors import TrainerError
    from trainer.export import export_policy
    from trainer.losses import LossInputs, policy_loss
    from trainer.options import TrainOptions
    from trainer.policy import Policy, load_policy
    from trainer.run import TrainResult, sft, train
    from trainer.steps import batches
    from trainer.update import apply_gradients, batch_loss, learning_rate, make_optimizer

__all__ = [
    "LossInputs", "MicroBatch", "Policy", "StepBatch", "TrainOptions", "TrainResult", "TrainerError", "apply_gradients",
    "batch_loss", "batches", "export_policy", "is_main_process", "learning_rate", "load_policy", "make_optimizer",
    "policy_loss", "sft", "train",
]  # fmt: skip

_MODULES = {
    "trainer.errors": ("TrainerError",),
    "trainer.options": ("TrainOptions",),
    "trainer.batching": ("MicroBatch", "StepBatch"),
    "trainer.losses": ("LossInputs", "policy_loss"),
    "trainer.export": ("export_policy",),
    "trainer.policy": ("Policy", "load_policy"),
    "trainer.run": ("TrainResult", "sft", "train"),
    "trainer.steps": ("batches",),
    "trainer.update": ("apply_gradients", "batch_loss", "learning_rate", "make_optimizer"),
}


def is_main_process() -> bool:
    """Whether this process writes and prints: the only one, or rank 0 under torchrun."""
    return os.environ.get("RANK", "0") == "0"


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'trainer' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
