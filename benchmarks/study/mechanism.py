"""Where one step of each estimator moves the expected length and the pass rate, without any training.

On rollouts o of the policy pi the trainer's first step goes along

    g = E[mean over t of A_t d log pi(o_t)]

since ratios are 1 and nothing is clipped (aggregation rollout_mean, its default). For a small step e g the expectation
of anything, L(pi) = E[L(o)], moves by e <dL, g>, where

    dL = E[sum over t of (L - what is known before t - baseline) d log pi(o_t)]

Both gradients are estimated on the stored rollouts and multiplied between disjoint folds of groups only: on the same
rollouts the noise of one is that of the other, and the product would be biased. The result is the movement for a step
of norm 1, so that an estimator's scale, which a learning rate undoes, is no part of it.

Dimensions: _F folds, _D parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.demo_models.fit import pad_rows
from benchmarks.study.model import Parameters, Shape, logits
from benchmarks.study.probe import shaped_arms
from benchmarks.study.sample import Pairs
from benchmarks.study.signals import Batch, Models
from benchmarks.study.statistics import mean_estimate
from pass_ops import token_advantages

FOLDS = 16
#: rows whose activations are held at a time
ROWS = 32
Weights = Sequence[NDArray[np.float64]]
Policy = Callable[[Pairs], list[Tensor]]


@dataclass(frozen=True)
class Drift:
    """What a step of norm 1 moves, with its 95 % interval over folds."""

    value: float
    low: float
    high: float


def length_weights(lengths: Sequence[int], copies: int) -> list[NDArray[np.float64]]:
    """Per token, from its own on, the tokens that are still to come less what the group's other rollouts have there.

    What lies before a token is known before it is drawn and tells nothing about it; the other rollouts are independent
    of it, so that their mean, as a baseline, takes noise off and nothing else. Raises ValueError for single rollouts.
    """
    if copies < 2:
        raise ValueError("a group of one rollout has no others to be compared with; sample at least two a prompt")
    found = []
    for row, length in enumerate(lengths):
        first = row - row % copies
        others = np.array([lengths[other] for other in range(first, first + copies) if other != row])
        left = length - np.arange(length)
        found.append(left - np.maximum(others[:, None] - np.arange(length), 0).mean(axis=0))
    return found


def outcome_weights(outcomes: Sequence[bool], lengths: Sequence[int], copies: int) -> list[NDArray[np.float64]]:
    """Per token the outcome less the mean outcome of the group's other rollouts."""
    right = np.asarray(outcomes, float).reshape(-1, copies)
    centred = right - (right.sum(axis=1, keepdims=True) - right) / (copies - 1)
    return [np.full(length, value) for length, value in zip(lengths, centred.ravel(), strict=True)]


def gradients(policy: Policy, parameters: Sequence[Tensor], pairs: Pairs, weights: Sequence[Weights]) -> Tensor:
    """The gradients of sum_i sum_t w_it log pi(o_it) / rollouts for each set of weights, [len(weights), D]."""
    found = torch.zeros(len(weights), sum(one.numel() for one in parameters))
    for start in range(0, len(pairs), ROWS):
        logprobs = torch.cat(policy(pairs[start : start + ROWS]))
        for at, of_rows in enumerate(weights):
            flat = torch.tensor(np.concatenate(of_rows[start : start + ROWS]), dtype=logprobs.dtype)
            last = at + 1 == len(weights)
            parts = torch.autograd.grad(logprobs @ flat, list(parameters), retain_graph=not last)
            found[at] += torch.cat([part.ravel() for part in parts])
    return found / len(pairs)


def drift(towards_FD: Tensor, step_FD: Tensor) -> Drift:
    """<E towards, E step> / |E step| from estimates on disjoint folds, and its jackknife interval.

    The product is the mean over ordered pairs of different folds; the norm is that of the step over all folds. The
    interval is Student's over the jackknife's pseudo-values. Raises ValueError with fewer than three folds.
    """
    towards, step = towards_FD.double(), step_FD.double()
    products, grams = (towards @ step.T).numpy(), (step @ step.T).numpy()

    def moved(kept: Sequence[int]) -> float:
        norm = float(np.sqrt(grams[np.ix_(kept, kept)].sum())) / len(kept)
        return _crossed(products[np.ix_(kept, kept)]) / norm if norm > 0 else 0.0

    return _jackknifed(moved, len(step))


