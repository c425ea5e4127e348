"""Methods over a process signal and the outcome.

A process score is about a step, or under `kl` about a token. Steps without an unmasked token do not exist for them.
"""

from __future__ import annotations

import numpy as np

from pass_ops.errors import EstimatorError
from pass_ops.group import Group
from pass_ops.methods.common import (
    Floats,
    live_steps,
    masked_norm,
    on_steps,
    on_tokens,
    others_mean,
    return_to_go,
    rewards,
    split,
)
from pass_ops.options.config import ShapingConfig


def pure(group: Group, config: ShapingConfig, *, temperature: float = 0.1) -> list[Floats]:
    """PURE (arXiv 2504.15275): min-form credit, a baseline for each token, return-to-go, and the others' mean reward.

        r~_j    = r_j exp(-r_j / T) / sum_j' exp(-r_j' / T)
        A(i, t) = w_prc * sum over steps j from that of t on of (r~_ij - n_ij b_i)  +  x_i - mean over i' != i of x_i'
        b_i     = sum over i' != i of sum_j r~_i'j  /  sum over i' != i of L_i'

    n_ij are the unmasked tokens of step j, L those of a rollout (the authors' reward_baseline = "token"), T -> 0 gives
    the minimum of the rollout's scores. Without other tokens b is 0.
    """
    steps = [live_steps(group, i) for i in range(len(group))]
    weighted = [_min_form(scores, temperature) for scores, _ in steps]
    sums_G = np.array([x.sum() for x in weighted])
    lengths_G = np.array([mask.sum() for mask in group.mask], dtype=np.float64)
    others_G = lengths_G.sum() - lengths_G
    baseline_G = (sums_G.sum() - sums_G) / np.maximum(others_G, 1.0)
    x_G = rewards(group, config)
    verified_G = x_G - others_mean(x_G)
    advantages = []
    for i, (_, steps_T) in enumerate(steps):
        tokens_E = np.bincount(steps_T, weights=group.mask[i])[: len(weighted[i])]
        to_go_E = return_to_go(weighted[i] - tokens_E * baseline_G[i])
        advantages.append(config.weights.process * on_steps(to_go_E, steps_T) + verified_G[i])
    return advantages


def _min_form(scores: Floats, temperature: float) -> Floats:
    if len(scores) == 0:
        return scores
    weights = np.exp((scores.min() - scores) / temperature)
    weighted: Floats = scores * (weights / weights.sum())
    return weighted


def verigate(group: Group, config: ShapingConfig) -> list[Floats]:
    """VeriGate (arXiv 2605.30451): GRPO, but where all rollouts of a group are wrong its process scores decide.

        A(i, t) = N(c_ij), c_ij = sum_(j' >= j) r_ij', j the step of t    where all outcomes are equal, and not above 0
        A(i, t) = N(x_i)                                                  elsewhere; 0 where all are right

    N over all c_ij of the group, each step once. Wrong outcomes that differ (0 and -1) are a preference of the
    verifier's, which stays in charge.
    """
    if group.outcome[0] > 0.0 or np.ptp(group.outcome) > 0.0:
        return on_tokens(group, masked_norm(rewards(group, config), config))
    steps = [live_steps(group, i) for i in range(len(group))]
    to_go = [return_to_go(scores) for scores, _ in steps]
    shaped = split(masked_norm(np.concatenate(to_go), config), to_go)
    return [config.weights.process * on_steps(x, steps_T) for x, (_, steps_T) in zip(shaped, steps, strict=True)]


def mrpo(group: Group, config: ShapingConfig, *, right_above: float = 0.6, valid_above: float = 0.5) -> list[Floats]:
    """MRPO (arXiv 2606.31825): on wrong rollouts, valid steps are rewarded and early invalid ones punished most.

        A(i, t) = N(x_i)                                  where the outcome is above right_above
        A(i, t) = abs(N(x_i))                             elsewhere, at a valid step
        A(i, t) = -abs(N(x_i)) exp(1 - j / (K_i - 1))     elsewhere, at an invalid step j = 0 .. K_i - 1

    K_i = 1 gives -abs(N). A step is valid if its process score is above valid_above. The authors' trainer rounds the
    factors to two digits.
    """
    standard_G = masked_norm(rewards(group, config), config)
    advantages = on_tokens(group, standard_G)
    for i in np.flatnonzero(group.outcome <= right_above):
        scores_E, steps_T = live_steps(group, int(i))
        places = np.arange(len(scores_E))
        invalid_E = np.exp(1 - places / (len(scores_E) - 1)) if len(scores_E) > 1 else np.ones(len(scores_E))
        factors_E = np.where(scores_E > valid_above, 1.0, -invalid_E)
        advantages[i] = abs(standard_G[i]) * on_steps(factors_E, steps_T)
    return advantages


def pav(group: Group, config: ShapingConfig, *, best_of: int = 4) -> list[Floats]:
    """Process advantage verifiers (arXiv 2410.08146) from Monte-Carlo values: the outcome, and a prover's progress.

        A(i, t) = x_i - mean(x)  +  w_prc * (B(v_ij) - B(v_i(j-1))),  j the step of t,  B(v) = 1 - (1 - v)^n

    The process scores v are the values behind each step (signal monte_carlo), v_i0 the group's mean outcome. The prover
    is the best of n samples of the policy itself; n = 1 is the policy. w_prc is the paper's alpha.

    Raises:
        EstimatorError: a value or an outcome is no probability, for which B means nothing.
    """
    x_G = rewards(group, config)
    start = group.outcome.mean()
    advantages = []
    for i, centred in enumerate(x_G - x_G.mean()):
        values_E, steps_T = live_steps(group, i)
        for name, found in (("outcome", group.outcome[i : i + 1]), ("process score", values_E)):
            wrong = (found < 0.0) | (found > 1.0)
            if wrong.any():
                raise EstimatorError(
                    f"rollout {i} of the group: {name} {found[np.argmax(wrong)]:g} is no probability, and then neither "
                    "is 1 - (1 - v)^n; give numbers from 0 to 1: values of the signal monte_carlo, and outcomes of 0 "
                    "and 1"
                )
        proven = 1.0 - (1.0 - np.concatenate([[start], values_E])) ** best_of
        advantages.append(centred + config.weights.process * on_steps(np.diff(proven), steps_T))
    return advantages
