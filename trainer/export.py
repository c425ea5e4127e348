"""The exported policy: the folder it came from with other values in what was trained.

Every other tensor is copied byte for byte (buffers, vision towers, layers that transformers does not load), and so is
every file beside the weights, so that the next round encodes and samples as this one did.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor

from trainer.distributed import whole
from trainer.loading import in_folder_names, stored_tensors
from trainer.model_folder import base_folder
from trainer.policy import Policy

# Not copied from the policy's folder: weights in any format, what describes them, and pages about the model.
NOT_COPIED = frozenset(
    {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx", ".npz", ".pkl", ".md", ".ot"}
)
TEMPLATES = "additional_chat_templates"
SHARD_SIZE = "50GB"  # transformers' default


def export_policy(policy: Policy, folder: Path, *, dtype: str) -> None:
    """Writes a Hugging Face folder that vLLM loads: safetensors, the policy folder's config and other files.

    Every rank must call it; rank 0 writes. dtype auto: every tensor has the one it has in the policy's folder. The
    config is copied rather than generated, so that an engine running the policy can take the new weights without a
    restart. With LoRA the folder is an adapter in peft's format; auto is then float32.
    """
    base = base_folder(policy.folder)
    if policy.world.is_main:
        folder.mkdir(parents=True, exist_ok=True)
    if policy.adapter:
        weights = _whole_weights(policy, torch.float32 if dtype == "auto" else getattr(torch, dtype))
        if policy.world.is_main:
            policy.adapter.save_pretrained(folder, state_dict=weights)
            (folder / "README.md").unlink(missing_ok=True)  # a template
            _copy_files(base, folder)
        return
    chosen = None if dtype == "auto" else getattr(torch, dtype)
    stored = {policy.layout.dtypes[name] for name in policy.layout.trained}
    common = chosen or (next(iter(stored)) if len(stored) == 1 else torch.float32)
    weights = _whole_weights(policy, common)
    if policy.world.is_main:
        _save_weights(policy, weights, base, folder, chosen=chosen)
        _write_config(base, folder, dtype=dtype)
        _copy_files(base, folder)


def _save_weights(
    policy: Policy, weights: dict[str, Tensor], base: Path, folder: Path, *, chosen: torch.dtype | None
) -> None:
    layout = policy.layout
    named = in_folder_names(policy.model, {name: weights[name] for name in sorted(layout.names)})
    tensors = {name: named[name].to(chosen or layout.dtypes[name]) for name in layout.trained}
    tensors |= {name: tensors[first].clone() for name, first in layout.aliases.items()}
    tensors |= stored_tensors(base, frozenset(layout.dtypes) - frozenset(tensors))
    _write_shards(tensors, folder)


def _write_shards(tensors: dict[str, Tensor], folder: Path) -> None:
    """The files and names of transformers' save_pretrained."""
    split = split_torch_state_dict_into_shards(
        tensors, filename_pattern="model{suffix}.safetensors", max_shard_size=SHARD_SIZE
    )
    for file, names in split.filename_to_tensors.items():
        save_file({name: tensors[name].contiguous() for name in names}, folder / file, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")


def _write_config(base: Path, folder: Path, *, dtype: str) -> None:
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    if dtype != "auto":
        config["torch_dtype" if "torch_dtype" in config else "dtype"] = dtype
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _copy_files(base: Path, folder: Path) -> None:
    for file in sorted(base.iterdir()):
        weights = file.suffix in NOT_COPIED or file.name.endswith(".index.json")
        if file.is_file() and not weights and not file.name.startswith(".") and file.name != "config.json":
            shutil.copyfile(file, folder / file.name)
    if (base / TEMPLATES).is_dir():
        shutil.copytree(base / TEMPLATES, folder / TEMPLATES, dirs_exist_ok=True)


def _whole_weights(policy: Policy, dtype: torch.dtype) -> dict[str, Tensor]:
    """The exported tensors, in host memory on rank 0 (empty on other ranks). Tied weights stay one tensor."""
    model = policy.adapter or policy.model
    owners = {name: id(p) for name, p in model.named_parameters(remove_duplicate=False)}
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    converted: dict[int | str, Tensor] = {}
    weights = {}
    for name, tensor in model.state_dict().items():
        if policy.adapter and name not in trained:
            continue
        owner = owners.get(name, name)
        if owner not in converted:
            gathered = whole(tensor.detach())
            converted[owner] = gathered.to("cpu", dtype) if policy.world.is_main else gathered.new_empty(0)
        weights[name] = converted[owner]
    return weights