def adam(towards_FD: Tensor, step_FD: Tensor) -> Drift:
    """<E towards, E step / sqrt(E step^2)>, coordinate by coordinate, where a fold is an update: what Adam's update
    moves for each unit of the learning rate once its averages have settled, to first order.

    Adam divides by the root of the mean square of each coordinate's gradients, over many updates. So an estimator's
    scale is no part of it, but the spread of its gradients from update to update is: a few that are large make all
    steps small. The jackknife takes the root over the folds it keeps. Raises ValueError with fewer than three folds.
    Source: Kingma and Ba, Adam, 2015, algorithm 1.
    """

    def moved(kept: Sequence[int]) -> float:
        step = step_FD[list(kept)]
        scaled = step / step.square().mean(dim=0).sqrt().clamp(min=1e-12)
        return _crossed((towards_FD[list(kept)].double() @ scaled.double().T).numpy())

    return _jackknifed(moved, len(step_FD))


def _crossed(products_FF: NDArray[np.float64]) -> float:
    """The mean product over ordered pairs of different folds."""
    folds = len(products_FF)
    return float((products_FF.sum() - np.trace(products_FF)) / (folds * (folds - 1)))


def _jackknifed(moved: Callable[[Sequence[int]], float], folds: int) -> Drift:
    """What all folds say, and the jackknife's interval: each fold is left out of everything, denominators too."""
    if folds < 3:
        raise ValueError(f"{folds} folds leave no interval; give at least three")
    whole = moved(range(folds))
    without = [moved([other for other in range(folds) if other != fold]) for fold in range(folds)]
    pseudo = mean_estimate([folds * whole - (folds - 1) * one for one in without])
    assert pseudo.low is not None
    half = pseudo.value - pseudo.low
    return Drift(whole, whole - half, whole + half)


def policy_of(parameters: Parameters, shape: Shape) -> Policy:
    """Log-probabilities of completions' tokens after their prompts, with gradients to ``parameters``."""

    def logprobs(pairs: Pairs) -> list[Tensor]:
        ids = pad_rows([[*prompt, *completion] for prompt, completion in pairs], 0)
        all_BSV = torch.log_softmax(logits(parameters, ids[:, :-1], shape), dim=-1)
        chosen = all_BSV.gather(2, ids[:, 1:, None])[..., 0]
        spans = [(len(prompt) - 1, len(prompt) + len(completion) - 1) for prompt, completion in pairs]
        return [line[first:last] for line, (first, last) in zip(chosen, spans, strict=True)]

    return logprobs


def drifts(batch: Batch, models: Models, *, folds: int = FOLDS) -> Iterator[dict[str, Any]]:
    """One row an arm and level: length and pass1 that a step of norm 1 moves, each with _low and _high; tokens_a_point,
    the tokens of length for a hundredth of pass@1 (None where pass@1 does not rise); and adam_pass1 with _low and
    _high, what an update of Adam's moves pass@1 for each unit of the learning rate.
    """
    lengths = [len(one.ids) for one in batch.completions]
    arms = list(shaped_arms(batch, models))
    weights: list[Weights] = [
        length_weights(lengths, batch.copies),
        outcome_weights([one.outcome for one in batch.judged], lengths, batch.copies),
        *(_step_weights(token_advantages(shaped)) for _, _, shaped in arms),
    ]
    length_FD, right_FD, *step_FD = fold_gradients(batch, models, weights, folds=folds)
    for (arm, level, _), step in zip(arms, step_FD, strict=True):
        length, right = drift(length_FD, step), drift(right_FD, step)
        row: dict[str, Any] = {"arm": arm, "level": level}
        for name, one in (("length", length), ("pass1", right), ("adam_pass1", adam(right_FD, step))):
            row |= {name: one.value, f"{name}_low": one.low, f"{name}_high": one.high}
        yield row | {"tokens_a_point": 0.01 * length.value / right.value if right.value > 0 else None}


def fold_gradients(batch: Batch, models: Models, weights: Sequence[Weights], *, folds: int) -> Tensor:
    """The gradient of each set of weights on each fold of whole groups, [len(weights), F, D]."""
    parameters: Mapping[str, Tensor] = {name: one.clone().requires_grad_() for name, one in models.policy.items()}
    policy, found = policy_of(parameters, models.shape), []
    for part in np.array_split(np.arange(len(batch.prompts)), folds):
        rows = [group * batch.copies + copy for group in part for copy in range(batch.copies)]
        pairs = [batch.pairs[row] for row in rows]
        found.append(gradients(policy, list(parameters.values()), pairs, [[of[row] for row in rows] for of in weights]))
    return torch.stack(found, dim=1)


def _step_weights(advantages: pa.ListArray) -> Weights:
    """The trainer's weight of each token: its advantage by the rollout's tokens (aggregation rollout_mean)."""
    return [row.values.to_numpy().astype(float) / len(row) for row in advantages]
