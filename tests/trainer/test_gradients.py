"""The gradient of a step, against a plain float64 implementation and against itself cut otherwise."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.trainer.rows import as_rollout, changed, gradient_of, largest_difference, random_rows, step_of
from trainer.options import TrainOptions
from trainer.policy import Policy, load_policy

OPTIONS = TrainOptions(device="cpu", kl_coef=0.05, clip_low=0.2, clip_high=0.28)
ROWS = random_rows(groups=3, size=4)


@pytest.fixture(scope="module")
def policy(policy_folder) -> Policy:
    return load_policy(policy_folder, OPTIONS)


def plain_gradient(folder: str, rows, options: TrainOptions, *, temperature: float) -> dict[str, torch.Tensor]:
    """docs/spec/method.md section 6 word for word, a token at a time, in float64. The other losses likewise."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    total = torch.zeros((), dtype=torch.float64)
    for row in rows:
        rollout = as_rollout(row)
        logits = model(torch.tensor([[*row.prompt, *row.tokens]]), use_cache=False).logits[0]
        counted = [t for t in range(len(row.tokens)) if row.mask[t]]
        before = {t: logits[len(row.prompt) + t - 1] for t in counted}
        new = {t: torch.log(torch.softmax(before[t] / temperature, -1)[row.tokens[t]]) for t in counted}
        old_T = rollout.behavior_T if rollout.old_T is None else rollout.old_T
        ratios = {t: torch.exp(new[t] - float(old_T[t])) for t in counted}
        sequence = torch.exp(sum(torch.log(ratios[t]) for t in counted) / len(counted)).detach()
        corrections = plain_corrections(rollout, ratios, counted, options=options)
        terms = []
        for t in counted:
            p = torch.softmax(before[t] / temperature, -1)
            entropy = -(p * torch.log(p)).sum()
            d = float(rollout.reference_T[t]) - torch.log(torch.softmax(before[t], -1)[row.tokens[t]])
            kl = {"k1": -d, "k2": d * d / 2, "k3": torch.exp(d) - d - 1, "abs": abs(d)}[options.kl_estimator]
            surrogate = plain_surrogate(
                new[t], ratios[t], sequence, advantage=float(rollout.advantages_T[t]), options=options
            )
            terms.append(-corrections[t] * surrogate + options.kl_coef * kl - options.entropy_coef * entropy)
        total = total + sum(terms) / len(terms)
    loss = total / len(rows)
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters()} | {"loss": loss.detach()}


def plain_corrections(rollout, ratios, counted, *, options: TrainOptions) -> dict[int, float]:
    """Importance weight of each token, 0 where rejected, written with Python's own min, product and if."""
    ratio = {t: ratios[t].item() for t in counted}
    if rollout.old_T is not None:
        ratio = {t: math.exp(float(rollout.old_T[t]) - float(rollout.behavior_T[t])) for t in counted}
    product = math.prod(ratio.values())
    worst = max(ratio.values(), key=lambda value: abs(math.log(value)))
    weights = {}
    for t in counted:
        importance = {"none": 1.0, "token": ratio[t], "sequence": product}[options.importance]
        seen = {"none": 1.0, "token": ratio[t], "sequence": product, "veto": worst,
                "geometric": product ** (1 / len(counted))}[options.reject]  # fmt: skip
        outside = options.reject != "none" and not options.reject_low <= seen <= options.reject_high
        weights[t] = 0.0 if outside else min(importance, options.importance_cap or math.inf)
    return weights


