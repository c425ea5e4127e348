"""The ways to train where the plain one does not fit, each against the plain one; what is said where memory ends."""

from __future__ import annotations

import json
import os
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import trainer.run
from tests.trainer.rows import gradient_of, largest_difference, random_rows, split_groups, step_of
from trainer import TrainOptions, train
from trainer.determinism import determinism
from trainer.distributed import whole
from trainer.errors import DeviceMemoryError, TrainOptionError
from trainer.logprobs import Float32Head
from trainer.model_folder import weights_digest
from trainer.policy import load_policy
from trainer.update import apply_gradients, backward, make_optimizer

ROWS = random_rows(groups=6, size=3)
OPTIONS = TrainOptions(
    lr=1e-3, warmup_steps=0, batch_size=2, micro_batch_tokens=40, device="cpu", tensorboard=False, save_every=1,
)  # fmt: skip
EXHAUSTED = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore")


@pytest.fixture
def run(make_shaped, tied_policy_folder, tmp_path):
    shaped = make_shaped(split_groups(ROWS, 2))

    def call(out: str, *, options=OPTIONS, **arguments):
        return train([shaped], policy=tied_policy_folder, out=str(tmp_path / out), options=options, **arguments)

    return call


def digest(result) -> str:
    return weights_digest(Path(result.policy_dir))


def after_two_steps(done, total, note):
    if done == 2:  # the first is saved, the second is not
        raise KeyboardInterrupt


def exhausted(*arguments, **options):
    raise EXHAUSTED


# --- cpu_offload ---------------------------------------------------------------------------------------------------


def test_a_run_with_offload_ends_in_the_same_bits(run):
    before = torch.distributed.is_initialized()  # an engine that ran in this process may have left a group
    assert digest(run("offloaded", options=replace(OPTIONS, cpu_offload=True))) == digest(run("plain"))
    assert torch.distributed.is_initialized() == before


@pytest.mark.parametrize("first", [True, False])
def test_offload_may_change_when_a_run_goes_on(run, first):
    with pytest.raises(KeyboardInterrupt):
        run("out", options=replace(OPTIONS, cpu_offload=first), progress=after_two_steps)
    resumed = run("out", options=replace(OPTIONS, cpu_offload=not first))
    assert digest(resumed) == digest(run("plain"))


@pytest.mark.parametrize("changes", [{"lora_rank": 4}, {"gradient_checkpointing": True}])
def test_offload_goes_with_the_other_ways(run, changes):
    options = replace(OPTIONS, **changes)
    assert digest(run("offloaded", options=replace(options, cpu_offload=True))) == digest(run("plain", options=options))


def test_offload_in_bfloat16_with_a_float32_head_stays_near_float32(tied_policy_folder):
    options = replace(OPTIONS, compute_dtype="bfloat16", head_dtype="float32", logits_elements=64)
    step = step_of(ROWS, reference=False)
    expected = gradient_of(load_policy(tied_policy_folder, OPTIONS), step, OPTIONS)
    before = torch.distributed.is_initialized()
    policy = load_policy(tied_policy_folder, replace(options, cpu_offload=True))
    gradients = gradient_of(policy, step, options)
    found = {name: whole(tensor) if name != "loss" else tensor for name, tensor in gradients.items()}
    if not before:
        torch.distributed.destroy_process_group()  # of one process, made for the offload
    assert {tensor.dtype for name, tensor in found.items() if name != "loss"} == {torch.float32}
    assert 1e-5 < largest_difference(found, expected) < 0.05


# --- weights_dtype -------------------------------------------------------------------------------------------------


def test_an_adapter_on_a_bfloat16_base_learns_what_it_learns_on_a_float32_one(policy_folder):
    options = replace(OPTIONS, lora_rank=4, compute_dtype="bfloat16")
    step = step_of(ROWS, reference=False)
    found, expected = {}, {}
    for dtype, gradients in (("bfloat16", found), ("float32", expected)):
        policy = load_policy(policy_folder, replace(options, weights_dtype=dtype))
        for micro in step.micro_batches:
            backward(policy, micro, options=options)
        gradients |= {name: p.grad for name, p in policy.model.named_parameters() if p.grad is not None}
        held = {p.dtype for name, p in policy.model.named_parameters() if "lora_" not in name}
        assert held == {getattr(torch, dtype)}
        assert {p.dtype for p in policy.model.parameters() if p.requires_grad} == {torch.float32}
    assert largest_difference(found, expected) < 0.1


