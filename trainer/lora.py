"""LoRA through peft: the adapter that is trained in place of a model's own weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from pass_ops.support.extras import require
from trainer.errors import ModelLoadError, PolicyMismatchError
from trainer.model_folder import ADAPTER_WEIGHTS, base_folder, is_adapter
from trainer.options import TrainOptions


def adapted(model: Any, folder: str, options: TrainOptions) -> Any:
    """`model` with an adapter in its linear layers, which alone is trained; None without LoRA.

    The folder's adapter, or a new one that changes no output yet (its random half is drawn from options.seed). Raises
    PolicyMismatchError where lora_rank is not the rank of the folder's adapter, ModelLoadError where matrices are
    missing or left over, MissingExtraError without peft.
    """
    if not (options.lora_rank or is_adapter(folder)):
        return None
    peft = require("peft", "LoRA (or set train.lora_rank to 0)")
    model.name_or_path = str(base_folder(folder).resolve())  # what the export names as its base
    if not is_adapter(folder):
        config = peft.LoraConfig(
            task_type="CAUSAL_LM",
            r=options.lora_rank,
            lora_alpha=options.lora_alpha or 2 * options.lora_rank,
            lora_dropout=0.0,
            target_modules="all-linear",
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            return peft.get_peft_model(model, config)
    found = peft.PeftModel.from_pretrained(model, folder, is_trainable=True)
    _check_whole(folder, ours=set(peft.get_peft_model_state_dict(found)))
    rank = found.peft_config["default"].r
    if rank != options.lora_rank:
        raise PolicyMismatchError(
            f"The policy {folder} is a LoRA adapter of rank {rank}, lora_rank is {options.lora_rank}. Set it to {rank} "
            "to continue training the adapter, or merge the adapter into its base and train that."
        )
    return found


def _check_whole(folder: str, *, ours: set[str]) -> None:
    with safe_open(Path(folder) / ADAPTER_WEIGHTS, framework="pt") as stored:
        theirs = set(stored.keys())
    if ours != theirs:
        first = min(ours ^ theirs)
        what = "lacks the matrix" if first in ours else "has no use for its matrix"
        raise ModelLoadError(
            f"The adapter {folder} {what} {first} on its base model ({len(ours ^ theirs)} such matrices). Adapter and "
            "base do not belong together, or the copy is incomplete: copy or save the adapter again."
        )
