"""Which model trains on how many GPUs, computed by `trainer.gpu_memory`.

Prints the tables of docs/explanation/measured/training.md.
"""

from __future__ import annotations

import logging
from functools import cache

from trainer import TrainOptions
from trainer.gpu_memory import GIB, Holding, ModelShape, model_shape, training, usable

GPUS = (1, 2, 4, 8, 16, 32)
CARD = 80 * GIB
# hidden, intermediate, layers, vocabulary, heads, heads of keys and values, tied: from the config.json of each model.
QWEN2 = {
    "Qwen2.5-0.5B": (896, 4864, 24, 151936, 14, 2, True),
    "Qwen2.5-1.5B": (1536, 8960, 28, 151936, 12, 2, True),
    "Qwen2.5-7B": (3584, 18944, 28, 152064, 28, 4, False),
    "Qwen2.5-14B": (5120, 13824, 48, 152064, 40, 8, False),
    "Qwen2.5-32B": (5120, 27648, 64, 152064, 40, 8, False),
    "Qwen2.5-72B": (8192, 29568, 80, 152064, 64, 8, False),
}
MILD = TrainOptions(compute_dtype="bfloat16", gradient_checkpointing=True)
WAYS = {
    "every weight, float32, AdamW": MILD,
    'optimizer = "adamw_8bit"': TrainOptions(
        compute_dtype="bfloat16", gradient_checkpointing=True, optimizer="adamw_8bit"
    ),
    'optimizer = "adamw_8bit", weights_dtype = "bfloat16"': TrainOptions(
        gradient_checkpointing=True, optimizer="adamw_8bit", compute_dtype="bfloat16", weights_dtype="bfloat16"
    ),
    "cpu_offload = true": TrainOptions(compute_dtype="bfloat16", gradient_checkpointing=True, cpu_offload=True),
    "lora_rank = 16": TrainOptions(compute_dtype="bfloat16", gradient_checkpointing=True, lora_rank=16),
    'lora_rank = 16, weights_dtype = "bfloat16"': TrainOptions(
        compute_dtype="bfloat16", gradient_checkpointing=True, lora_rank=16, weights_dtype="bfloat16"
    ),
}


@cache
def shape_of(name: str) -> ModelShape:
    """Of transformers' own model, built without memory."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    logging.disable(logging.WARNING)
    hidden, inner, blocks, vocabulary, heads, kv_heads, tied = QWEN2[name]
    config = Qwen2Config(
        hidden_size=hidden, intermediate_size=inner, num_hidden_layers=blocks, vocab_size=vocabulary,
        num_attention_heads=heads, num_key_value_heads=kv_heads, tie_word_embeddings=tied,
    )  # fmt: skip
    with torch.device("meta"):
        model = Qwen2ForCausalLM(config)
    return model_shape(config.to_dict(), {name: tuple(p.shape) for name, p in model.named_parameters()})


def table(options: TrainOptions) -> str:
    """GiB of each GPU by model and number of GPUs, in Markdown; bold where nine tenths of 80 GiB hold it."""
    lines = ["| model | " + " | ".join(f"{n} GPU{'s' if n > 1 else ''}" for n in GPUS) + " |", "| --- " * 7 + "|"]
    for name in QWEN2:
        cells = [_cell(training(shape_of(name), options, gpus=n)) for n in GPUS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(holding: Holding) -> str:
    gib = f"{holding.total / GIB:.0f}"
    return f"**{gib}**" if holding.total <= usable(CARD) else gib


def ways_table(name: str = "Qwen2.5-7B") -> str:
    """GiB of one and of eight GPUs, and of host memory, for each way to train a model."""
    lines = ["| options | 1 GPU | 8 GPUs | host memory, 1 GPU |", "| --- | --- | --- | --- |"]
    for title, options in WAYS.items():
        shape = shape_of(name)
        one, eight = (training(shape, options, gpus=n) for n in (1, 8))
        whole = options.weights_dtype == "bfloat16" and not options.lora_rank
        lines.append(f"| {title} | {_cell(one)} | {'-' if whole else _cell(eight)} | {one.host / GIB:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Prints the tables of docs/explanation/measured/training.md."""
    for rank in (0, 16):
        print(f"\nlora_rank = {rank}\n")
        print(table(TrainOptions(compute_dtype="bfloat16", gradient_checkpointing=True, lora_rank=rank)))
    print()
    print(ways_table())


if __name__ == "__main__":
    main()
