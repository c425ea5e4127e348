"""What is minimized at each token: the surrogates, pure functions that return (loss, metrics).

Dimensions: _N tokens with a loss. r = exp(logprobs - old) is the ratio to the policy the step is clipped around, A the
advantage, sg stops the gradient; logprobs carry the gradient, old does not, both at the sampling temperature. The loss
is the weighted sum of l over tokens. Metrics: clipped_low, clipped_high (tokens below the range with A < 0, above it
with A > 0) and log_ratio_N = logprobs - old. All raise LossInputError for arrays of unequal length.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.losses.inputs import check_tokens
from trainer.losses.ratio import rollout_mean

Metrics = dict[str, Tensor]


def clipped_surrogate(
    logprobs_N: Tensor,
    *,
    old_N: Tensor,
    advantages_N: Tensor,
    weights_N: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> tuple[Tensor, Metrics]:
    """GRPO / PPO clipped surrogate, negated so that it is minimized.

        l = -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)

    With dual_clip c (Ye et al., arXiv 1912.09729): where A < 0, l is at most -c A.
    """
    check_tokens(logprobs_N=logprobs_N, old_N=old_N, advantages_N=advantages_N, weights_N=weights_N)
    log_ratio_N = logprobs_N - old_N
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
    old_N: Tensor,
    advantages_N: Tensor,
    weights_N: Tensor,
    rows_N: Tensor,
    clip_low: float,
    clip_high: float,
) -> tuple[Tensor, Metrics]:
    """GSPO in its token form (Zheng et al., arXiv 2507.18071, section 4.3): the clip acts on a rollout's mean ratio.

        s = exp(mean over the rollout's tokens of (logprobs - old))
        s_t = sg(s) * exp(logprobs_t - sg(logprobs_t));   l = -min(s_t A, clip(s_t, 1 - clip_low, 1 + clip_high) A)

    With one advantage a rollout this is GSPO itself. The clip counts are those of s_t; log_ratio_N stays per token.
    """
    check_tokens(logprobs_N=logprobs_N, old_N=old_N, advantages_N=advantages_N, weights_N=weights_N, rows_N=rows_N)
    log_ratio_N = logprobs_N - old_N
    sequence_N = torch.exp(rollout_mean(log_ratio_N.detach(), rows_N))
    ratio_N = sequence_N * torch.exp(logprobs_N - logprobs_N.detach())
    surrogate_N = _lower(ratio_N, advantages_N, clip_low=clip_low, clip_high=clip_high)
    metrics = _clip_metrics(ratio_N, log_ratio_N, advantages_N, clip_low=clip_low, clip_high=clip_high)
    return -(weights_N * surrogate_N).sum(), metrics


def cispo(
    logprobs_N: Tensor,
    *,
    old_N: Tensor,
    advantages_N: Tensor,
    weights_N: Tensor,
    clip_low: float,
    clip_high: float,
) -> tuple[Tensor, Metrics]:
    """CISPO (MiniMax-M1, arXiv 2506.13585): the clipped ratio is a weight, so no token loses its gradient.

    l = -sg(clip(r, 1 - clip_low, 1 + clip_high)) A logprobs
    """
    check_tokens(logprobs_N=logprobs_N, old_N=old_N, advantages_N=advantages_N, weights_N=weights_N)
    log_ratio_N = logprobs_N - old_N
    ratio_N = torch.exp(log_ratio_N.detach())
    weight_N = ratio_N.clamp(1.0 - clip_low, 1.0 + clip_high)
    metrics = _clip_metrics(ratio_N, log_ratio_N, advantages_N, clip_low=clip_low, clip_high=clip_high)
    return -(weights_N * weight_N * advantages_N * logprobs_N).sum(), metrics


def policy_gradient(
    logprobs_N: Tensor, *, old_N: Tensor, advantages_N: Tensor, weights_N: Tensor
) -> tuple[Tensor, Metrics]:
    """Plain policy gradient, l = -A logprobs: no ratio, no clip. Metrics: log_ratio_N, for monitoring only."""
    check_tokens(logprobs_N=logprobs_N, old_N=old_N, advantages_N=advantages_N, weights_N=weights_N)
    metrics = {"log_ratio_N": (logprobs_N - old_N).detach()}
    return -(weights_N * advantages_N * logprobs_N).sum(), metrics


def next_token(logprobs_N: Tensor, *, weights_N: Tensor) -> tuple[Tensor, Metrics]:
    """Cross-entropy of the stored tokens, l = -logprobs, whatever their advantage: supervised training."""
    check_tokens(logprobs_N=logprobs_N, weights_N=weights_N)
    return -(weights_N * logprobs_N).sum(), {}


def _lower(ratio_N: Tensor, advantages_N: Tensor, *, clip_low: float, clip_high: float) -> Tensor:
    """min(r A, clip(r) A)."""
    clipped_N = ratio_N.clamp(1.0 - clip_low, 1.0 + clip_high)
    return torch.minimum(ratio_N * advantages_N, clipped_N * advantages_N)


@torch.no_grad()
def _clip_metrics(
    ratio_N: Tensor, log_ratio_N: Tensor, advantages_N: Tensor, *, clip_low: float, clip_high: float
) -> Metrics:
    return {
        "clipped_low": ((ratio_N < 1.0 - clip_low) & (advantages_N < 0)).sum(),
        "clipped_high": ((ratio_N > 1.0 + clip_high) & (advantages_N > 0)).sum(),
        "log_ratio_N": log_ratio_N.detach(),
    }
