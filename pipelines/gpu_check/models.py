"""Random models in the shapes of Qwen2.5, written tensor by tensor: no download, no more memory than a shard takes.

The weights are as wide as those of a new model, so logits are far from uniform at no position and speed and memory are
those of the real one. The tokenizer has bytes, the special tokens and made-up words of three letters: whatever a random
model samples is text.
"""

from __future__ import annotations

import json
import os
import shutil
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pipelines.engines.machine import GIB
from pipelines.gpu_check.base import CheckOptions, Machine
from trainer import TrainOptions
from trainer.gpu_memory import ModelShape, model_shape, training

SHARD = GIB  # bytes of a weight file
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<extra_0>")
#: name -> what differs from Qwen2Config; the published config.json of each, tiny aside
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "vocab_size": 512, "tie_word_embeddings": True, "initializer_range": 0.2,
    },
    "0.5B": {
        "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
    },
    "1.5B": {
        "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
    },
    "7B": {
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False,
    },
}  # fmt: skip
CONTEXT = 4096
ROOM = 0.85  # of a card's memory, for what is computed to be held there


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Which shapes a machine checks. large: sampled and trained by adapter; small: trained whole; rounds: with disk."""

    large: str
    small: str
    rounds: str


def sizes(machine: Machine) -> Sizes:
    """7B, 1.5B and 0.5B on a card of 80 GB, smaller ones where they do not fit, tiny ones on a CPU."""
    if machine.device == "cpu":
        return Sizes(large="tiny", small="tiny", rounds="tiny")
    room = ROOM * min(gpu.memory.total for gpu in machine.gpus)
    ladder = ("7B", "1.5B", "0.5B", "tiny")
    large = next(name for name in ladder if name == "tiny" or 2 * parameters(name) + 8 * GIB <= room)
    small = next(name for name in ladder[1:] if name == "tiny" or computed_bytes(name, whole()) <= room)
    return Sizes(large=large, small=small, rounds="0.5B" if small == "1.5B" else "tiny")


def whole() -> TrainOptions:
    """How a small model is trained on a card: every weight, in bfloat16, layers recomputed."""
    return TrainOptions(compute_dtype="bfloat16", gradient_checkpointing=True, warmup_steps=0, tensorboard=False)


def model_folder(machine: Machine, options: CheckOptions, name: str, *, seed: int = 0, prm: bool = False) -> str:
    """The folder of a random model of the shape `name`, written where it is not there yet."""
    folder = Path(options.out) / "models" / f"{'prm' if prm else 'policy'}-{name}-{seed}"
    if not folder.exists():
        writing = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.rmtree(writing, ignore_errors=True)
        write_model(writing, SHAPES[name], seed=seed, prm=prm, device=machine.device)
        writing.rename(folder)
    return str(folder)


def write_model(folder: Path, shape: Mapping[str, Any], *, seed: int, prm: bool = False, device: str = "cpu") -> None:
    """Config, tokenizer and bfloat16 weights, a shard at a time, drawn on `device`."""
    folder.mkdir(parents=True)
    config = _config(shape, prm=prm)
    written = config.to_dict() | {"architectures": [type(_on_meta(config, prm=prm)).__name__], "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(written, indent=1), encoding="utf-8")
    write_tokenizer(folder, vocabulary=shape["vocab_size"])
    generator = torch.Generator(device).manual_seed(seed)
    index: dict[str, str] = {}
    for number, names in enumerate(_shards(_shapes(config, prm=prm))):
        file = f"model-{number:05d}.safetensors"
        tensors = {name: _drawn(name, size, config.initializer_range, generator) for name, size in names.items()}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def write_tokenizer(folder: Path, *, vocabulary: int) -> None:
    """Bytes, special tokens, and as many words of three letters as fill the vocabulary; ends with <|im_end|>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    words = ("".join(letters) for letters in product(string.ascii_letters + string.digits, repeat=3))
    known += islice(words, vocabulary - len(known))
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(known)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=SPECIAL[0], eos_token=SPECIAL[2], clean_up_tokenization_spaces=False
    )
    fast.save_pretrained(folder)


def parameters(name: str) -> int:
    """Weights of a shape."""
    return shape_of(name).parameters


def computed_bytes(name: str, options: TrainOptions, *, gpus: int = 1) -> int:
    """What training a shape takes on each GPU, by `trainer.gpu_memory`."""
    return training(shape_of(name), options, gpus=gpus).total


def shape_of(name: str) -> ModelShape:
    """What `trainer.gpu_memory` computes with."""
    return model_shape(_config(SHAPES[name]).to_dict(), tensor_shapes_of(name))


def tensor_shapes_of(name: str) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of a checkpoint."""
    return {tensor: tuple(size) for tensor, size in _shapes(_config(SHAPES[name])).items()}


def _config(shape: Mapping[str, Any], *, prm: bool = False) -> Any:
    from transformers import Qwen2Config

    ends = {"eos_token_id": 2, "pad_token_id": 0, "bos_token_id": None}
    more = {"num_labels": 2} if prm else {}
    return Qwen2Config(**shape, **ends, **more, max_position_embeddings=CONTEXT)


def _on_meta(config: Any, *, prm: bool) -> Any:
    from transformers import Qwen2ForCausalLM

    from pipelines.engines.process_reward import Qwen2ForProcessRewardModel

    with torch.device("meta"):
        return (Qwen2ForProcessRewardModel if prm else Qwen2ForCausalLM)(config)


def _shapes(config: Any, *, prm: bool = False) -> dict[str, torch.Size]:
    """Name -> shape of every tensor that a checkpoint holds: a tied head is the embedding."""
    model = _on_meta(config, prm=prm)
    tied = set(getattr(model, "_tied_weights_keys", None) or ()) if config.tie_word_embeddings else set()
    return {name: tensor.shape for name, tensor in model.state_dict().items() if name not in tied}


def _shards(shapes: Mapping[str, torch.Size]) -> Iterator[dict[str, torch.Size]]:
    """Tensors dealt to files of about SHARD bytes."""
    shard: dict[str, torch.Size] = {}
    for name, shape in shapes.items():
        shard[name] = shape
        if 2 * sum(size.numel() for size in shard.values()) >= SHARD:
            yield shard
            shard = {}
    if shard:
        yield shard


def _drawn(name: str, shape: torch.Size, width: float, generator: torch.Generator) -> torch.Tensor:
    """A tensor as a new model has it: norms 1, biases 0, matrices normal."""
    if name.endswith("norm.weight"):
        return torch.ones(shape, dtype=torch.bfloat16)
    if name.endswith("bias"):
        return torch.zeros(shape, dtype=torch.bfloat16)
    drawn = torch.empty(shape, dtype=torch.bfloat16, device=generator.device)
    return drawn.normal_(0.0, width, generator=generator).cpu()
