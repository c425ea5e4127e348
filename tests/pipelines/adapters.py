"""Makes LoRA adapters in peft's form, and the models they come to when merged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

RANK, ALPHA = 4, 16
MODULES = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")


def make_adapter(
    folder: Path, *, base: str, seed: int, named: str | None = None, modules: tuple[str, ...] = MODULES
) -> str:
    """An adapter of rank 4 on these modules of every layer, with matrices far from zero."""
    import torch
    from safetensors.torch import load_file, save_file

    weights, generator = load_file(Path(base) / "model.safetensors"), torch.Generator().manual_seed(seed)
    matrices = {}
    for name, weight in weights.items():
        module = name.removesuffix(".weight")
        if module.endswith(modules):
            wide, narrow = weight.shape[1], weight.shape[0]
            key = f"base_model.model.{module}"
            matrices[f"{key}.lora_A.weight"] = 0.1 * torch.randn(RANK, wide, generator=generator)
            matrices[f"{key}.lora_B.weight"] = 0.1 * torch.randn(narrow, RANK, generator=generator)
    folder.mkdir(parents=True)
    save_file(matrices, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": named or base, "r": RANK,
        "lora_alpha": ALPHA, "lora_dropout": 0.0, "bias": "none", "peft_version": "0.18",
        "target_modules": [module.split(".")[-1] for module in modules],
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return str(folder)


def merge(adapter: str, base: str, out: Path) -> str:
    """A whole model with W + alpha / r * B A in place of each adapted W."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(base, out)
    weights, matrices = load_file(out / "model.safetensors"), load_file(Path(adapter) / "adapter_model.safetensors")
    for name in [name for name in matrices if "lora_A" in name]:
        change = matrices[name.replace("lora_A", "lora_B")] @ matrices[name]
        weights[name.removeprefix("base_model.model.").replace("lora_A.", "")] += ALPHA / RANK * change
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    return str(out)
