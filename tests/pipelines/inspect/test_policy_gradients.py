"""Real policy gradients of settings, held against plain autograd over the bare model."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from pass_ops import ShapingConfig, shape, token_advantages
from pipelines.demo.assets import asset_folder
from pipelines.inspect.sweep.choose import ChooseOptions, Chooser
from pipelines.inspect.sweep.gradients import compare_gradients, gradient_options, with_token_advantages
from pipelines.inspect.sweep.settings import grid_settings, sweep
from pipelines.shaped.stage import ShapeOptions
from tests.trainer.conftest import random_llama
from tests.trainer.rows import VOCABULARY
from trainer import TrainOptions, load_policy
from trainer.errors import PolicyMismatchError

OPTIONS = gradient_options(TrainOptions(device="cpu", micro_batch_tokens=64))
CONFIGS = [
    ShapingConfig(),
    ShapingConfig(k=0.0),
    ShapingConfig(estimator="grpo_outcome"),
    ShapingConfig(estimator="grpo_process"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return random_llama(tmp_path_factory.mktemp("policy"), tied=False)


@pytest.fixture(scope="module")
def model(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


def logprobs(model, prompt, tokens):
    """Of each completion token, by one plain forward pass."""
    ids = torch.tensor([[*prompt, *tokens]])
    table = model(ids).logits[0].log_softmax(-1)
    return table[len(prompt) - 1 : -1].gather(1, ids[0, len(prompt) :, None])[:, 0]


@pytest.fixture(scope="module")
def sample(model):
    """Three groups of three: random tokens, a masked token, a null score, behaviour a little off the policy."""
    generator = np.random.default_rng(6)
    rows = []
    for group in range(3):
        prompt = generator.integers(1, VOCABULARY, 3).tolist()
        for index in range(3):
            length = int(generator.integers(4, 10))
            tokens = generator.integers(0, VOCABULARY, length).tolist()
            mask = [True] * length
            mask[2] = index != 1
            with torch.no_grad():
                behavior = logprobs(model, prompt, tokens).numpy() - np.abs(generator.normal(0, 0.2, length))
            missing = (group, index) == (2, 0)
            rows.append(
                {
                    "group_id": f"g{group}",
                    "rollout_id": f"g{group}/{index}",
                    "prompt_token_ids": prompt,
                    "token_ids": tokens,
                    "loss_mask": mask,
                    "behavior_logprobs": np.where(mask, np.minimum(behavior, 0.0), 0.0).tolist(),
                    "process_scores": None if missing else generator.normal(size=2).tolist(),
                    "process_ends": None if missing else [length // 2, length],
                    "outcome_reward": float(generator.integers(2)),
                    "format_reward": float(generator.integers(2)),
                }
            )
    types = {
        "prompt_token_ids": pa.list_(pa.int32()), "token_ids": pa.list_(pa.int32()), "loss_mask": pa.list_(pa.bool_()),
        "behavior_logprobs": pa.list_(pa.float32()), "process_scores": pa.list_(pa.float32()),
        "process_ends": pa.list_(pa.int32()), "outcome_reward": pa.float32(), "format_reward": pa.float32(),
    }  # fmt: skip
    return pa.table({name: pa.array([row[name] for row in rows], types.get(name)) for name in rows[0]})


def plain_gradient(model, table, options):
    """The clipped surrogate of the paper, written out: mean over a rollout's unmasked tokens, then over rollouts."""
    rows = [
        (row, advantages)
        for row, advantages in zip(table.to_pylist(), token_advantages(table).to_pylist(), strict=True)
        if row["trainable"]
    ]
    loss = 0.0
    for row, advantages in rows:
        mask = torch.tensor(row["loss_mask"])
        a = torch.tensor(advantages)[mask]
        now = logprobs(model, row["prompt_token_ids"], row["token_ids"])[mask]
        ratio = (now - torch.tensor(row["behavior_logprobs"])[mask]).exp()
        clipped = ratio.clamp(1 - options.clip_low, 1 + options.clip_high)
        loss = loss - torch.minimum(ratio * a, clipped * a).mean() / len(rows)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]).double()


def plain_cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


