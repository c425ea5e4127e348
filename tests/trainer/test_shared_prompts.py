"""A prompt that several rollouts have, computed once: the same gradient from fewer tokens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.trainer.rows import as_rollout, gradient_of, largest_difference, random_rows, split_groups, step_of
from trainer import TrainOptions, train
from trainer.batching import plan_by_prompt
from trainer.errors import PolicyMismatchError, TrainOptionError
from trainer.metrics import read_metrics
from trainer.policy import load_policy

OPTIONS = TrainOptions(device="cpu", kl_coef=0.05, entropy_coef=0.1, layout="pad", tensorboard=False)
ROWS = [
    replace(row, prompt=tuple(range(1, 10)) if row.group == "g000" else row.prompt)
    for row in random_rows(groups=4, size=4)
]
ALONE = replace(ROWS[0], rollout_id="g004/0", prompt=(7, 8, 9))


@pytest.mark.parametrize("budget", [10_000, 45, 5])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_gradient_is_that_of_the_prompt_in_every_row(policy_folder, budget, temperature):
    policy, rows = load_policy(policy_folder, OPTIONS), [*ROWS, ALONE]
    shared = step_of(rows, budget=budget, temperature=temperature, share_prompts=True)
    a, b = (gradient_of(policy, step, OPTIONS) for step in (shared, step_of(rows, temperature=temperature)))
    assert float(a["loss"]) == pytest.approx(float(b["loss"]), abs=1e-6)
    assert largest_difference(a, b) < 1e-5


def test_a_prompt_counts_once_and_is_in_no_row():
    (batch,) = step_of(ROWS[:4], share_prompts=True).micro_batches
    assert batch.prefix_1P.tolist() == [list(range(1, 9))]
    assert batch.input_ids_BS[:, 0].tolist() == [9] * 4
    completions = [len(row.tokens) for row in ROWS[:4]]
    assert batch.real_tokens == 8 + sum(completions) + 4
    assert batch.fed_tokens == 8 + 4 * (max(completions) + 1)
    (plain,) = step_of(ROWS[:4]).micro_batches
    assert plain.prefix_1P is None
    assert plain.fed_tokens == 4 * (9 + max(completions))


@pytest.mark.parametrize("budget", [10_000, 45, 20])
def test_each_rollout_is_fed_once_beside_its_own_prompt_and_within_the_budget(budget):
    rollouts = [as_rollout(row) for row in [*ROWS, ALONE]]
    plan = plan_by_prompt(rollouts, budget=budget)
    assert sorted(np.concatenate(plan).tolist()) == list(range(len(rollouts)))
    for chosen in plan:
        prompts = {rollouts[r].prompt_ids.tobytes() for r in chosen}
        assert len(prompts) == 1
        widest = max(len(rollouts[r].token_ids_T) for r in chosen) + 1
        assert len(chosen) == 1 or len(rollouts[chosen[0]].prompt_ids) + len(chosen) * widest <= budget


def test_a_run_with_shared_prompts_goes_the_same_way(make_shaped, policy_folder, tmp_path):
    data = make_shaped(split_groups(ROWS, 2))
    options = replace(OPTIONS, lr=1e-3, warmup_steps=0, batch_size=2)
    for name, share in (("shared", True), ("rows", False)):
        train([data], policy=policy_folder, out=str(tmp_path / name), options=replace(options, share_prompts=share))
    shared, rows = (read_metrics(tmp_path / name) for name in ("shared", "rows"))
    for a, b in zip(shared, rows, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)
    assert sum(line["fed_tokens"] for line in shared) < sum(line["fed_tokens"] for line in rows)


@pytest.mark.parametrize("changes", [{"layout": "pack"}, {"gradient_checkpointing": True}])
def test_what_cannot_share_is_refused(changes):
    with pytest.raises(TrainOptionError, match="share_prompts needs"):
        replace(OPTIONS, share_prompts=True, **changes)


def test_a_model_that_reads_a_prompt_otherwise_is_refused(policy_folder, monkeypatch):
    from transformers import LlamaModel

    forward = LlamaModel.forward

    def forgetful(self, *, past_key_values=None, **arguments):
        return forward(self, **arguments)

    options = replace(OPTIONS, share_prompts=True)
    load_policy(policy_folder, options)
    monkeypatch.setattr(LlamaModel, "forward", forgetful)
    with pytest.raises(PolicyMismatchError, match="share_prompts to false"):
        load_policy(policy_folder, options)