def test_a_round_with_a_bfloat16_base_goes_on_from_its_adapter(run):
    options = replace(OPTIONS, lora_rank=4, weights_dtype="bfloat16")
    first = run("first", options=options)
    assert digest(first) == digest(run("again", options=options))
    assert json.loads((Path(first.policy_dir).parent / "_train.json").read_text())["options"]["weights_dtype"]
    policy = load_policy(first.policy_dir, options)
    assert policy.model.dtype == torch.bfloat16


def test_bfloat16_weights_move_by_what_float32_ones_do_on_average(tmp_path, monkeypatch):
    pytest.importorskip("torchao")  # tests/trainer/test_memory.py says why it is not among the test requirements
    from tests.trainer.test_memory import wide_model

    monkeypatch.setattr(torch, "compile", lambda function, **_: function)  # torchao compiles its step, for minutes
    torch.manual_seed(0)
    folder = wide_model(tmp_path)
    step = step_of(random_rows(groups=3, size=4), reference=False)
    moved = {}
    for dtype in ("float32", "bfloat16"):
        options = replace(OPTIONS, optimizer="adamw_8bit", compute_dtype="bfloat16", weights_dtype=dtype)
        policy = load_policy(folder, options)
        optimizer = make_optimizer(policy.model, options)
        weight = policy.model.model.layers[0].mlp.up_proj.weight
        before = weight.detach().float().clone()
        for _ in range(4):
            for micro in step.micro_batches:
                backward(policy, micro, options=options)
            assert weight.grad.dtype == torch.float32
            apply_gradients(policy, optimizer, step, rate=1e-6, options=options)
        assert weight.dtype == getattr(torch, dtype)
        moved[dtype] = weight.detach().float() - before
    # Each step is far below half of bfloat16's spacing: rounding to the nearest would leave all weights where they are.
    assert (moved["bfloat16"] != 0).float().mean() < 0.2
    sign = moved["float32"].sign()
    together = (moved["bfloat16"] * sign).mean() / (moved["float32"] * sign).mean()
    assert 0.7 < together < 1.3


def test_where_bfloat16_weights_cannot_be_trained_the_options_say_so():
    for wrong, why in (
        ({}, "stochastic rounding"),
        ({"optimizer": "adamw_8bit", "cpu_offload": True}, "cpu_offload adds gradients up"),
        ({"lora_rank": 4, "compute_dtype": "float32"}, "cannot be computed with in float32"),
    ):
        with pytest.raises(TrainOptionError, match=why):
            TrainOptions(weights_dtype="bfloat16", **wrong)


# --- compile_layers, head_dtype ------------------------------------------------------------------------------------


@pytest.mark.parametrize("recomputed", [False, True])
def test_compiled_layers_give_the_same_gradient(policy_folder, monkeypatch, recomputed):
    compiled, real = [], torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda function, **how: compiled.append(how) or real(function, backend="aot_eager", **how)
    )
    options = replace(OPTIONS, gradient_checkpointing=recomputed)
    step = step_of(ROWS, reference=False)
    found = gradient_of(load_policy(policy_folder, replace(options, compile_layers=True)), step, options)
    assert compiled == [{"dynamic": True}] * 2
    assert largest_difference(found, gradient_of(load_policy(policy_folder, OPTIONS), step, OPTIONS)) < 1e-5


def test_a_float32_head_keeps_what_bfloat16_logits_round_away():
    torch.manual_seed(0)
    hidden = torch.randn(5, 64, dtype=torch.bfloat16, requires_grad=True)
    weight = nn.Parameter(torch.randn(32, 64))
    exact = hidden.double() @ weight.bfloat16().double().t()
    with torch.autocast("cpu", torch.bfloat16):
        ours = Float32Head.apply(hidden, weight, torch.bfloat16)
        theirs = nn.functional.linear(hidden, weight)
    assert ours.dtype == torch.float32
    assert (ours - exact).abs().max() < 1e-4 < (theirs - exact).abs().max()
    upstream = torch.randn_like(ours)
    gradients = [torch.autograd.grad(out, (hidden, weight), upstream.to(out.dtype)) for out in (ours, theirs)]
    for found, expected in zip(*gradients, strict=True):
        assert found.dtype == expected.dtype
        assert (found.float() - expected.float()).abs().max() <= 0.01 * expected.float().abs().max()


