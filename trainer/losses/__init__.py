"""Losses: pure functions of per-token arrays.

    objectives      what is minimized at each token: clipped surrogate, GSPO, CISPO, plain policy gradient, next token
    corrections     off-policy: importance weights and rejection
    kl              the penalty that keeps the policy near a reference
    aggregation     the weight of each token in the step's sum; every denominator is there
    ratio           sums and means over rollouts
    inputs          what `policy_loss` reads, and the checks of arguments

Dimensions: _N tokens with a loss, concatenated over any number of rollouts; rows_N says which rollout a token belongs
to, and a rollout is never split. Each function returns (loss, metrics): the loss is a weighted sum,
loss = sum_n weights[n] * l[n]; metrics are sums over tokens too, or one value per token where their name ends in _N.
Sums over micro-batches therefore add up to the step's, however it is cut. Log-probabilities are natural logs, float32.
Wrong lengths, types and choices raise LossInputError.

Three policies (decoupled, Hilton et al., arXiv 2110.00641): mu sampled (behavior_N), old is what the step is clipped
around (old_N, recomputed by the trainer before its first update), pi is trained. Two where old_N is None: old = mu.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainer.errors import LossInputError
from trainer.losses.aggregation import loss_weights
from trainer.losses.corrections import importance_weights, kept_by_ratio
from trainer.losses.inputs import LossInputs
from trainer.losses.kl import kl_penalty
from trainer.losses.objectives import Metrics, cispo, clipped_surrogate, gspo, next_token, policy_gradient
from trainer.options import TrainOptions

__all__ = [
    "LossInputs", "Metrics", "cispo", "clipped_surrogate", "corrected_weights", "gspo", "importance_weights",
    "kept_by_ratio", "kl_penalty", "loss_weights", "next_token", "policy_gradient", "policy_loss",
]  # fmt: skip


def policy_loss(inputs: LossInputs, options: TrainOptions) -> tuple[Tensor, Metrics]:
    """Surrogate + kl_coef * KL - entropy_coef * entropy; surrogate and entropy at the sampling temperature, KL at 1.

    With loss next_token it is the cross-entropy alone, at temperature 1. Corrections act on the surrogate alone.
    Metrics: those of the parts, `log_behavior_N` (logprobs - behavior), `policy_loss` and `loss`.

    Raises LossInputError where the KL or entropy term has a weight but no values.
    """
    if options.loss == "next_token":
        loss, metrics = next_token(inputs.logprobs_t1_N, weights_N=inputs.weights_N)
        return loss, metrics | {"policy_loss": loss.detach(), "loss": loss.detach()}
    corrected_N, metrics = corrected_weights(inputs, options)
    loss, found = _surrogate(inputs, corrected_N, options)
    metrics |= found | {"policy_loss": loss.detach()}
    if options.kl_coef and inputs.reference_N is None:
        raise LossInputError(f"kl_coef is {options.kl_coef}, but reference_N is not given.")
    if inputs.reference_N is not None:
        penalty, found = kl_penalty(
            inputs.logprobs_t1_N,
            reference_N=inputs.reference_N,
            weights_N=inputs.weights_N,
            estimator=options.kl_estimator,
        )
        loss = loss + options.kl_coef * penalty
        metrics |= found
    if options.entropy_coef:
        if inputs.entropy_N is None:
            raise LossInputError(f"entropy_coef is {options.entropy_coef}, but entropy_N is not given.")
        loss = loss - options.entropy_coef * (inputs.weights_N * inputs.entropy_N).sum()
    return loss, metrics | {"loss": loss.detach()}


def _surrogate(inputs: LossInputs, weights_N: Tensor, options: TrainOptions) -> tuple[Tensor, Metrics]:
    given: dict[str, Any] = {
        "old_N": inputs.behavior_N if inputs.old_N is None else inputs.old_N,
        "advantages_N": inputs.advantages_N,
        "weights_N": weights_N,
    }
    clip = {"clip_low": options.clip_low, "clip_high": options.clip_high}
    if options.loss == "clip":
        return clipped_surrogate(inputs.logprobs_N, **given, **clip, dual_clip=options.dual_clip)
    if options.loss == "gspo":
        return gspo(inputs.logprobs_N, **given, **clip, rows_N=inputs.rows_N)
    if options.loss == "cispo":
        return cispo(inputs.logprobs_N, **given, **clip)
    return policy_gradient(inputs.logprobs_N, **given)


@torch.no_grad()
def corrected_weights(inputs: LossInputs, options: TrainOptions) -> tuple[Tensor, Metrics]:
    """The tokens' weights times their importance weights, 0 where rejected.

    Metrics: log_behavior_N; log_mismatch_N (old - behavior) where old is recomputed; importance_N; rejected (tokens).
    """
    weights_N, rows_N = inputs.weights_N, inputs.rows_N
    metrics: Metrics = {"log_behavior_N": inputs.logprobs_N - inputs.behavior_N}
    log_ratio_N = metrics["log_behavior_N"]
    if inputs.old_N is not None:
        log_ratio_N = metrics["log_mismatch_N"] = inputs.old_N - inputs.behavior_N
    if options.importance != "none":
        assert options.importance_cap is not None  # TrainOptions requires it, and the two below
        metrics["importance_N"] = importance_weights(
            log_ratio_N, rows_N=rows_N, level=options.importance, cap=options.importance_cap
        )
        weights_N = weights_N * metrics["importance_N"]
    if options.reject != "none":
        assert options.reject_low is not None
        assert options.reject_high is not None
        kept_N = kept_by_ratio(
            log_ratio_N, rows_N=rows_N, level=options.reject, low=options.reject_low, high=options.reject_high
        )
        metrics["rejected"] = (~kept_N).sum()
        weights_N = torch.where(kept_N, weights_N, 0.0)
    return weights_N, metrics
