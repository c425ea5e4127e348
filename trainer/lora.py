"""LoRA through peft: which model a policy folder stands for, and the adapter that is trained in its place.

A policy folder may hold an adapter (peft's adapter_config.json and adapter_model.safetensors) instead of a model; its
`base_model_name_or_path` is then the folder of the model it adapts, absolute or as seen from the adapter's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from trainer.errors import PolicyMismatchError, TrainOptionError
from trainer.options import TrainOptions

ADAPTER_CONFIG = "adapter_config.json"


def is_adapter(folder: str | Path) -> bool:
    """Whether the folder holds an adapter rather than a model."""
    return (Path(folder) / ADAPTER_CONFIG).is_file()


def base_folder(folder: str | Path) -> Path:
    """The folder itself, or of an adapter's folder that of the model it adapts."""
    if not is_adapter(folder):
        return Path(folder)
    config = json.loads((Path(folder) / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    named = config["base_model_name_or_path"]
    beside = Path(folder) / named
    return beside if (beside / "config.json").is_file() else Path(named)


def adapted(model: Any, folder: str, options: TrainOptions) -> Any:
    """`model` with an adapter put into its linear layers, which alone is trained; None where no LoRA is wanted.

    The folder's adapter, else a new one that changes nothing yet (its random half is drawn from options.seed). Raises
    PolicyMismatchError where the options are of another rank than the folder's adapter, TrainOptionError without peft.
    """
    if not (options.lora_rank or is_adapter(folder)):
        return None
    try:
        import peft
    except ImportError as error:
        raise TrainOptionError("LoRA needs the package peft; install the extra 'lora', or set lora_rank 0.") from error
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
    rank = found.peft_config["default"].r
    if rank != options.lora_rank:
        raise PolicyMismatchError(
            f"The policy {folder} is a LoRA adapter of rank {rank}, lora_rank is {options.lora_rank}. Set it to {rank} "
            "to train the adapter on, or merge the adapter into its base and train that."
        )
    return found
