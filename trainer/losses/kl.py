"""The penalty that keeps the policy near a reference."""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.losses.inputs import check_choice, check_tokens
from trainer.options import KlEstimator


def kl_penalty(
    logprobs_N: Tensor, *, reference_N: Tensor, weights_N: Tensor, estimator: KlEstimator = "k3"
) -> tuple[Tensor, dict[str, Tensor]]:
    """KL(policy || reference), estimated from one sample per token (http://joschu.net/blog/kl-approx.html).

        d = reference - logprobs;   k3: exp(d) - d - 1   k2: d^2 / 2   k1: -d   abs: |d|

    Both at temperature 1, full vocabulary. k3 is the paper's; as a loss, k1 has zero gradient in expectation. Metrics:
    `kl`, the weighted sum itself. Raises LossInputError.
    """
    check_tokens(logprobs_N=logprobs_N, reference_N=reference_N, weights_N=weights_N)
    check_choice("estimator", estimator, KlEstimator)
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
