"""Which model trains on how many GPUs, computed by `trainer.gpu_memory`.

Prints the tables of docs/explanation/measured/training.md.
"""

from __future__ import annotations

from trainer import TrainOptions
from trainer.gpu_memory import ModelShape, gpu_bytes

GIB = 2**30
GPUS = (1, 2, 4, 8, 16, 32)
# From the config.json of each model.
MODELS = {
    "Qwen2.5-0.5B": ModelShape(
        hidden=896, intermediate=4864, blocks=24, vocabulary=151936, heads=14, kv_heads=2, tied=True
    ),
    "Qwen2.5-1.5B": ModelShape(
        hidden=1536, intermediate=8960, blocks=28, vocabulary=151936, heads=12, kv_heads=2, tied=True
    ),
    "Qwen2.5-7B": ModelShape(hidden=3584, intermediate=18944, blocks=28, vocabulary=152064, heads=28, kv_heads=4),
    "Qwen2.5-14B": ModelShape(hidden=5120, intermediate=13824, blocks=48, vocabulary=152064, heads=40, kv_heads=8),
    "Qwen2.5-32B": ModelShape(hidden=5120, intermediate=27648, blocks=64, vocabulary=152064, heads=40, kv_heads=8),
    "Qwen2.5-72B": ModelShape(hidden=8192, intermediate=29568, blocks=80, vocabulary=152064, heads=64, kv_heads=8),
}


def table(options: TrainOptions, *, memory_gib: float = 80.0) -> str:
    """GiB of each GPU by model and number of GPUs, in Markdown; bold where nine tenths of memory_gib hold it."""
    lines = ["| model | " + " | ".join(f"{n} GPU{'s' if n > 1 else ''}" for n in GPUS) + " |", "| --- " * 7 + "|"]
    for name, shape in MODELS.items():
        sizes = [gpu_bytes(shape, options, gpus=n) / GIB for n in GPUS]
        cells = [f"**{size:.0f}**" if size <= 0.9 * memory_gib else f"{size:.0f}" for size in sizes]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Prints the tables of docs/explanation/measured/training.md."""
    for rank in (0, 16):
        print(f"\nlora_rank = {rank}\n")
        print(table(TrainOptions(compute_dtype="bfloat16", gradient_checkpointing=True, lora_rank=rank)))


if __name__ == "__main__":
    main()
