"""Bytes: what chunked logits, gradient checkpointing and 8-bit optimizer state save, and that they change nothing else.

Peaks are counted from torch's own allocations and frees.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import pytest
import torch

from pass_ops.support.extras import MissingExtraError
from tests.trainer.rows import VOCABULARY, gradient_of, largest_difference, random_rows, step_of
from trainer.logprobs import TokenLogprobs
from trainer.options import TrainOptions
from trainer.policy import load_policy
from trainer.update import apply_gradients, backward, make_optimizer

OPTIONS = TrainOptions(device="cpu", lr=1e-3, warmup_steps=1)
TOKENS, LARGE = 2048, 16384


def peak_bytes(work: Callable[[], object]) -> int:
    """The most bytes of tensors that the work holds at a time, of those it makes itself."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))


@pytest.fixture(scope="module")
def wide_vocabulary():
    """A model whose logits are much larger than all else."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=LARGE, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2, max_position_embeddings=TOKENS,
        )
    )  # fmt: skip


def test_chunked_logprobs_never_hold_the_logits_of_all_tokens(wide_vocabulary):
    ids = torch.randint(0, LARGE, (1, TOKENS))
    places = torch.arange(TOKENS - 1)

    def gradient(rows: int) -> torch.Tensor:
        scorer = TokenLogprobs(wide_vocabulary, chunk_rows=rows, compute_dtype=torch.float32)
        scorer(ids, None, places, ids[0, 1:], 1.0)[0].mean().backward()
        found = wide_vocabulary.lm_head.weight.grad.clone()
        wide_vocabulary.zero_grad(set_to_none=True)
        return found

    expected = gradient(TOKENS)
    assert torch.allclose(gradient(100), expected, atol=1e-7)
    logits = TOKENS * LARGE * 4
    assert peak_bytes(lambda: gradient(TOKENS)) > 2 * logits
    assert peak_bytes(lambda: gradient(100)) < 0.5 * logits


def test_gradient_checkpointing_keeps_less_and_gives_the_same_gradient(policy_folder):
    rows = random_rows(groups=150, size=4, longest=50)
    step = step_of(rows, reference=False, budget=100_000)
    plain, again = (load_policy(policy_folder, replace(OPTIONS, gradient_checkpointing=on)) for on in (False, True))
    found, expected = gradient_of(again, step, OPTIONS), gradient_of(plain, step, OPTIONS)
    assert largest_difference(found, expected) < 1e-6
    kept, recomputed = (peak_bytes(lambda p=p: gradient_of(p, step, OPTIONS)) for p in (plain, again))
    assert recomputed < 0.8 * kept


def test_bfloat16_computes_roughly_and_updates_float32_weights(policy_folder):
    lower = load_policy(policy_folder, replace(OPTIONS, compute_dtype="bfloat16"))
    step = step_of(random_rows(groups=3, size=4), reference=False)
    found = gradient_of(lower, step, OPTIONS)
    expected = gradient_of(load_policy(policy_folder, OPTIONS), step, OPTIONS)
    assert 1e-5 < largest_difference(found, expected) < 0.1
    assert {p.dtype for p in lower.model.parameters()} == {torch.float32}
    assert {g.dtype for name, g in found.items() if name != "loss"} == {torch.float32}


def wide_model(folder: Path) -> str:
    """A model with matrices large enough for 8-bit state."""
    from transformers import LlamaConfig, LlamaForCausalLM

    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=128, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2, max_position_embeddings=64,
        )
    ).save_pretrained(folder)  # fmt: skip
    return str(folder)


def test_8_bit_adamw_moves_the_weights_about_as_adamw_does_with_a_quarter_of_the_state(tmp_path, monkeypatch):
    pytest.importorskip("torchao")  # not among the test requirements: with it, importing transformers is slow and loud
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)  # torchao compiles its step, for minutes
    wide_model(tmp_path)
    step = step_of(random_rows(groups=3, size=4), reference=False)
    moved, state = {}, {}
    for name in ("adamw", "adamw_8bit"):
        options = replace(OPTIONS, optimizer=name)
        policy = load_policy(str(tmp_path), options)
        optimizer = make_optimizer(policy.model, options)
        weight = policy.model.model.layers[0].mlp.up_proj.weight
        before = weight.detach().clone()
        for rate in (1e-3, 5e-4):
            for micro in step.micro_batches:
                backward(policy, micro, options=options)
            apply_gradients(policy, optimizer, step, rate=rate, options=options)
        moved[name] = weight.detach() - before
        state[name] = sum(_bytes(value) for value in optimizer.state[weight].values())
    difference = (moved["adamw_8bit"] - moved["adamw"]).abs().mean()
    assert difference < 0.1 * moved["adamw"].abs().mean()
    assert state["adamw_8bit"] < 0.3 * state["adamw"]


def _bytes(value: torch.Tensor) -> int:
    inner = [getattr(value, name) for name in ("codes", "scale", "qmap") if hasattr(value, name)]
    return sum(part.numel() * part.element_size() for part in inner or [value])


def test_without_torchao_the_error_names_the_extra(policy_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    model = load_policy(policy_folder, OPTIONS).model
    with pytest.raises(MissingExtraError, match=r"torchao, needed for train.optimizer.*passrl\[adamw8bit\]"):
        make_optimizer(model, replace(OPTIONS, optimizer="adamw_8bit"))
