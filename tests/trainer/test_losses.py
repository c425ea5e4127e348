"""Goldens are worked by hand with e^x to six digits; N is the number of tokens."""

from __future__ import annotations

import math

import pytest
import torch

from trainer.batching import loss_weights
from trainer.losses import clipped_surrogate, k3_penalty, policy_loss
from trainer.options import TrainOptions


def surrogate_of_one_token(ratio: float, advantage: float) -> tuple[float, float, dict[str, float]]:
    """Loss, its derivative by the log-probability, and the clip counts, of one token; clip 0.2 / 0.3."""
    logprobs = torch.tensor([-1.0 + math.log(ratio)], requires_grad=True)
    loss, metrics = clipped_surrogate(
        logprobs,
        behavior_N=torch.tensor([-1.0]),
        advantages_N=torch.tensor([advantage]),
        weights_N=torch.ones(1),
        clip_low=0.2,
        clip_high=0.3,
    )
    loss.backward()
    counts = {name: int(metrics[name]) for name in ("clipped_low", "clipped_high")}
    return float(loss.detach()), float(logprobs.grad), counts


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope", "clipped"),
    [
        (1.0, 2.0, -2.0, -2.0, {"clipped_low": 0, "clipped_high": 0}),
        (1.25, 2.0, -2.5, -2.5, {"clipped_low": 0, "clipped_high": 0}),
        (1.5, 2.0, -2.6, 0.0, {"clipped_low": 0, "clipped_high": 1}),  # 1.3 * 2; no further push up
        (0.5, 2.0, -1.0, -1.0, {"clipped_low": 0, "clipped_high": 0}),  # a good token that fell may rise again
        (0.5, -2.0, 1.6, 0.0, {"clipped_low": 1, "clipped_high": 0}),  # 0.8 * -2; no further push down
        (1.5, -2.0, 3.0, 3.0, {"clipped_low": 0, "clipped_high": 0}),  # a bad token that rose is pushed in full
        (3.0, 0.0, 0.0, 0.0, {"clipped_low": 0, "clipped_high": 0}),
    ],
)
def test_the_clip_holds_back_only_what_would_go_further(ratio, advantage, loss, slope, clipped):
    found_loss, found_slope, counts = surrogate_of_one_token(ratio, advantage)
    assert found_loss == pytest.approx(loss, abs=1e-6)
    assert found_slope == pytest.approx(slope, abs=1e-6)
    assert counts == clipped


def test_k3_golden():
    # d = ln 2: 2 - ln 2 - 1 = 0.306853; d = -ln 2: 0.5 + ln 2 - 1 = 0.193147; weights 0.5 each: 0.25
    logprobs = torch.tensor([-2.0, -1.0])
    reference = logprobs + torch.tensor([math.log(2), -math.log(2)])
    penalty, metrics = k3_penalty(logprobs, reference_N=reference, weights_N=torch.full((2,), 0.5))
    assert float(penalty) == pytest.approx(0.25, abs=1e-6)
    assert float(metrics["kl"]) == pytest.approx(0.25, abs=1e-6)


def test_k3_pulls_towards_the_reference():
    logprobs = torch.tensor([-2.0, -1.0], requires_grad=True)
    penalty, _ = k3_penalty(logprobs, reference_N=torch.tensor([-1.0, -2.0]), weights_N=torch.ones(2))
    penalty.backward()
    assert logprobs.grad[0] < 0 < logprobs.grad[1]  # descent raises the first and lowers the second


def test_the_penalty_reads_temperature_one_and_the_surrogate_the_sampling_temperature():
    at_temperature, at_one = torch.tensor([-1.0], requires_grad=True), torch.tensor([-3.0], requires_grad=True)
    loss, metrics = policy_loss(
        at_temperature, at_one, behavior_N=torch.tensor([-1.0]), advantages_N=torch.tensor([2.0]),
        reference_N=torch.tensor([-3.0 + math.log(2)]), weights_N=torch.ones(1), options=TrainOptions(kl_coef=0.1),
    )  # fmt: skip
    loss.backward()
    assert float(loss.detach()) == pytest.approx(-2.0 + 0.1 * (1 - math.log(2)), abs=1e-6)
    assert float(at_temperature.grad) == pytest.approx(-2.0)
    assert float(at_one.grad) == pytest.approx(0.1 * (1 - 2.0), abs=1e-6)  # beta * (1 - exp(d))
    assert float(metrics["policy_loss"]) == pytest.approx(-2.0)


def test_each_aggregation_weighs_tokens_as_its_formula_says():
    import numpy as np

    unmasked = np.array([1, 3])
    assert loss_weights(unmasked, aggregation="rollout_mean").tolist() == [1 / 2, 1 / 6]
    assert loss_weights(unmasked, aggregation="token_mean").tolist() == [1 / 4, 1 / 4]
    assert loss_weights(unmasked, aggregation="constant", constant=10).tolist() == [1 / 20, 1 / 20]
