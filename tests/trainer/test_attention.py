"""torch's varlen attention under transformers: the kernel runs on a GPU only, so here sdpa stands in for it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import trainer.policy
from tests.trainer.rows import gradient_of, largest_difference, random_rows, step_of
from trainer.attention import VARLEN, attention_problem, bounds, is_flash, varlen_problem
from trainer.errors import TrainOptionError
from trainer.options import TrainOptions
from trainer.policy import load_policy
from trainer.probes import check_backward

ROWS = random_rows(groups=3, size=3)
OPTIONS = TrainOptions(device="cpu", compute_dtype="bfloat16", layout="pack")


def rollout_by_rollout(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa):
    """What the kernel computes, [T, H, D], by sdpa on each rollout alone."""
    assert query.dtype == key.dtype == value.dtype == torch.bfloat16
    assert cu_seq_q.dtype == torch.int32
    assert torch.equal(cu_seq_q, cu_seq_k)
    assert max_q == max_k == int(cu_seq_q.diff().max())
    outs = []
    for start, end in zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True):
        q, k, v = (x[start:end].transpose(0, 1).float() for x in (query, key, value))
        far = torch.arange(end - start)
        mask = far[:, None] >= far
        if window_size[0] >= 0:
            mask &= far[:, None] - far <= window_size[0]
        out = nn.functional.scaled_dot_product_attention(
            q[None], k[None], v[None], attn_mask=mask, scale=scale, enable_gqa=enable_gqa
        )
        outs.append(out[0].transpose(0, 1))
    return torch.cat(outs).to(query.dtype)


@pytest.fixture
def stand_in(monkeypatch):
    """The kernel on a CPU, and a CPU that is not refused."""
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", rollout_by_rollout)
    monkeypatch.setattr(trainer.policy, "attention_problem", lambda name, *, device: None)


@pytest.mark.parametrize("pack", [True, False])
def test_varlen_gives_the_gradient_of_sdpa(policy_folder, stand_in, pack):
    step = step_of(ROWS, reference=False, pack=pack, budget=60)
    layout = "pack" if pack else "pad"
    expected = gradient_of(load_policy(policy_folder, replace(OPTIONS, layout=layout, attention="sdpa")), step, OPTIONS)
    policy = load_policy(policy_folder, replace(OPTIONS, layout=layout, attention=VARLEN))
    assert policy.model.config._attn_implementation == VARLEN
    assert largest_difference(gradient_of(policy, step, OPTIONS), expected) < 0.05


def test_layout_auto_packs_where_attention_is_varlen(policy_folder, stand_in):
    assert load_policy(policy_folder, replace(OPTIONS, layout="auto", attention=VARLEN)).pack
    assert not load_policy(policy_folder, replace(OPTIONS, layout="auto")).pack


def test_auto_takes_varlen_where_it_computes_the_model_and_what_was_there_where_not(policy_folder, monkeypatch):
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", rollout_by_rollout)
    options = replace(OPTIONS, layout="auto")
    policy = load_policy(policy_folder, options)
    trainer.policy._take_varlen(policy.model, policy.scorer, policy_folder, options)
    assert policy.model.config._attn_implementation == VARLEN
    assert all(p.grad is None for p in policy.model.parameters())

    def wrong(query, *others, **how):
        return rollout_by_rollout(query, *others, **how) * 3

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", wrong)
    policy = load_policy(policy_folder, options)
    trainer.policy._take_varlen(policy.model, policy.scorer, policy_folder, options)
    assert policy.model.config._attn_implementation == "sdpa"


def test_a_kernel_without_a_backward_pass_is_not_taken(policy_folder, monkeypatch):
    def forward_only(*arguments, **how):
        out = rollout_by_rollout(*arguments, **how)
        if torch.is_grad_enabled():
            raise RuntimeError("no backward here")
        return out

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", forward_only)
    options = replace(OPTIONS, layout="auto")
    policy = load_policy(policy_folder, options)
    trainer.policy._take_varlen(policy.model, policy.scorer, policy_folder, options)
    assert policy.model.config._attn_implementation == "sdpa"
    check_backward(policy.scorer, policy_folder)


def test_bounds_are_those_of_the_rollouts():
    ids = torch.zeros(1, 6, dtype=torch.long)
    packed = bounds(ids, torch.tensor([[0, 1, 2, 0, 1, 0]]))
    assert packed["cu_seq_lens_q"].tolist() == [0, 3, 5, 6]
    assert packed["max_length_q"] == 3
    padded = bounds(torch.zeros(2, 3, dtype=torch.long), None)
    assert padded["cu_seq_lens_k"].tolist() == [0, 3, 6]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("flash_attention_2", "flash_attn, which is not installed"),
        ("flash_attention_3", "flash_attn_interface"),
        ("kernels-community/flash-attn", "package kernels"),
        (VARLEN, "runs on a GPU only"),
    ],
)
def test_an_attention_that_is_not_there_is_refused_by_name_before_anything_is_loaded(policy_folder, name, said):
    assert said in attention_problem(name, device="cpu")
    with pytest.raises(TrainOptionError, match=said):
        load_policy(policy_folder, replace(OPTIONS, attention=name))


def test_attentions_of_transformers_own_are_there():
    assert [attention_problem(name, device="cpu") for name in ("auto", "sdpa", "eager")] == [None] * 3
    assert attention_problem(VARLEN, device="cuda") is None
    assert [is_flash(name) for name in (VARLEN, "flash_attention_2", "sdpa")] == [True, True, False]


def test_what_varlen_cannot_compute_is_known(policy_folder):
    model = load_policy(policy_folder, OPTIONS).model
    assert varlen_problem(model) is None
    model.config.attn_logit_softcapping = 5.0
    assert "caps its attention" in varlen_problem(model)
    model.config.attn_logit_softcapping, model.config.head_dim = None, 512
    assert "512 wide" in varlen_problem(model)
