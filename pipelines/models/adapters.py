"""LoRA adapters in peft's form: a folder with adapter_config.json and adapter_model.safetensors, beside a base model.

Whoever takes a model folder takes an adapter's too: tokenizer, config and architecture are the base's, the digest
covers both (`pipelines.models.folder`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from pass_ops.errors import PassError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# They say where an adapter came from or how it was saved, not what it does.
_VOLATILE_KEYS = frozenset({"base_model_name_or_path", "revision", "peft_version", "inference_mode", "auto_mapping"})


class AdapterError(PassError, ValueError):
    """An adapter folder cannot be used: it is not LoRA in peft's form, or its base model is not found."""


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
        return self.folder / WEIGHTS


def read_adapter(folder: str) -> Adapter | None:
    """The adapter in a folder; None where it holds a whole model (config.json), or nothing. Raises AdapterError."""
    path = Path(folder)
    if (path / "config.json").exists() or not (path / CONFIG).exists():
        return None
    try:
        content = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        kind, rank = content["peft_type"], int(content["r"])
        ranks = [rank, *content.get("rank_pattern", {}).values()]
        named = str(content["base_model_name_or_path"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise AdapterError(f"{path / CONFIG} is not readable as peft's: {error!r}. Save the adapter again.") from error
    if kind != "LORA":
        raise AdapterError(f"{folder} is an adapter of type {kind}; engines run LORA. Merge it into its base model.")
    if not (path / WEIGHTS).exists():
        raise AdapterError(f"{folder} has no {WEIGHTS}; save the adapter with safe_serialization.")
    config = {key: value for key, value in content.items() if key not in _VOLATILE_KEYS}
    if isinstance(config.get("target_modules"), list):
        config["target_modules"] = sorted(config["target_modules"])  # peft saves a set
    return Adapter(folder=path, base=_base(path, named), rank=max(ranks), modules=_modules(path), config=config)


def _modules(adapter: Path) -> frozenset[str]:
    """From the matrices, for `target_modules` may be a pattern."""
    try:
        with safe_open(adapter / WEIGHTS, framework="numpy") as file:
            keys = list(file.keys())
    except SafetensorError as error:
        raise AdapterError(f"{adapter / WEIGHTS} is not readable: {error}. Save the adapter again.") from error
    return frozenset(key.partition(".lora_")[0].rpartition(".")[2] for key in keys if ".lora_" in key)


def _base(adapter: Path, named: str) -> Path:
    """The base model's folder: as named from the adapter's folder, else from here."""
    for candidate in (adapter / named, Path(named)):
        if (candidate / "config.json").exists():
            return candidate.resolve()
    raise AdapterError(
        f"The adapter {adapter} names {named!r} as its base model, which is no model folder on this machine. Set "
        f"base_model_name_or_path in its {CONFIG} to the folder (relative to the adapter's, or absolute)."
    )
