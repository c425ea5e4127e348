"""Off-policy corrections: weights for tokens, and rejected tokens, by the ratio of the trained policy to the sampler.

Dimensions: _N tokens with a loss; rows_N says which rollout a token belongs to. c = exp(log_ratio), log_ratio = log pi
of the trained side (the recomputed old policy, or the current one where none is recomputed) - log mu of the sampler,
both at the sampling temperature. Nothing here carries a gradient. Weighting and rejection are separate on purpose: a
weight corrects the expectation, a rejection discards a sample; denominators count rejected tokens too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.errors import LossInputError
from trainer.losses.inputs import check_choice, check_tokens
from trainer.losses.ratio import rollout_mean, rollout_sum
from trainer.options import ImportanceLevel, RejectLevel

# exp of 20 is 5e8: no sum of log-ratios overflows float32, whatever the length of a rollout.
LARGEST_LOG = 20.0


def importance_weights(log_ratio_N: Tensor, *, rows_N: Tensor, level: ImportanceLevel, cap: float) -> Tensor:
    """Truncated importance weights w = min(c, cap) (TIS; Espeholt et al., arXiv 1802.01561).

    level token: c of the token; sequence: the product of c over the rollout, the same at each of its tokens. cap may
    be infinite: the weights are then not truncated. Raises LossInputError.
    """
    check_tokens(log_ratio_N=log_ratio_N, rows_N=rows_N)
    check_choice("level", level, ImportanceLevel)
    if not cap > 0:
        raise LossInputError(f"cap is {cap}; importance weights are truncated there, give a number above 0.")
    logs_N = rollout_sum(log_ratio_N, rows_N) if level == "sequence" else log_ratio_N
    return torch.exp(logs_N.clamp(-LARGEST_LOG, LARGEST_LOG)).clamp(max=cap)


def kept_by_ratio(log_ratio_N: Tensor, *, rows_N: Tensor, level: RejectLevel, low: float, high: float) -> Tensor:
    """True where the ratio lies in [low, high]; tokens outside are rejected.

    level token: c of each token (with token weights and no cap: IcePop, arXiv 2510.18855); sequence: the product over
    the rollout; geometric: its geometric mean, which does not grow with length; veto: a rollout is rejected as soon as
    one of its tokens lies outside. Raises LossInputError.
    """
    check_tokens(log_ratio_N=log_ratio_N, rows_N=rows_N)
    check_choice("level", level, RejectLevel)
    if not 0 <= low < high:
        raise LossInputError(f"[{low}, {high}] is not a range of ratios; give 0 <= low < high.")
    if level == "sequence":
        log_ratio_N = rollout_sum(log_ratio_N, rows_N)
    elif level == "geometric":
        log_ratio_N = rollout_mean(log_ratio_N, rows_N)
    ratio_N = torch.exp(log_ratio_N.clamp(-LARGEST_LOG, LARGEST_LOG))
    inside_N = (ratio_N >= low) & (ratio_N <= high)
    if level == "veto":
        return rollout_sum((~inside_N).to(log_ratio_N.dtype), rows_N) == 0
    return inside_N
