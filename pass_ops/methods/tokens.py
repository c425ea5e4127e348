"""Methods over the sampled tokens' ids and entropies: further columns of the table, `token_ids` and `entropy`."""

from __future__ import annotations

import numpy as np

from pass_ops.errors import EstimatorError
from pass_ops.group import Group, reads
from pass_ops.methods.common import Floats, masked_norm, on_tokens, rewards, token_column
from pass_ops.options.config import ShapingConfig

ROUNDING = 1e-3  # of an entropy that float32 logits give, in nats


@reads("token_ids")
def tempo(group: Group, config: ShapingConfig) -> list[Floats]:
    """TEMPO (arXiv 2509.18314): GRPO, and at tokens where the group's rollouts part what the chosen branch is worth.

        A(i, t) = (x_i - mean(x) + V(ids_i[:t]) - V(ids_i[:t - 1])) / (std(x) + eps)

    V(prefix) is the mean reward of the group's rollouts that begin with it, masked tokens included; t from 1.
    0 in a group of equal rewards.
    """
    x_G = rewards(group, config)
    standard_G = masked_norm(x_G, config)
    advantages = on_tokens(group, standard_G)
    if not standard_G.any():
        return advantages
    scale = x_G.std(ddof=config.std_ddof) + config.std_eps
    ids = token_column(group, "token_ids")
    same, before_G = [0] * len(x_G), np.full(len(x_G), x_G.mean())  # each rollout's branch and its V
    alive = list(range(len(x_G)))
    for t in range(max(map(len, ids))):
        branches: dict[tuple[int, int], list[int]] = {}
        for i in alive:
            if len(ids[i]) > t:
                branches.setdefault((same[i], int(ids[i][t])), []).append(i)
        for branch, members in enumerate(branches.values()):
            value = x_G[members].mean()
            for i in members:
                advantages[i][t] += (value - before_G[i]) / scale
                same[i], before_G[i] = branch, value
        alive = [i for members in branches.values() if len(members) > 1 for i in members]
        if not alive:  # nobody shares a prefix any more
            break
    return advantages


def _entropies(group: Group) -> list[Floats]:
    """The column entropy in float64; what rounding leaves just below 0 is 0.

    Raises:
        EstimatorError: see `token_column`; or one below 0 at a token that counts.
    """
    found = [np.asarray(h, dtype=np.float64) for h in token_column(group, "entropy")]
    for i, (h, mask) in enumerate(zip(found, group.mask, strict=True)):
        wrong = mask & (h < -ROUNDING)
        if wrong.any():
            raise EstimatorError(
                f"rollout {i} of the group: entropy is {h[np.argmax(wrong)]:g} at token {int(np.argmax(wrong))}, which "
                "counts; an entropy is at least 0, and log-probabilities in its place would turn the credit round; "
                "store entropies (generate.sampling.token_statistics)"
            )
    return [np.maximum(h, 0.0) for h in found]


@reads("entropy")
def entropy_top(group: Group, config: ShapingConfig, *, keep: float = 0.2) -> list[Floats]:
    """The 80/20 rule (arXiv 2506.01939): GRPO at the tokens of highest entropy, 0 at the others.

    A(i, t) = N(x_i) where H(i, t) >= the (1 - keep) quantile (linear) of H over the group's unmasked tokens. The paper
    and TRL take the quantile over the training batch; a shard's values must not depend on which groups share a batch.
    """
    entropy = _entropies(group)
    counted = np.concatenate([h[mask] for h, mask in zip(entropy, group.mask, strict=True)])
    threshold = np.quantile(counted, 1.0 - keep) if len(counted) else 0.0
    standard = on_tokens(group, masked_norm(rewards(group, config), config))
    return [values * (h >= threshold) for values, h in zip(standard, entropy, strict=True)]


@reads("entropy")
def gtpo(group: Group, config: ShapingConfig, *, reward_share: float = 1.0, entropy_share: float = 0.1) -> list[Floats]:
    """GTPO (arXiv 2508.04349, Eq. 3, 5, 6): rewards by a token's share of the entropy at its place in the group.

        r(i, t) = a1 * outcome_i + a2 * d_t H(i, t) / sum_k H(k, t)             right rollouts
        r(i, t) = -a1 - a2 * h_t (1 / H(i, t)) / sum_k (1 / H(k, t))            wrong ones
        A(i, t) = N(r(i, t))                     over the tokens of the right rollouts, and over those of the wrong ones

    d_t (h_t) are the right (wrong) rollouts with an unmasked token at place t, over which k runs; 1e-8 is added to an
    entropy that divides. Right is an outcome above 0.5.
    """
    entropy = _entropies(group)
    longest = max(map(len, group.mask))
    entropy_GT, mask_GT = np.zeros((len(group), longest)), np.zeros((len(group), longest), dtype=np.bool_)
    for i, (h, mask) in enumerate(zip(entropy, group.mask, strict=True)):
        entropy_GT[i, : len(h)], mask_GT[i, : len(h)] = h, mask
    advantages_GT = np.zeros_like(entropy_GT)
    for right in (True, False):
        counted_GT = mask_GT & ((group.outcome > 0.5) == right)[:, None]
        shares_GT = np.where(counted_GT, entropy_GT if right else 1.0 / (entropy_GT + 1e-8), 0.0)
        sums_T = shares_GT.sum(axis=0)
        # Divided before it is multiplied: alone at its place a token has exactly 1, and equal rewards stay equal.
        spread_GT = counted_GT.sum(axis=0) * (shares_GT / np.where(sums_T > 0, sums_T, 1.0))
        base_GT = group.outcome[:, None] if right else np.ones((len(group), 1))
        rewards_GT = (1.0 if right else -1.0) * (reward_share * base_GT + entropy_share * spread_GT)
        advantages_GT[counted_GT] = masked_norm(rewards_GT[counted_GT], config)
    return [advantages_GT[i, : len(mask)] for i, mask in enumerate(group.mask)]
