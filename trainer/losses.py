"""Losses: pure functions of per-token arrays.

Dimensions: _N tokens with a loss, laid end to end over any number of rollouts. Each function returns
(loss, metrics): the loss is a weighted sum, loss = sum_n weights[n] * l[n], metrics are sums over tokens too. Weights
hold every denominator (`batching.loss_weights`), so sums over micro-batches are those of the step, however it is cut.
Log-probabilities are natural logs, float32.
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
) -> tuple[Tensor, Metrics]:
    """GRPO / PPO clipped surrogate (pass.md section 6), negated so that it is minimized.

        r = exp(logprobs - behavior)
        l = -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)

    logprobs_N carry the gradient and are at the sampling temperature, as behavior_N are. Metrics: `clipped_low` and
    `clipped_high`, the tokens whose gradient the clip cut off (A < 0 below the range, A > 0 above it); `log_ratio_N`.
    """
    log_ratio_N = logprobs_N - behavior_N
    ratio_N = torch.exp(log_ratio_N)
    clipped_N = ratio_N.clamp(1.0 - clip_low, 1.0 + clip_high)
    surrogate_N = torch.minimum(ratio_N * advantages_N, clipped_N * advantages_N)
    with torch.no_grad():
        metrics = {
            "clipped_low": ((ratio_N < 1.0 - clip_low) & (advantages_N < 0)).sum(),
            "clipped_high": ((ratio_N > 1.0 + clip_high) & (advantages_N > 0)).sum(),
            "log_ratio_N": log_ratio_N.detach(),
        }
    return -(weights_N * surrogate_N).sum(), metrics


def k3_penalty(logprobs_N: Tensor, *, reference_N: Tensor, weights_N: Tensor) -> tuple[Tensor, Metrics]:
    """KL(policy || reference) by the k3 estimator (pass.md section 6; Schulman, http://joschu.net/blog/kl-approx.html).

        d = reference - logprobs;   l = exp(d) - d - 1 >= 0

    Both at temperature 1, full vocabulary. Metrics: `kl`, the weighted sum itself.
    """
    d_N = reference_N - logprobs_N
    penalty = (weights_N * (torch.exp(d_N) - d_N - 1.0)).sum()
    return penalty, {"kl": penalty.detach()}


def policy_loss(
    logprobs_N: Tensor,
    logprobs_t1_N: Tensor,
    *,
    behavior_N: Tensor,
    advantages_N: Tensor,
    reference_N: Tensor | None,
    weights_N: Tensor,
    options: TrainOptions,
) -> tuple[Tensor, Metrics]:
    """clipped_surrogate + kl_coef * k3_penalty: the surrogate at the sampling temperature, the penalty at 1.

    Metrics: those of both parts, `policy_loss` and `loss`. reference_N may be None where kl_coef is 0.
    """
    loss, metrics = clipped_surrogate(
        logprobs_N,
        behavior_N=behavior_N,
        advantages_N=advantages_N,
        weights_N=weights_N,
        clip_low=options.clip_low,
        clip_high=options.clip_high,
    )
    metrics["policy_loss"] = loss.detach()
    if reference_N is not None:
        penalty, kl_metrics = k3_penalty(logprobs_t1_N, reference_N=reference_N, weights_N=weights_N)
        loss = loss + options.kl_coef * penalty
        metrics |= kl_metrics
    return loss, metrics | {"loss": loss.detach()}
