"""The memory formula against a model's own tensors, and the page's tables against the formula."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.gpu_memory_table import MODELS, table
from tests.trainer.rows import random_rows, step_of
from trainer.gpu_memory import ModelShape, gpu_bytes, state_bytes
from trainer.options import TrainOptions
from trainer.policy import load_policy
from trainer.update import apply_gradients, backward, make_optimizer

OPTIONS = TrainOptions(device="cpu", lr=1e-3)
# tests/trainer/conftest.py: random_llama
SHAPE = ModelShape(
    hidden=64, intermediate=96, blocks=2, vocabulary=32, heads=4, kv_heads=2, attention_bias=False
)  # fmt: skip


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_weights_gradients_and_optimizer_take_what_the_formula_says(policy_folder, lora_rank):
    options = replace(OPTIONS, lora_rank=lora_rank)
    policy = load_policy(policy_folder, options)
    optimizer = make_optimizer(policy.model, options)
    step = step_of(random_rows(groups=2, size=2), reference=False)
    backward(policy, step.micro_batches[0], options=options)
    tensors = [p.detach() for p in policy.model.parameters()]
    tensors += [p.grad for p in policy.model.parameters() if p.grad is not None]
    apply_gradients(policy, optimizer, step, rate=1e-3, options=options)
    tensors += [v for state in optimizer.state.values() for k, v in state.items() if k != "step"]
    assert sum(t.numel() * t.element_size() for t in tensors) == state_bytes(SHAPE, options)


def test_the_published_sizes_come_out():
    billions = {name: round(shape.parameters / 1e9, 2) for name, shape in MODELS.items()}
    assert billions == {
        "Qwen2.5-0.5B": 0.49, "Qwen2.5-1.5B": 1.54, "Qwen2.5-7B": 7.62, "Qwen2.5-14B": 14.77, "Qwen2.5-32B": 32.76,
        "Qwen2.5-72B": 72.71,
    }  # fmt: skip


def test_more_gpus_hold_more_and_every_saving_saves():
    shape = MODELS["Qwen2.5-7B"]
    dear = TrainOptions(compute_dtype="bfloat16")
    sizes = [gpu_bytes(shape, dear, gpus=n) for n in (2, 4, 8)]
    assert sizes == sorted(sizes, reverse=True)
    for saving in ({"gradient_checkpointing": True}, {"lora_rank": 16}, {"optimizer": "adamw_8bit"}):
        assert gpu_bytes(shape, replace(dear, **saving), gpus=2) < sizes[0]


@pytest.mark.parametrize("rank", [0, 16])
def test_the_page_shows_the_formulas_table(rank):
    page = (Path(__file__).parents[2] / "docs" / "explanation" / "measured" / "training.md").read_text()
    assert table(TrainOptions(compute_dtype="bfloat16", gradient_checkpointing=True, lora_rank=rank)) in page


def test_the_random_model_is_of_the_shape_written_here(policy_folder):
    model = load_policy(policy_folder, OPTIONS).model
    assert sum(p.numel() for p in model.parameters()) == SHAPE.parameters
    assert {p.dtype for p in model.parameters()} == {torch.float32}
