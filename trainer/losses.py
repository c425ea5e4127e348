"""Losses: pure functions of per-token arrays.

Dimensions: _N tokens with a loss, laid end to end over any number of rollouts; rows_N says which rollout a token is of,
and a rollout is never split. Each function returns (loss, metrics): the loss is a weighted sum,
loss = sum_n weights[n] * l[n], metrics are sums over tokens too. Weights hold every denominator
(`batching.loss_weights`), so sums over micro-batches are those of the step, however it is cut. Log-probabilities are
natural logs, float32. r = exp(logprobs - behavior) is the ratio to the sampler, A the advantage, sg stops the gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.options import TrainOptions

Metrics = dict[str, Tensor]


def clipped_surrogate(
    logprobs_N: Tensor,
    *,
    behavior_N: Tensor,
    advantages_N: Tensor,
    weights_N: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> tuple[Tensor, Metrics]:
    """GRPO / PPO clipped surrogate (pass.md section 6), negated so that it is minimized.

        l = -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)

    With dual_clip c (Ye et al., arXiv 1912.09729): where A < 0, l is at most -c A. logprobs_N carry the gradient and
    are at the sampling temperature, as behavior_N are. Metrics: `_clip_metrics`.
    """
    log_ratio_N = logprobs_N - behavior_N
    ratio_N = torch.exp(log_ratio_N)
    surrogate_N = _lower(ratio_N, advantages_N, clip_low=clip_low, clip_high=clip_high)
    if dual_clip is not None:
        bounded_N = torch.maximum(surrogate_N, dual_clip * advantages_N)
        surrogate_N = torch.where(advantages_N < 0, bounded_N, surrogate_N)
    metrics = _clip_metrics(ratio_N, log_ratio_N, advantages_N, clip_low=clip_low, clip_high=clip_high)
    return -(weights_N * surrogate_N).sum(), metrics


def gspo(
    logprobs_N: Tensor,
    *,
    behavior_N: Tensor,
    advantages_N: Tensor,
    weights_N: Tensor,
    rows_N: Tensor,
    clip_low: float,
    clip_high: float,
) -> tuple[Tensor, Metrics]:
    """GSPO in its token form (Zheng et al., arXiv 2507.18071, section 4.3): the clip looks at a rollout's mean ratio.

        s = exp(mean over the rollout's tokens of (logprobs - behavior))
        s_t = sg(s) * exp(logprobs_t - sg(logprobs_t));   l = -min(s_t A, clip(s_t, 1 - clip_low, 1 + clip_high) A)

    With one advantage a rollout this is GSPO itself. Metrics: `_clip_metrics` of s_t; `log_ratio_N` stays per token.
    """
    log_ratio_N = logprobs_N - behavior_N
    with torch.no_grad():
        sums = torch.zeros(int(rows_N.max()) + 1, dtype=log_ratio_N.dtype, device=log_ratio_N.device)
        means = sums.index_add(0, rows_N, log_ratio_N) / torch.bincount(rows_N).clamp(min=1)
        sequence_N = torch.exp(means[rows_N])
    ratio_N = sequence_N * torch.exp(logprobs_N - logprobs_N.detach())
    surrogate_N = _lower(ratio_N, advantages_N, clip_low=clip_low, clip_high=clip_high)
    metrics = _clip_metrics(ratio_N, log_ratio_N, advantages_N, clip_low=clip_low, clip_high=clip_high)
    return -(weights_N * surrogate_N).sum(), metrics


def cispo(
    logprobs_N: Tensor,
    *,
    behavior_N: Tensor,
    advantages_N: Tensor,
    weights_N: Tensor,
    clip_low: float,
    clip_high: float,
) -> tuple[Tensor, Metrics]:
    """CISPO (MiniMax-M1, arXiv 2506.13585): the clipped ratio is a weight, so no token loses its gradient.

    l = -sg(clip(r, 1 - clip_low, 1 + clip_high)) A logprobs
    """
    log_ratio_N = logprobs_N - behavior_N
    ratio_N = torch.exp(log_ratio_N.detach())
    weight_N = ratio_N.clamp(1.0 - clip_low, 1.0 + clip_high)
    metrics = _clip_metrics(ratio_N, log_ratio_N, advantages_N, clip_low=clip_low, clip_high=clip_high)
    return -(weights_N * weight_N * advantages_N * logprobs_N).sum(), metrics


def policy_gradient(
    logprobs_N: Tensor, *, behavior_N: Tensor, advantages_N: Tensor, weights_N: Tensor
) -> tuple[Tensor, Metrics]:
    """Plain policy gradient, l = -A logprobs: no ratio, no clip. Metrics: `log_ratio_N`, for watching only."""
    metrics = {"log_ratio_N": (logprobs_N - behavior_N).detach()}
    return -(weights_N * advantages_N * logprobs_N).sum(), metrics


def kl_penalty(
    logprobs_N: Tensor, *, reference_N: Tensor, weights_N: Tensor, estimator: str = "k3"
) -> tuple[Tensor, Metrics]:
    """KL(policy || reference) from one sample a token (pass.md section 6; http://joschu.net/blog/kl-approx.html).

        d = reference - logprobs;   k3: exp(d) - d - 1   k2: d^2 / 2   k1: -d   abs: |d|

    Both at temperature 1, full vocabulary. k3 is the paper's; as a loss, k1 pushes nowhere in expectation. Metrics:
    `kl`, the weighted sum itself.
    """
    d_N = reference_N - logprobs_N
    if estimator == "k1":
        values_N = -d_N
    elif estimator == "k2":
        values_N = d_N.square() / 2
    elif estimator == "k3":
        values_N = torch.exp(d_N) - d_N - 1.0
    else:
        values_N = d_N.abs()
    penalty = (weights_N * values_N).sum()
    return penalty, {"kl": penalty.detach()}


def policy_loss(
    logprobs_N: Tensor,
    logprobs_t1_N: Tensor,
    entropy_N: Tensor,
    *,
    behavior_N: Tensor,
    advantages_N: Tensor,
    reference_N: Tensor | None,
    weights_N: Tensor,
    rows_N: Tensor,
    options: TrainOptions,
) -> tuple[Tensor, Metrics]:
    """Surrogate + kl_coef * KL - entropy_coef * entropy; surrogate and entropy at the sampling temperature, KL at 1.

    Metrics: those of the parts, `policy_loss` and `loss`. reference_N may be None where kl_coef is 0.
    """
    given = {"behavior_N": behavior_N, "advantages_N": advantages_N, "weights_N": weights_N}
    clip = {"clip_low": options.clip_low, "clip_high": options.clip_high}
    if options.loss == "clip":
        loss, metrics = clipped_surrogate(logprobs_N, **given, **clip, dual_clip=options.dual_clip)
    elif options.loss == "gspo":
        loss, metrics = gspo(logprobs_N, **given, **clip, rows_N=rows_N)
    elif options.loss == "cispo":
        loss, metrics = cispo(logprobs_N, **given, **clip)
    else:
        loss, metrics = policy_gradient(logprobs_N, **given)
    metrics["policy_loss"] = loss.detach()
    if reference_N is not None:
        penalty, kl_metrics = kl_penalty(
            logprobs_t1_N, reference_N=reference_N, weights_N=weights_N, estimator=options.kl_estimator
        )
        loss = loss + options.kl_coef * penalty
        metrics |= kl_metrics
    if options.entropy_coef:
        loss = loss - options.entropy_coef * (weights_N * entropy_N).sum()
    return loss, metrics | {"loss": loss.detach()}


def _lower(ratio_N: Tensor, advantages_N: Tensor, *, clip_low: float, clip_high: float) -> Tensor:
    """min(r A, clip(r) A)."""
    clipped_N = ratio_N.clamp(1.0 - clip_low, 1.0 + clip_high)
    return torch.minimum(ratio_N * advantages_N, clipped_N * advantages_N)


@torch.no_grad()
def _clip_metrics(
    ratio_N: Tensor, log_ratio_N: Tensor, advantages_N: Tensor, *, clip_low: float, clip_high: float
) -> Metrics:
    """clipped_low, clipped_high: tokens below the range with A < 0, above it with A > 0; and log_ratio_N."""
    return {
        "clipped_low": ((ratio_N < 1.0 - clip_low) & (advantages_N < 0)).sum(),
        "clipped_high": ((ratio_N > 1.0 + clip_high) & (advantages_N > 0)).sum(),
        "log_ratio_N": log_ratio_N.detach(),
    }