def plain_surrogate(logprob, ratio, sequence, *, advantage: float, options: TrainOptions):
    """What is maximized at one token, written with Python's own min, max and if."""
    low, high = 1 - options.clip_low, 1 + options.clip_high
    if options.loss == "policy_gradient":
        return advantage * logprob
    if options.loss == "cispo":
        return min(max(ratio.item(), low), high) * advantage * logprob
    if options.loss == "gspo":
        ratio = sequence * torch.exp(logprob - logprob.detach())
    value = min(ratio * advantage, min(max(ratio, torch.tensor(low)), torch.tensor(high)) * advantage)
    if options.dual_clip and advantage < 0:
        value = max(value, torch.tensor(options.dual_clip * advantage, dtype=torch.float64))
    return value


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss": "gspo", "clip_low": 0.1, "clip_high": 0.1},
        {"loss": "cispo"},
        {"loss": "policy_gradient"},
        {"dual_clip": 1.5},
        {"entropy_coef": 0.3},
        {"kl_estimator": "k1"},
        {"kl_estimator": "k2"},
        {"kl_estimator": "abs"},
        {"loss": "policy_gradient", "importance": "token", "importance_cap": 1.3},
        {"loss": "policy_gradient", "importance": "sequence", "importance_cap": 2.0},
        {"reject": "token", "reject_low": 0.5, "reject_high": 2.0},
        {"reject": "sequence", "reject_low": 0.2, "reject_high": 5.0},
        {"reject": "geometric", "reject_low": 0.8, "reject_high": 1.25},
        {"reject": "veto", "reject_low": 0.15, "reject_high": 6.0},
    ],
    ids=lambda changes: " ".join(f"{k}={v}" for k, v in changes.items()) or "default",
)
def test_the_gradient_is_that_of_a_plain_float64_implementation(policy_folder, temperature, changes):
    options = replace(OPTIONS, **changes)
    policy = load_policy(policy_folder, options)
    found = gradient_of(policy, step_of(ROWS, budget=60, temperature=temperature), options)
    expected = plain_gradient(policy_folder, ROWS, options, temperature=temperature)
    assert float(found["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-5)
    assert largest_difference(found, expected) < 1e-5
    if changes:
        usual = plain_gradient(policy_folder, ROWS, OPTIONS, temperature=temperature)
        assert largest_difference(expected, usual) > 1e-3


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss": "gspo"},
        {"importance": "token", "importance_cap": 1.3},
        {"importance": "sequence", "importance_cap": 2.0, "loss": "cispo"},
        {"importance": "token", "importance_cap": math.inf, "reject": "token", "reject_low": 0.8, "reject_high": 1.5},
        {"reject": "geometric", "reject_low": 0.9, "reject_high": 1.1},
        {"reject": "veto", "reject_low": 0.4, "reject_high": 2.5},
    ],
    ids=lambda changes: " ".join(f"{k}={v}" for k, v in changes.items()) or "plain",
)
def test_three_policies_give_the_gradient_of_the_plain_implementation(policy_folder, changes):
    rng = np.random.default_rng(1)
    rows = [replace(row, old=tuple(np.float32(x + rng.normal(0, 0.3)) for x in row.behavior)) for row in ROWS]
    options = replace(OPTIONS, old_policy="recompute", **changes)
    found = gradient_of(load_policy(policy_folder, options), step_of(rows, budget=60), options)
    expected = plain_gradient(policy_folder, rows, options, temperature=1.0)
    assert float(found["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-5)
    assert largest_difference(found, expected) < 1e-5
    two = plain_gradient(policy_folder, ROWS, replace(OPTIONS, loss=options.loss), temperature=1.0)
    assert largest_difference(expected, two) > 1e-3


def test_temperature_changes_the_gradient(policy):
    cool, plain = (gradient_of(policy, step_of(ROWS, temperature=t), OPTIONS) for t in (0.7, 1.0))
    assert largest_difference(cool, plain) > 0.01


@pytest.mark.parametrize("aggregation", ["rollout_mean", "token_mean", "constant"])
def test_micro_batches_change_nothing(policy, aggregation):
    constant = 16.0 if aggregation == "constant" else None
    whole = step_of(ROWS, aggregation=aggregation, constant=constant)
    cut = step_of(ROWS, budget=20, aggregation=aggregation, constant=constant)
    assert len(whole.micro_batches) == 1
    assert len(cut.micro_batches) > 5
    assert largest_difference(gradient_of(policy, cut, OPTIONS), gradient_of(policy, whole, OPTIONS)) < 1e-5


def test_packed_equals_padded(policy):
    packed, padded = step_of(ROWS, pack=True), step_of(ROWS)
    assert packed.micro_batches[0].input_ids_BS.shape[0] == 1
    a, b = gradient_of(policy, packed, OPTIONS), gradient_of(policy, padded, OPTIONS)
    assert float(a["loss"]) == pytest.approx(float(b["loss"]), abs=1e-5)
    assert largest_difference(a, b) < 1e-5


def test_the_order_of_rollouts_changes_nothing(policy):
    assert largest_difference(
        gradient_of(policy, step_of(ROWS[::-1], budget=50), OPTIONS), gradient_of(policy, step_of(ROWS), OPTIONS)
    ) < 1e-5  # fmt: skip


def test_logits_in_chunks_change_nothing(policy, policy_folder):
    step = step_of(ROWS)
    chunked = load_policy(policy_folder, replace(OPTIONS, logits_elements=7 * policy.vocabulary_size))
    assert chunked.scorer.chunk_rows == 7
    assert largest_difference(gradient_of(chunked, step, OPTIONS), gradient_of(policy, step, OPTIONS)) < 1e-6


def test_a_masked_token_adds_nothing_whatever_is_stored_there(policy):
    masked = next(i for i, row in enumerate(ROWS) if not all(row.mask))
    at = ROWS[masked].mask.index(False)
    behavior = tuple(9.0 if t == at else value for t, value in enumerate(ROWS[masked].behavior))
    other = changed(ROWS, masked, behavior=behavior)
    assert (
        largest_difference(gradient_of(policy, step_of(other), OPTIONS), gradient_of(policy, step_of(ROWS), OPTIONS))
        == 0
    )


def test_a_flipped_mask_is_another_gradient(policy):
    flipped = [replace(row, mask=tuple(not m for m in row.mask)) for row in ROWS if not all(row.mask)]
    straight = [row for row in ROWS if not all(row.mask)]
    a, b = gradient_of(policy, step_of(flipped), OPTIONS), gradient_of(policy, step_of(straight), OPTIONS)
    assert largest_difference(a, b) > 0.1


@pytest.mark.parametrize("stored", [float("nan"), float("-inf")])
@pytest.mark.parametrize("column", ["behavior", "reference"])
def test_a_logprob_that_is_not_finite_drops_its_token_and_keeps_the_denominators(policy, column, stored):
    one = {"ends": (1,), "advantages": (1.0,), "mask": (True,), "behavior": (-3.0,), "reference": (-3.0,)}
    one_token = replace(ROWS[0], tokens=(5,), **one)
    broken = step_of([replace(one_token, **{column: (stored,)}), *ROWS[1:]])
    without = step_of([one_token, *ROWS[1:]], masked=[True, *[False] * (len(ROWS) - 1)])
    assert (broken.dropped_tokens, without.dropped_tokens) == (1, 0)
    assert (broken.tokens, broken.rollouts) == (without.tokens, without.rollouts)
    assert largest_difference(gradient_of(policy, broken, OPTIONS), gradient_of(policy, without, OPTIONS)) < 1e-6


def test_a_rollout_masked_for_length_keeps_its_place_in_the_denominator(policy):
    plain = TrainOptions(device="cpu")
    half = step_of(ROWS[:2], masked=[False, True], reference=False)
    alone = step_of(ROWS[:1], reference=False)
    assert (half.rollouts, half.masked_rollouts, alone.rollouts) == (2, 1, 1)
    a, b = gradient_of(policy, half, plain), gradient_of(policy, alone, plain)
    assert largest_difference({k: 2 * v for k, v in a.items()}, b) < 1e-6