def test_the_trainer_takes_the_head_asked_for(policy_folder):
    (batch,) = step_of(ROWS, reference=False).micro_batches
    off = {}
    with torch.no_grad():
        for head in ("float32", "compute"):
            policy = load_policy(policy_folder, replace(OPTIONS, compute_dtype="bfloat16", head_dtype=head))
            with torch.autocast("cpu", torch.bfloat16):
                hidden = policy.scorer._hidden(batch.input_ids_BS, batch.position_ids_BS, None).flatten(0, 1)
            rounded = hidden[batch.select_N].bfloat16().double(), policy.model.lm_head.weight.bfloat16().double()
            exact = (rounded[0] @ rounded[1].t()).log_softmax(-1).gather(-1, batch.targets_N[:, None]).squeeze(-1)
            off[head] = float((policy.token_outputs(batch).logprobs_t1_N - exact).abs().max())
    assert off["float32"] < 1e-4 < off["compute"]


# --- out of memory -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("owner", "name", "said"),
    [
        ("transformers.LlamaForCausalLM", "to", "while loading"),
        ("trainer.policy.Policy", "token_outputs", "in a micro-batch of"),
        ("torch.optim.AdamW", "step", "in a micro-batch of"),
        ("trainer.run", "load_checkpoint", "while loading a checkpoint"),
        ("trainer.run", "save_checkpoint", "while saving a checkpoint"),
        ("trainer.run", "export_policy", "while exporting the policy"),
        ("trainer.run", "recompute_plan", "while recomputing log-probabilities"),
    ],
)
def test_out_of_memory_anywhere_says_what_is_needed_and_what_helps(run, monkeypatch, owner, name, said):
    options = replace(OPTIONS, old_policy="recompute") if name == "recompute_plan" else OPTIONS
    if name == "load_checkpoint":
        with pytest.raises(KeyboardInterrupt):
            run("out", progress=after_two_steps)
    with monkeypatch.context() as patched:
        patched.setattr(f"{owner}.{name}", exhausted)
        with pytest.raises(DeviceMemoryError, match=said) as refused:
            run("out", options=options)
    for named in ("needs about", "cpu_offload = true", "lora_rank = 16", "8 GPUs", "need a new run"):
        assert named in str(refused.value)
    assert "\nmore" not in str(refused.value)
    assert digest(run("out", options=options)) == digest(run("whole", options=options))


# --- what is left --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", ["well", "badly"])
def test_nothing_of_the_model_is_left_when_train_is_over(run, monkeypatch, ends):
    held: dict[str, weakref.ref] = {}

    def watched(*arguments, **options):
        policy = load_policy(*arguments, **options)
        held["model"] = weakref.ref(policy.model)
        held["weight"] = weakref.ref(policy.model.lm_head.weight)
        return policy

    monkeypatch.setattr(trainer.run, "load_policy", watched)
    options = replace(OPTIONS, gradient_checkpointing=True)
    if ends == "well":
        run("out", options=options)
    else:
        monkeypatch.setattr("torch.optim.AdamW.step", exhausted)
        with pytest.raises(DeviceMemoryError) as kept:
            run("out", options=options)
        assert isinstance(kept.value.__cause__, torch.OutOfMemoryError)
    assert {name: ref() for name, ref in held.items()} == {"model": None, "weight": None}


# --- determinism ---------------------------------------------------------------------------------------------------


def test_determinism_is_a_promise_where_it_is_asked_for_and_costs_nothing_elsewhere(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)

    def state() -> tuple[bool, bool, str | None]:
        strict = torch.is_deterministic_algorithms_warn_only_enabled()
        return torch.are_deterministic_algorithms_enabled(), strict, os.environ.get("CUBLAS_WORKSPACE_CONFIG")

    before = state()
    for wanted, device, expected in (
        (None, "cpu", (True, True, None)),
        (None, "cuda", before),
        (True, "cuda", (True, False, ":4096:8")),
        (True, "cpu", (True, False, None)),
        (False, "cpu", before),
    ):
        with determinism(wanted, device=device):
            assert state() == expected
        assert state() == before
