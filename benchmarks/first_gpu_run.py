"""What a round of configs/qwen-math-7b.toml takes on GPUs of 80 GB: GiB, hours, disk; all computed, nothing measured.

Prints the tables of docs/how-to/first-gpu-run.md. Memory is `trainer.gpu_memory`'s, tokens and bytes are
`pipelines.runs.cost`'s, speeds are what others published (SPEEDS).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipelines.gpu_check.models import SHAPES, shape_of, tensor_shapes_of
from pipelines.runs.config import RunConfig, load_config
from pipelines.runs.cost import Estimate, estimate_round, training_bytes
from trainer import TrainOptions
from trainer.flops import PEAK_TFLOPS
from trainer.gpu_memory import GIB, Holding, engine, training, usable

CONFIG = Path(__file__).parents[1] / "configs" / "qwen-math-7b.toml"
CARD = 80 * GIB
GPUS = (1, 8, 32)
NODE = 8
PROMPT_CHARACTERS = 600  # a problem and its instruction, assumed
SCORING_MFU = 0.4  # of a forward pass over long rows, assumed
# Tokens/s of one H100, and who says so.
SAMPLED = (6200, "vllm#7117: 12.4k in + out of Llama-3-8B, half of it out")
TRAINED = (5762, "torchtitan: FSDP2, 8B, 8 H100")


def memory_table(config: RunConfig) -> str:
    """GiB that each GPU holds, by stage and number of GPUs; bold where nine tenths of 80 GiB hold it."""
    shape, length = shape_of("7B"), config.engine.max_model_len or 4096
    sampler = engine(shape, dtype="bfloat16", longest=length)
    prm = engine(shape, dtype="bfloat16", longest=length, pooling=True)
    whole = replace(config.train, compute_dtype="bfloat16", gradient_checkpointing=True)
    adapter = replace(whole, lora_rank=16, weights_dtype="bfloat16")
    rows = [
        ("generate, evaluate, base: the policy's engine, at least", [sampler] * len(GPUS)),
        ("prm: the reward model's engine, at least", [prm] * len(GPUS)),
        ("update of every weight", [_training(whole, n) for n in GPUS]),
        ("the same, `cpu_offload = true`", [_training(replace(whole, cpu_offload=True), n) for n in GPUS]),
        ('`lora_rank = 16, weights_dtype = "bfloat16"`', [_training(adapter, n) for n in GPUS]),
    ]
    return "\n".join(
        [
            "| stage | 1 GPU | 8 GPUs | 32 GPUs |",
            "| --- | --- | --- | --- |",
            *(f"| {name} | {' | '.join(_cell(holding) for holding in held)} |" for name, held in rows),
        ]
    )


def hours_table(config: RunConfig) -> str:
    """Hours of one round, by stage and number of GPUs; the update runs on one node of at most 8."""
    found = estimate(config)
    scored = int(SCORING_MFU * PEAK_TFLOPS["H100"] * 1e12 / (2 * shape_of("7B").parameters))
    forward = f"computed: a forward pass at {100 * SCORING_MFU:.0f} % of the peak"
    stages: Sequence[tuple[str, int, int, str, int]] = (
        ("generate", found.tokens, *SAMPLED, max(GPUS)),
        ("prm", found.training_tokens, scored, forward, max(GPUS)),
        ("base (reference log-probabilities)", found.training_tokens, scored, forward, max(GPUS)),
        ("update", found.training_tokens, *TRAINED, NODE),
    )
    lines = ["| stage | million tokens | tokens/s of a GPU | 1 GPU | 8 GPUs | 32 GPUs |", "| --- " * 6 + "|"]
    sums = [0.0] * len(GPUS)
    for name, tokens, speed, source, most in stages:
        hours = [tokens / speed / min(n, most) / 3600 for n in GPUS]
        sums = [total + part for total, part in zip(sums, hours, strict=True)]
        shown = " | ".join(f"{value:.2f}" for value in hours)
        lines.append(f"| {name} | {tokens / 1e6:.1f} | {speed:,} ({source}) | {shown} |")
    return "\n".join([*lines, f"| a round | | | {' | '.join(f'{total:.2f}' for total in sums)} |"])


def disk_table(config: RunConfig) -> str:
    """GB on disk: weights, and what a round leaves."""
    found, shapes = estimate(config), list(tensor_shapes_of("7B").values())
    weights = 2 * shape_of("7B").parameters
    adapter = replace(config.train, lora_rank=16)
    checkpoints = training_bytes(shapes, config.train, stored=weights)
    rows = (
        ("policy and reward model, bfloat16", 2 * weights / 1e9),
        ("rollouts and shaped dataset of a round", found.gigabytes),
        ("checkpoints and exported policy of a round, every weight", checkpoints / 1e9),
        ("the same, `lora_rank = 16`", training_bytes(shapes, adapter, stored=weights) / 1e9),
    )
    return "\n".join(["| what | GB |", "| --- | --- |", *(f"| {name} | {size:.1f} |" for name, size in rows)])


def estimate(config: RunConfig) -> Estimate:
    """Tokens and bytes of a round over prompts of PROMPT_CHARACTERS."""
    row = {"prompt": "x" * PROMPT_CHARACTERS, "messages": None}
    return estimate_round(config, [row] * (config.run.prompts_per_round or 0))


def _training(options: TrainOptions, gpus: int) -> Holding:
    return training(shape_of("7B"), options, gpus=gpus)


def _cell(holding: Holding) -> str:
    total = f"{holding.total / GIB:.0f}"
    shown = f"**{total}**" if holding.total <= usable(CARD) else total
    return f"{shown} (and {holding.host / GIB:.0f} of host memory)" if holding.host else shown


def main() -> None:
    """Prints the tables of docs/how-to/first-gpu-run.md."""
    assert SHAPES["7B"]["hidden_size"] == 3584, "Qwen2.5-Math-7B has the shape of Qwen2.5-7B"
    config = load_config(CONFIG)
    for table in (memory_table, hours_table, disk_table):
        print(f"\n{table(config)}\n")


if __name__ == "__main__":
    main()
