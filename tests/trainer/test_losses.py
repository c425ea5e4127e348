"""Goldens are worked by hand with e^x to six digits; N is the number of tokens."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from trainer.errors import LossInputError
from trainer.losses import (
    LossInputs,
    cispo,
    clipped_surrogate,
    gspo,
    importance_weights,
    kept_by_ratio,
    kl_penalty,
    loss_weights,
    next_token,
    policy_gradient,
    policy_loss,
)
from trainer.options import TrainOptions


def surrogate_of_one_token(ratio: float, advantage: float) -> tuple[float, float, dict[str, float]]:
    """Loss, its derivative by the log-probability, and the clip counts, of one token; clip 0.2 / 0.3."""
    logprobs = torch.tensor([-1.0 + math.log(ratio)], requires_grad=True)
    loss, metrics = clipped_surrogate(
        logprobs,
        old_N=torch.tensor([-1.0]),
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
    penalty, metrics = kl_penalty(logprobs, reference_N=reference, weights_N=torch.full((2,), 0.5))
    assert float(penalty) == pytest.approx(0.25, abs=1e-6)
    assert float(metrics["kl"]) == pytest.approx(0.25, abs=1e-6)


def test_k3_pulls_towards_the_reference():
    logprobs = torch.tensor([-2.0, -1.0], requires_grad=True)
    penalty, _ = kl_penalty(logprobs, reference_N=torch.tensor([-1.0, -2.0]), weights_N=torch.ones(2))
    penalty.backward()
    assert logprobs.grad[0] < 0 < logprobs.grad[1]  # descent raises the first and lowers the second


@pytest.mark.parametrize(("estimator", "value"), [("k1", -0.5), ("k2", 0.125), ("k3", 0.148721), ("abs", 0.5)])
def test_each_estimator_of_the_kl_golden(estimator, value):
    # d = 0.5: e^0.5 - 0.5 - 1 = 0.148721
    arguments = {"reference_N": torch.tensor([-1.5]), "weights_N": torch.ones(1), "estimator": estimator}
    assert float(kl_penalty(torch.tensor([-2.0]), **arguments)[0]) == pytest.approx(value, abs=1e-6)


def test_dual_clip_bounds_what_a_bad_token_that_rose_can_cost():
    logprobs = torch.tensor([0.0, -1.0], requires_grad=True)  # r = e^3 = 20 and e^2 = 7.4
    behavior, advantages = torch.full((2,), -3.0), torch.tensor([-1.0, 1.0])
    given = {"old_N": behavior, "advantages_N": advantages, "weights_N": torch.ones(2)}
    plain, _ = clipped_surrogate(logprobs, **given, clip_low=0.2, clip_high=0.2)
    bounded, _ = clipped_surrogate(logprobs, **given, clip_low=0.2, clip_high=0.2, dual_clip=3.0)
    assert float(plain.detach()) == pytest.approx(math.exp(3) - 1.2, rel=1e-6)
    assert float(bounded.detach()) == pytest.approx(3.0 - 1.2, rel=1e-6)
    bounded.backward()
    assert logprobs.grad.tolist() == [0.0, 0.0]


def test_gspo_clips_by_the_mean_log_ratio_of_the_rollout():
    # Rollout 0: log r = 0.4 and 0, mean 0.2, s = 1.221403 > 1.2: clipped. Rollout 1: log r = 0.1, s = 1.105171: not.
    logprobs = torch.tensor([-0.6, -1.0, -0.9], requires_grad=True)
    loss, metrics = gspo(
        logprobs, old_N=torch.full((3,), -1.0), advantages_N=torch.ones(3),
        weights_N=torch.tensor([0.25, 0.25, 0.5]), rows_N=torch.tensor([0, 0, 1]), clip_low=0.2, clip_high=0.2,
    )  # fmt: skip
    loss.backward()
    assert float(loss.detach()) == pytest.approx(-(0.5 * 1.2 + 0.5 * 1.105171), abs=1e-6)
    assert logprobs.grad.tolist() == pytest.approx([0.0, 0.0, -0.5 * 1.105171], abs=1e-6)
    assert int(metrics["clipped_high"]) == 2


def test_doubling_a_rollout_leaves_gspos_ratio_as_it_is():
    once = torch.tensor([-0.7, -1.1])
    twice = once.repeat(2)
    losses = [
        gspo(
            values, old_N=torch.full_like(values, -1.0), advantages_N=torch.ones_like(values),
            weights_N=torch.full_like(values, 1 / len(values)), rows_N=torch.zeros(len(values), dtype=torch.long),
            clip_low=0.2, clip_high=0.2,
        )[0]
        for values in (once, twice)
    ]  # fmt: skip
    assert float(losses[0]) == pytest.approx(float(losses[1]))


def test_cispo_weighs_by_the_clipped_ratio_and_keeps_every_gradient():
    logprobs = torch.tensor([-1.0], requires_grad=True)  # r = e = 2.718 -> 1.2
    loss, _ = cispo(
        logprobs, old_N=torch.tensor([-2.0]), advantages_N=torch.tensor([2.0]), weights_N=torch.ones(1),
        clip_low=0.2, clip_high=0.2,
    )  # fmt: skip
    loss.backward()
    assert float(loss.detach()) == pytest.approx(2.4)
    assert float(logprobs.grad) == pytest.approx(-2.4)


def test_the_plain_policy_gradient_reads_no_ratio():
    logprobs = torch.tensor([-1.0], requires_grad=True)
    given = {"advantages_N": torch.tensor([2.0]), "weights_N": torch.ones(1)}
    loss, _ = policy_gradient(logprobs, old_N=torch.tensor([-9.0]), **given)
    loss.backward()
    assert (float(loss.detach()), float(logprobs.grad)) == (2.0, -2.0)


def test_the_penalty_reads_temperature_one_and_the_surrogate_the_sampling_temperature():
    at_temperature, at_one, entropy = (torch.tensor([value], requires_grad=True) for value in (-1.0, -3.0, 0.5))
    inputs = LossInputs(
        logprobs_N=at_temperature, logprobs_t1_N=at_one, entropy_N=entropy, behavior_N=torch.tensor([-1.0]),
        advantages_N=torch.tensor([2.0]), reference_N=torch.tensor([-3.0 + math.log(2)]), weights_N=torch.ones(1),
        rows_N=torch.zeros(1, dtype=torch.long),
    )  # fmt: skip
    loss, metrics = policy_loss(inputs, TrainOptions(kl_coef=0.1, entropy_coef=0.01))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(-2.0 + 0.1 * (1 - math.log(2)) - 0.01 * 0.5, abs=1e-6)
    assert float(at_temperature.grad) == pytest.approx(-2.0)
    assert float(at_one.grad) == pytest.approx(0.1 * (1 - 2.0), abs=1e-6)  # beta * (1 - exp(d))
    assert float(entropy.grad) == pytest.approx(-0.01)
    assert float(metrics["policy_loss"]) == pytest.approx(-2.0)
    assert metrics["loss"] == loss


def test_each_aggregation_weighs_tokens_as_its_formula_says():
    unmasked = np.array([1, 3])
    assert loss_weights(unmasked, aggregation="rollout_mean").tolist() == [1 / 2, 1 / 6]
    assert loss_weights(unmasked, aggregation="token_mean").tolist() == [1 / 4, 1 / 4]
    assert loss_weights(unmasked, aggregation="constant", constant=10).tolist() == [1 / 20, 1 / 20]


ROWS_N = torch.tensor([0, 0, 1])
LOG_RATIO = torch.log(torch.tensor([3.0, 0.5, 0.25]))  # products 1.5 and 0.25, geometric means 1.224745 and 0.25


@pytest.mark.parametrize(
    ("level", "cap", "expected"),
    [
        ("token", math.inf, [3.0, 0.5, 0.25]),
        ("token", 2.0, [2.0, 0.5, 0.25]),
        ("sequence", math.inf, [1.5, 1.5, 0.25]),
        ("sequence", 1.25, [1.25, 1.25, 0.25]),
    ],
)
def test_importance_weights_are_the_truncated_ratio_of_a_token_or_its_rollout(level, cap, expected):
    found = importance_weights(LOG_RATIO, rows_N=ROWS_N, level=level, cap=cap)
    assert found.tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("level", "low", "high", "kept"),
    [
        ("token", 0.4, 4.0, [True, True, False]),
        ("token", 0.4, 2.0, [False, True, False]),
        ("sequence", 0.4, 2.0, [True, True, False]),
        ("geometric", 0.4, 1.3, [True, True, False]),
        ("geometric", 0.2, 1.2, [False, False, True]),
        ("veto", 0.2, 2.0, [False, False, True]),
        ("veto", 0.4, 4.0, [True, True, False]),
    ],
)
def test_what_lies_outside_the_range_is_rejected(level, low, high, kept):
    assert kept_by_ratio(LOG_RATIO, rows_N=ROWS_N, level=level, low=low, high=high).tolist() == kept


def test_a_long_rollout_overflows_neither_its_weight_nor_its_ratio():
    logs, rows = torch.full((500,), 0.5), torch.zeros(500, dtype=torch.long)  # the product is e^250
    assert importance_weights(logs, rows_N=rows, level="sequence", cap=2.0).tolist() == [2.0] * 500
    assert not kept_by_ratio(logs, rows_N=rows, level="sequence", low=0.0, high=2.0).any()
    assert kept_by_ratio(logs, rows_N=rows, level="geometric", low=0.5, high=2.0).all()


def test_a_correction_looks_at_the_old_policy_where_there_is_one_and_at_the_current_one_otherwise():
    logprobs = torch.tensor([-2.0 + math.log(1.5)], requires_grad=True)
    inputs = LossInputs(
        logprobs_N=logprobs, logprobs_t1_N=logprobs, behavior_N=torch.tensor([-2.0]), advantages_N=torch.ones(1),
        weights_N=torch.ones(1), rows_N=torch.zeros(1, dtype=torch.long),
    )  # fmt: skip
    decoupled = TrainOptions(old_policy="recompute", importance="token", importance_cap=math.inf, clip_high=9.0)
    old = torch.tensor([-2.0 + math.log(3.0)])
    loss, metrics = policy_loss(replace(inputs, old_N=old), decoupled)
    assert float(loss.detach()) == pytest.approx(-3.0 * 0.5, rel=1e-6)  # w = old / behavior = 3, r = pi / old = 0.5
    assert float(metrics["log_mismatch_N"]) == pytest.approx(math.log(3.0), rel=1e-6)
    bypass = TrainOptions(loss="policy_gradient", importance="token", importance_cap=1.25)
    loss, metrics = policy_loss(inputs, bypass)
    assert float(loss.detach()) == pytest.approx(1.25 * (2.0 - math.log(1.5)), rel=1e-6)
    loss.backward()
    assert float(logprobs.grad) == pytest.approx(-1.25)  # the weight carries no gradient
    assert "log_mismatch_N" not in metrics


def test_a_rejected_token_adds_nothing_and_its_kl_and_weight_stay():
    logprobs = torch.tensor([-1.0, -1.0], requires_grad=True)
    inputs = LossInputs(
        logprobs_N=logprobs, logprobs_t1_N=logprobs, behavior_N=torch.tensor([-1.0, -4.0]), advantages_N=torch.ones(2),
        reference_N=torch.full((2,), -1.0 + math.log(2)), weights_N=torch.full((2,), 0.5), rows_N=torch.tensor([0, 1]),
    )  # fmt: skip
    loss, metrics = policy_loss(inputs, TrainOptions(kl_coef=1.0, reject="token", reject_low=0.5, reject_high=2.0))
    assert int(metrics["rejected"]) == 1
    assert float(metrics["policy_loss"]) == pytest.approx(-0.5)
    assert float(loss.detach()) == pytest.approx(-0.5 + (1 - math.log(2)), abs=1e-6)


TOKENS = {name: torch.zeros(3) for name in ("logprobs_N", "logprobs_t1_N", "behavior_N", "advantages_N", "weights_N")}
INPUTS = LossInputs(**TOKENS, rows_N=torch.tensor([0, 0, 1]))


@pytest.mark.parametrize(
    ("name", "wrong", "named"),
    [
        ("behavior_N", torch.zeros(1), "'behavior_N': 1"),  # would be broadcast to every token
        ("reference_N", torch.zeros(1), "'reference_N': 1"),
        ("old_N", torch.zeros(4), "'old_N': 4"),
        ("weights_N", torch.ones(1, 3), r"weights_N is of shape \[1, 3\]"),
        ("advantages_N", torch.ones(3, dtype=torch.long), "advantages_N .* give floats"),
        ("rows_N", torch.zeros(3), "rows_N .* give int64"),
        ("entropy_N", [0.0, 0.0, 0.0], "entropy_N is a list"),
    ],
)
def test_arrays_that_are_not_one_value_per_token_are_refused_by_name(name, wrong, named):
    with pytest.raises(LossInputError, match=named):
        replace(INPUTS, **{name: wrong})


@pytest.mark.parametrize("function", [clipped_surrogate, gspo, cispo, policy_gradient])
def test_each_surrogate_refuses_to_broadcast(function):
    given = {"old_N": torch.zeros(1), "advantages_N": torch.ones(3), "weights_N": torch.ones(3)}
    given |= {"rows_N": ROWS_N} if function is gspo else {}
    given |= {} if function is policy_gradient else {"clip_low": 0.2, "clip_high": 0.2}
    with pytest.raises(LossInputError, match="'old_N': 1"):
        function(torch.zeros(3), **given)
    function(torch.zeros(3), **given | {"old_N": torch.zeros(3)})


def test_next_token_refuses_to_broadcast():
    with pytest.raises(LossInputError, match="'weights_N': 1"):
        next_token(torch.zeros(3), weights_N=torch.ones(1))


def test_the_penalty_refuses_an_unknown_estimator_and_a_reference_of_another_length():
    given = {"reference_N": torch.zeros(3), "weights_N": torch.ones(3)}
    with pytest.raises(LossInputError, match="estimator is 'k4'; did you mean 'k"):
        kl_penalty(torch.zeros(3), **given, estimator="k4")
    with pytest.raises(LossInputError, match="'reference_N': 1"):
        kl_penalty(torch.zeros(3), **given | {"reference_N": torch.zeros(1)})
    with pytest.raises(LossInputError, match="'logprobs_N': 1"):
        kl_penalty(torch.zeros(1), **given)


def test_corrections_refuse_an_unknown_level_a_wrong_range_and_other_lengths():
    for function, limits in ((importance_weights, {"cap": 2.0}), (kept_by_ratio, {"low": 0.5, "high": 2.0})):
        with pytest.raises(LossInputError, match="level is 'sequnce'; did you mean 'sequence'"):
            function(LOG_RATIO, rows_N=ROWS_N, level="sequnce", **limits)
        with pytest.raises(LossInputError, match="'rows_N': 2"):
            function(LOG_RATIO, rows_N=ROWS_N[:2], level="token", **limits)
    for cap in (0.0, math.nan):
        with pytest.raises(LossInputError, match="cap is"):
            importance_weights(LOG_RATIO, rows_N=ROWS_N, level="token", cap=cap)
    for low, high in ((2.0, 0.5), (-1.0, 1.0), (0.5, math.nan)):
        with pytest.raises(LossInputError, match="not a range"):
            kept_by_ratio(LOG_RATIO, rows_N=ROWS_N, level="token", low=low, high=high)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"aggregation": "token"}, "aggregation is 'token'; did you mean 'token_mean'"),
        ({"aggregation": "constant"}, "constant is None"),
        ({"aggregation": "constant", "constant": 0.0}, "constant is 0.0"),
    ],
)
def test_weights_refuse_an_unknown_aggregation_and_a_missing_constant(given, named):
    with pytest.raises(LossInputError, match=named):
        loss_weights(np.array([1, 3]), **given)


def test_weights_refuse_a_rollout_without_a_token():
    with pytest.raises(LossInputError, match="one count above 0 per rollout"):
        loss_weights(np.array([1, 0]), aggregation="rollout_mean")


@pytest.mark.parametrize("options", [TrainOptions(kl_coef=0.1), TrainOptions(entropy_coef=0.1)])
def test_a_term_with_a_weight_but_no_values_is_refused(options):
    with pytest.raises(LossInputError, match="is not given"):
        policy_loss(INPUTS, options)


def test_the_inputs_of_a_rollout_are_its_tokens_alone():
    inputs = replace(INPUTS, advantages_N=torch.tensor([1.0, 2.0, 3.0]), old_N=torch.tensor([4.0, 5.0, 6.0]))
    alone = inputs.of_rollout(0)
    assert (alone.advantages_N.tolist(), alone.old_N.tolist(), len(alone.rows_N)) == ([1.0, 2.0], [4.0, 5.0], 2)
    assert alone.reference_N is None
