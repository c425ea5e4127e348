"""Losses: pure functions of per-token arrays.

    objectives      what is minimized at each token: clipped surrogate, GSPO, CISPO, plain policy gradient, next token
    corrections     off-policy: importance weights and rejection
    kl              the penalty that holds the policy near a reference
    aggregation     the weight of each token in the step's sum: every denominator is there
    ratio           sums and means over rollouts

Dimensions: _N tokens with a loss, laid end to end over any number of rollouts; rows_N says which rollout a token is of,
and a rollout is never split. Each function returns (loss, metrics): the loss is a weighted sum,
loss = sum_n weights[n] * l[n]; metrics are sums over tokens too, or one value a token where their name ends in _N. Sums
over micro-batches are therefore those of the step, however it is cut. Log-probabilities are natural logs, float32.

Three policies (decoupled, Hilton et al., arXiv 2110.00641): mu sampled (behavior_N), old is what the step is clipped
around (old_N, recomputed by the trainer before its first update), pi is trained. Two where old_N is None: old = mu.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.losses.aggregation import loss_weights
from trainer.losses.corrections import importance_weights, kept_by_ratio
from trainer.losses.kl import kl_penalty
from trainer.losses.objectives import Metrics, cispo, clipped_surrogate, gspo, next_token, policy_gradient
from trainer.options import TrainOptions

__all__ = [
    "Metrics", "cispo", "clipped_surrogate", "corrected_weights", "gspo", "importance_weights", "kept_by_ratio",
    "kl_penalty", "loss_weights", "next_token", "policy_gradient", "policy_loss",
]  # fmt: skip


def policy_loss(
    logprobs_N: Tensor,
    logprobs_t1_N: Tensor,
    entropy_N: Tensor | None,
    *,
    behavior_N: Tensor,
    old_N: Tensor | None,
    advantages_N: Tensor,
    reference_N: Tensor | None,
    weights_N: Tensor,
    rows_N: Tensor,
    options: TrainOptions,
) -> tuple[Tensor, Metrics]:
    """Surrogate + kl_coef * KL - entropy_coef * entropy; surrogate and entropy at the sampling temperature, KL at 1.

    next_token is its loss alone, at temperature 1. Corrections act on the surrogate alone. Metrics: those of the parts,
    `log_behavior_N` (logprobs - behavior), `policy_loss` and `loss`. reference_N may be None where kl_coef is 0,
    entropy_N where entropy_coef is.
    """
    if options.loss == "next_token":
        loss, metrics = next_token(logprobs_t1_N, weights_N=weights_N)
        return loss, metrics | {"policy_loss": loss.detach(), "loss": loss.detach()}
    corrected_N, metrics = corrected_weights(
        logprobs_N, behavior_N=behavior_N, old_N=old_N, weights_N=weights_N, rows_N=rows_N, options=options
    )
    given = {
        "old_N": behavior_N if old_N is None else old_N, "advantages_N": advantages_N, "weights_N": corrected_N,
    }  # fmt: skip
    clip = {"clip_low": options.clip_low, "clip_high": options.clip_high}
    if options.loss == "clip":
        loss, found = clipped_surrogate(logprobs_N, **given, **clip, dual_clip=options.dual_clip)
    elif options.loss == "gspo":
        loss, found = gspo(logprobs_N, **given, **clip, rows_N=rows_N)
    elif options.loss == "cispo":
        loss, found = cispo(logprobs_N, **given, **clip)
    else:
        loss, found = policy_gradient(logprobs_N, **given)
    metrics |= found | {"policy_loss": loss.detach()}
    if reference_N is not None:
        penalty, found = kl_penalty(
            logprobs_t1_N, reference_N=reference_N, weights_N=weights_N, estimator=options.kl_estimator
        )
        loss = loss + options.kl_coef * penalty
        metrics |= found
    if options.entropy_coef:
        assert entropy_N is not None  # TrainOptions refuses a bonus with a head that tells no entropy
        loss = loss - options.entropy_coef * (weights_N * entropy_N).sum()
    return loss, metrics | {"loss": loss.detach()}


@torch.no_grad()
def corrected_weights(
    logprobs_N: Tensor,
    *,
    behavior_N: Tensor,
    old_N: Tensor | None,
    weights_N: Tensor,
    rows_N: Tensor,
    options: TrainOptions,
) -> tuple[Tensor, Metrics]:
    """Weights times importance weights, 0 where rejected.

    Metrics: log_behavior_N; log_mismatch_N (old - behavior) where old is recomputed; importance_N; rejected (tokens).
    """
    metrics: Metrics = {"log_behavior_N": logprobs_N - behavior_N}
    log_ratio_N = metrics["log_behavior_N"]
    if old_N is not None:
        log_ratio_N = metrics["log_mismatch_N"] = old_N - behavior_N
    if options.importance != "none":
        metrics["importance_N"] = importance_weights(
            log_ratio_N, rows_N=rows_N, level=options.importance, cap=float(options.importance_cap or 0)
        )
        weights_N = weights_N * metrics["importance_N"]
    if options.reject != "none":
        kept_N = kept_by_ratio(
            log_ratio_N,
            rows_N=rows_N,
            level=options.reject,
            low=float(options.reject_low or 0),
            high=float(options.reject_high or 0),
        )
        metrics["rejected"] = (~kept_N).sum()
        weights_N = torch.where(kept_N, weights_N, 0.0)
    return weights_N, metrics
