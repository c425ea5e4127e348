"""What an adapter folder (`trainer.model_folder`) says of itself, for engines that run it on its base model.

An adapter folder can be given wherever a model folder can: tokenizer, config and architecture are the base's, the
digest covers both (`pipelines.models.folder`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.models.safetensors import safetensors_header
from pipelines.models.source import local_model
from trainer.errors import AdapterError
from trainer.model_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, base_folder, is_adapter

# They say where an adapter came from or how it was saved, not what it does.
_VOLATILE_KEYS = frozenset({"base_model_name_or_path", "revision", "peft_version", "inference_mode", "auto_mapping"})


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """What an adapter folder says of itself.

    modules: the last names of the modules it has matrices for (`q_proj`). config: without the keys that only say where
    it came from.
    """

    folder: Path
    base: Path
    rank: int
    modules: frozenset[str]
    config: dict[str, Any]

    @property
    def weights(self) -> Path:
        """The file with the adapter's matrices."""
        return self.folder / ADAPTER_WEIGHTS


def read_adapter(folder: str) -> Adapter | None:
    """The adapter in a folder; None where it holds a whole model, or nothing. Raises AdapterError."""
    path = Path(local_model(folder))
    if not is_adapter(path):
        return None
    try:
        content = json.loads((path / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        kind, rank = content["peft_type"], int(content["r"])
        ranks = [rank, *content.get("rank_pattern", {}).values()]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise AdapterError(
            f"{path / ADAPTER_CONFIG} is not readable as peft's: {error!r}. Save the adapter again."
        ) from error
    if kind != "LORA":
        raise AdapterError(f"{folder} is an adapter of type {kind}; engines run LORA. Merge it into its base model.")
    if not (path / ADAPTER_WEIGHTS).exists():
        raise AdapterError(f"{folder} has no {ADAPTER_WEIGHTS}; save the adapter with safe_serialization.")
    config = {key: value for key, value in content.items() if key not in _VOLATILE_KEYS}
    if isinstance(config.get("target_modules"), list):
        config["target_modules"] = sorted(config["target_modules"])  # peft saves a set
    return Adapter(
        folder=path, base=base_folder(path).resolve(), rank=max(ranks), modules=_modules(path), config=config
    )


def _modules(adapter: Path) -> frozenset[str]:
    """From the matrices, for `target_modules` may be a pattern."""
    keys = safetensors_header(adapter / ADAPTER_WEIGHTS)
    return frozenset(key.partition(".lora_")[0].rpartition(".")[2] for key in keys if ".lora_" in key)
