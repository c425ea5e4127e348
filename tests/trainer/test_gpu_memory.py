"""The memory formula against a model's own tensors, and the page's tables against the formula."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.architectures import KINDS, build
from benchmarks.gpu_memory_table import QWEN2, shape_of, table, ways_table
from tests.trainer.rows import random_rows, step_of
from trainer.fitting import folder_shape
from trainer.gpu_memory import GIB, does_not_fit, engine, model_shape, training, usable, ways_to_fit
from trainer.options import TrainOptions
from trainer.policy import load_policy
from trainer.update import apply_gradients, backward, make_optimizer

OPTIONS = TrainOptions(device="cpu", lr=1e-3)
CARD = 80 * GIB
STATE = ("weights", "gradients", "optimizer")


@pytest.mark.parametrize("changes", [{}, {"lora_rank": 4}, {"lora_rank": 4, "weights_dtype": "bfloat16"}])
def test_weights_gradients_and_optimizer_take_what_the_formula_says(policy_folder, changes):
    options = replace(OPTIONS, **changes)
    policy = load_policy(policy_folder, options)
    optimizer = make_optimizer(policy.model, options)
    step = step_of(random_rows(groups=2, size=2), reference=False)
    backward(policy, step.micro_batches[0], options=options)
    found = {"weights": [p.detach() for p in policy.model.parameters()]}
    found["gradients"] = [p.grad for p in policy.model.parameters() if p.grad is not None]
    apply_gradients(policy, optimizer, step, rate=1e-3, options=options)
    found["optimizer"] = [v for state in optimizer.state.values() for k, v in state.items() if k != "step"]
    bytes_ = {name: sum(t.numel() * t.element_size() for t in tensors) for name, tensors in found.items()}
    told = training(folder_shape(policy_folder), options).parts
    assert bytes_ == {name: told[name] for name in STATE}


@pytest.mark.parametrize("kind", ["llama", "gemma2", "qwen3_moe", "gpt2"])
def test_every_weight_of_a_folder_is_counted_once_whatever_its_architecture(kind, tmp_path):
    assert kind in KINDS
    folder = str(build(kind, tmp_path))
    shape = folder_shape(folder)
    policy = load_policy(folder, OPTIONS)
    assert shape.parameters == sum(p.numel() for p in policy.model.parameters())
    assert (shape.blocks, shape.hidden, shape.vocabulary) == (2, 64, policy.vocabulary_size)
    assert shape.outside + 2 * shape.block >= shape.parameters > shape.outside


def test_the_published_sizes_come_out():
    billions = {name: round(shape_of(name).parameters / 1e9, 2) for name in QWEN2}
    assert billions == {
        "Qwen2.5-0.5B": 0.49, "Qwen2.5-1.5B": 1.54, "Qwen2.5-7B": 7.62, "Qwen2.5-14B": 14.77, "Qwen2.5-32B": 32.76,
        "Qwen2.5-72B": 72.71,
    }  # fmt: skip


def test_more_gpus_hold_more_and_every_saving_saves():
    shape = shape_of("Qwen2.5-7B")
    dear = TrainOptions(compute_dtype="bfloat16")
    sizes = [training(shape, dear, gpus=n).total for n in (2, 4, 8)]
    assert sizes == sorted(sizes, reverse=True)
    for saving in ({"gradient_checkpointing": True}, {"lora_rank": 16}, {"optimizer": "adamw_8bit"}):
        assert training(shape, replace(dear, **saving), gpus=2).total < sizes[0]
    offloaded = training(shape, replace(dear, cpu_offload=True), gpus=2)
    assert offloaded.host == sum(training(shape, dear, gpus=2).parts[name] for name in STATE)
    assert offloaded.total + offloaded.host == sizes[0]


def test_a_whole_7B_update_fits_one_card_with_offload_and_eight_without():
    shape, mild = shape_of("Qwen2.5-7B"), TrainOptions(compute_dtype="bfloat16", gradient_checkpointing=True)
    limit = usable(CARD)
    assert training(shape, mild).total > limit
    assert training(shape, replace(mild, cpu_offload=True)).total < limit
    assert training(shape, mild, gpus=8).total < limit


def test_what_is_proposed_fits_and_names_only_what_changes():
    shape, options, limit = shape_of("Qwen2.5-7B"), TrainOptions(compute_dtype="bfloat16"), usable(CARD)
    ways = ways_to_fit(shape, options, limit=limit)
    assert all(way.holding.total <= limit for way in ways)
    assert all("compute_dtype" not in way.changes and way.changes["gradient_checkpointing"] for way in ways)
    sentence = does_not_fit("The update", training(shape, options), limit=limit, ways=ways)
    for named in ("cpu_offload = true", 'weights_dtype = "bfloat16"', "lora_rank = 16", "2 GPUs", "72 GiB can be used"):
        assert named in sentence
    small = 12 * GIB
    assert ways_to_fit(shape_of("Qwen2.5-72B"), options, limit=small) == []
    assert "No option" in does_not_fit("It", training(shape, options), limit=small, ways=[])


def test_an_engine_needs_its_weights_and_its_longest_sequence():
    shape = shape_of("Qwen2.5-7B")
    alone, both = (engine(shape, dtype="bfloat16", longest=4096, gpus=n).parts for n in (1, 2))
    assert alone["weights"] == 2 * shape.parameters == 2 * both["weights"]
    assert alone["keys and values"] == 2 * (2 * 4 * 128 * 28) * 4096
    pooling = engine(shape, dtype="bfloat16", longest=4096, pooling=True)
    assert pooling.total < sum(alone.values())


def test_a_model_without_tensors_is_refused():
    with pytest.raises(ValueError, match="without tensors"):
        model_shape({}, {})


@pytest.mark.parametrize("rank", [0, 16])
def test_the_page_shows_the_formulas_table(rank):
    page = (Path(__file__).parents[2] / "docs" / "explanation" / "measured" / "training.md").read_text()
    assert table(TrainOptions(compute_dtype="bfloat16", gradient_checkpointing=True, lora_rank=rank)) in page
    assert ways_table() in page


def test_the_shape_is_read_from_the_folder_alone(policy_folder):
    shape = folder_shape(policy_folder)
    config = json.loads((Path(policy_folder) / "config.json").read_text())
    model = load_policy(policy_folder, OPTIONS).model
    assert model_shape(config, {name: tuple(p.shape) for name, p in model.named_parameters()}) == shape
    assert {p.dtype for p in model.parameters()} == {torch.float32}
