"""A loop of one's own, from the public pieces, does what `train` does."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path

import pytest
import torch

import trainer
from tests.trainer.rows import random_rows, split_groups, without_times
from trainer import (
    TrainOptions,
    apply_gradients,
    batch_loss,
    batches,
    export_policy,
    learning_rate,
    load_policy,
    make_optimizer,
    train,
)
from trainer.errors import TrainDataError
from trainer.model_folder import weights_digest

ROWS = random_rows(groups=6, size=3)
PLAIN = {
    "lr": 1e-3,
    "warmup_steps": 2,
    "batch_size": 2,
    "micro_batch_tokens": 40,
    "device": "cpu",
    "tensorboard": False,
}
CASES = {
    "clip and kl": {"kl_coef": 0.01, "decay_share": 0.5, "epochs": 2},
    "recomputed old policy": {"old_policy": "recompute", "importance": "token", "importance_cap": math.inf},
    "packed, long rollouts masked": {"layout": "pack", "max_length": 10, "too_long": "mask", "loss": "gspo"},
    "LoRA": {"lora_rank": 4},
}


@pytest.fixture(params=[1.0, 0.7])
def shaped(make_shaped, request) -> str:
    sampling = {"temperature": request.param, "logprobs_mode": "processed_logprobs"}
    return make_shaped(split_groups(ROWS, 2), sampling=sampling)


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_a_loop_of_ones_own_ends_with_the_weights_of_train(shaped, policy_folder, tmp_path, changes):
    options = TrainOptions(**PLAIN | changes)
    result = train([shaped], policy=policy_folder, out=str(tmp_path / "out"), options=options)

    policy = load_policy(policy_folder, options)
    optimizer = make_optimizer(policy.model, options)
    losses = []
    for number, step in enumerate(batches([shaped], policy=policy, options=options)):
        total = 0.0
        for micro_batch in step.micro_batches:
            loss, _ = batch_loss(policy, micro_batch.to(policy.device), options=options)
            loss.backward()
            total += float(loss.detach())
        losses.append(total)
        rate = learning_rate(number, options, step=number, steps=result.steps)
        apply_gradients(policy, optimizer, step, rate=rate, options=options)
    export_policy(policy, tmp_path / "own", dtype="auto")
    assert weights_digest(tmp_path / "own") == weights_digest(result.policy_dir)
    assert losses == pytest.approx([line["loss"] for line in without_times(tmp_path / "out")], abs=1e-6)


def test_plain_torch_takes_the_step_of_train(make_shaped, policy_folder, tmp_path):
    """Nothing but the loss is ours here: gradient, clipping and AdamW are torch's."""
    shaped = make_shaped(split_groups(ROWS, 2))
    options = TrainOptions(**PLAIN | {"warmup_steps": 0, "updates": 1, "batch_size": None})
    result = train([shaped], policy=policy_folder, out=str(tmp_path / "out"), options=options)
    policy = load_policy(policy_folder, options)
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=options.lr, weight_decay=0.0)
    (step,) = batches([shaped], policy=policy, options=options)
    for micro_batch in step.micro_batches:
        batch_loss(policy, micro_batch, options=options)[0].backward()
    torch.nn.utils.clip_grad_norm_(policy.model.parameters(), options.grad_clip)
    optimizer.step()
    trained = load_policy(result.policy_dir, options).model.state_dict()
    for name, tensor in policy.model.state_dict().items():
        torch.testing.assert_close(tensor, trained[name], atol=1e-6, rtol=0)


def test_the_loop_in_the_packages_docstring_runs(make_shaped, policy_folder):
    block = trainer.__doc__.split("your own:\n")[1].split("`apply_gradients`")[0]
    loop = textwrap.dedent(block).replace("runs/mine/round-000/shaped", make_shaped([ROWS]))
    names = {name: getattr(trainer, name) for name in trainer.__all__}
    names |= {"folder": policy_folder, "options": TrainOptions(**PLAIN)}
    before = load_policy(policy_folder, names["options"]).model.get_output_embeddings().weight
    exec(loop, names)
    assert not torch.equal(names["policy"].model.get_output_embeddings().weight, before)


def test_wrong_data_is_refused_before_the_first_batch_is_asked_for(policy_folder):
    with pytest.raises(TrainDataError, match="give a list"):
        batches("a/str", policy=load_policy(policy_folder, TrainOptions(device="cpu")), options=TrainOptions())


def test_the_old_policys_log_probabilities_leave_nothing_behind(make_shaped, policy_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    options = TrainOptions(**PLAIN | {"old_policy": "recompute"})
    steps = batches([make_shaped([ROWS])], policy=load_policy(policy_folder, options), options=options)
    assert next(steps).micro_batches[0].old_N is not None
    steps.close()
    assert not list((tmp_path / "temporary").iterdir())


def test_every_public_name_is_there_and_typed():
    assert all(getattr(trainer, name) is not None for name in trainer.__all__)
    assert (Path(trainer.__file__).parent / "py.typed").exists()
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        trainer.trian  # noqa: B018