def test_norms_and_cosines_are_those_of_plain_autograd(sample, folder, model):
    shaped = [shape(sample, config) for config in CONFIGS]
    generator = np.random.default_rng(8)
    star = generator.normal(size=sum(len(mask) for mask in sample["loss_mask"].to_pylist()))
    truth = with_token_advantages(sample, star, np.arange(len(sample)) != 4)
    policy = load_policy(folder, OPTIONS)
    found = compare_gradients(shaped, truth, policy=policy, options=OPTIONS, temperature=1.0)

    plain = [plain_gradient(model, table, OPTIONS) for table in (truth, *shaped)]
    assert [one.norm for one in found] == pytest.approx([float(g.norm()) for g in plain[1:]], rel=1e-4)
    assert [one.cosine_truth for one in found] == pytest.approx(
        [plain_cosine(g, plain[0]) for g in plain[1:]], abs=1e-5
    )
    assert [one.cosine_reference for one in found] == pytest.approx(
        [plain_cosine(g, plain[1]) for g in plain[1:]], abs=1e-5
    )
    assert max(abs(one.cosine_reference) for one in found[1:]) < 0.999  # the settings do differ
    assert [(one.groups, one.rollouts) for one in found] == [(3, 8), (3, 8), (3, 9), (3, 8)]


@pytest.mark.parametrize("changes", [{"loss": "policy_gradient"}, {"old_policy": "recompute"}, {"lora_rank": 2}])
def test_the_trainers_own_options_decide(sample, folder, changes):
    """Another loss, another old policy, other parameters: other norms, the same comparison."""
    shaped = [shape(sample, config) for config in CONFIGS[:2]]
    plain, changed = (
        compare_gradients(shaped, None, policy=load_policy(folder, chosen), options=chosen, temperature=1.0)
        for chosen in (OPTIONS, replace(OPTIONS, **changes))
    )
    assert plain[0].norm != pytest.approx(changed[0].norm, rel=1e-3)
    assert changed[0].cosine_reference == pytest.approx(1.0)
    assert changed[1].cosine_truth is None
    assert 0.0 < changed[1].cosine_reference < 0.9999


def test_a_setting_whose_every_advantage_is_0_has_no_direction(sample, folder):
    shaped = shape(sample, CONFIGS[0])
    nothing = with_token_advantages(sample, np.zeros(sum(map(len, sample["loss_mask"].to_pylist()))), np.ones(9, bool))
    reference, zero = compare_gradients(
        [shaped, nothing], nothing, policy=load_policy(folder, OPTIONS), options=OPTIONS, temperature=1.0
    )
    assert (zero.norm, zero.cosine_reference, zero.cosine_truth) == (0.0, None, None)
    assert reference.cosine_reference == pytest.approx(1.0)
    assert reference.cosine_truth is None


def test_gradients_do_not_pile_up(sample, folder):
    """The policy is left as it was loaded: a second comparison gives the same bits."""
    policy = load_policy(folder, OPTIONS)
    before = [p.detach().clone() for p in policy.model.parameters()]
    once, twice = (
        compare_gradients([shape(sample, CONFIGS[0])], None, policy=policy, options=OPTIONS, temperature=1.0)
        for _ in range(2)
    )
    assert once == twice
    assert all(torch.equal(a, b) for a, b in zip(before, policy.model.parameters(), strict=True))
    assert all(p.grad is None for p in policy.model.parameters())


def test_what_is_the_same_in_every_setting_is_left_out():
    options = TrainOptions(kl_coef=0.1, entropy_coef=0.01, batch_size=4, epochs=3, loss="cispo", clip_high=5.0)
    made = gradient_options(options)
    assert (made.kl_coef, made.entropy_coef, made.batch_size, made.updates, made.epochs) == (0.0, 0.0, None, 1, 1)
    assert (made.loss, made.clip_high) == ("cispo", 5.0)


def test_a_policy_of_another_vocabulary_is_refused_before_anything_is_shaped(store_run, row):
    run = store_run([row("a/0", 2), row("a/1", 2)])
    asked = ChooseOptions(policy=str(asset_folder("policy")))
    with pytest.raises(PolicyMismatchError, match="vocabulary is 'v' there"):
        sweep(
            rollouts=run.rollouts,
            signals=run.signals,
            settings=grid_settings(ShapeOptions(process="steps", outcome="verifier", format="format"), {}),
            watcher=Chooser(asked, signals=run.signals, train=TrainOptions(device="cpu")),
        )


def test_a_token_advantage_is_a_chunk_of_one_token():
    table = pa.table({"loss_mask": pa.array([[True, True], [False]], pa.list_(pa.bool_()))})
    made = with_token_advantages(table, np.array([0.5, -1.0, 0.0]), np.array([True, True]))
    assert token_advantages(made).to_pylist() == [[0.5, -1.0], [0.0]]
    assert made["chunk_ends"].to_pylist() == [[1, 2], [1]]
    assert made["trainable"].to_pylist() == [True, False]
    assert math.isclose(sum(made["chunk_advantages"].to_pylist()[0]), -0.5)
