"""The drift of one exact step: on a policy small enough to write down every completion it can give."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.study.mechanism import adam, drift, gradients, length_weights, outcome_weights

CAP = 3
#: every completion: token 0 ends it, or the cap does
EVERY = [
    ids
    for length in range(1, CAP + 1)
    for ids in itertools.product(range(3), repeat=length)
    if 0 not in ids[:-1] and (ids[-1] == 0 or length == CAP)
]


def logprobs_of(table: Tensor, completions: Sequence[Sequence[int]]) -> list[Tensor]:
    """A policy whose logits [CAP, 4, 3] depend on the position and the token before it."""
    scores = torch.log_softmax(table, dim=-1)
    return [
        torch.stack([scores[at, before, token] for at, (before, token) in enumerate(zip((3, *ids), ids, strict=False))])
        for ids in completions
    ]


def expected(table: Tensor, value: Sequence[float]) -> Tensor:
    """The expectation of a value of completions, by enumeration."""
    probabilities = torch.stack([one.sum().exp() for one in logprobs_of(table, EVERY)])
    return probabilities @ torch.tensor(value, dtype=table.dtype)


@pytest.fixture
def table() -> Tensor:
    return torch.randn(CAP, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()


def in_expectation(table: Tensor, weigh: object) -> Tensor:
    """The mean of `gradients` over every group of two completions, each by its probability."""
    total = torch.zeros(table.numel(), dtype=torch.float64)
    chances = [float(one.sum().exp()) for one in logprobs_of(table, EVERY)]
    assert sum(chances) == pytest.approx(1.0)
    for (a, p), (b, q) in itertools.product(zip(EVERY, chances, strict=True), repeat=2):
        found = gradients(lambda pairs: logprobs_of(table, [ids for _, ids in pairs]), [table], [((), a), ((), b)],
                          [weigh([a, b])])  # type: ignore[operator]  # fmt: skip
        total += p * q * found[0]
    return total


def test_the_gradient_of_expected_length_is_exact_in_expectation_whatever_the_baseline(table: Tensor) -> None:
    found = in_expectation(table, lambda group: length_weights([len(ids) for ids in group], 2))
    [exact] = torch.autograd.grad(expected(table, [len(ids) for ids in EVERY]), table)
    torch.testing.assert_close(found, exact.ravel(), atol=2e-6, rtol=1e-4)


def test_the_gradient_of_the_pass_rate_is_exact_in_expectation(table: Tensor) -> None:
    right = [1 in ids for ids in EVERY]
    found = in_expectation(
        table, lambda group: outcome_weights([1 in ids for ids in group], [len(ids) for ids in group], 2)
    )
    [exact] = torch.autograd.grad(expected(table, [float(one) for one in right]), table)
    torch.testing.assert_close(found, exact.ravel(), atol=2e-6, rtol=1e-4)


def test_a_small_step_moves_the_length_as_the_drift_says(table: Tensor) -> None:
    """Finite difference of the enumerated length along a step that rewards long completions, against the drift."""
    long = in_expectation(table, lambda group: [np.full(len(ids), float(len(ids))) for ids in group])
    [length] = torch.autograd.grad(expected(table, [len(ids) for ids in EVERY]), table)
    found = drift(length.ravel().repeat(4, 1), long.repeat(4, 1))  # folds without noise
    lengths = [float(len(ids)) for ids in EVERY]
    small = 1e-5 * (long / long.norm()).view_as(table)
    with torch.no_grad():
        moved = (expected(table + small, lengths) - expected(table - small, lengths)) / 2e-5
    assert found.value == pytest.approx(float(moved), rel=1e-4)
    assert found.value > 0
    assert found.low == pytest.approx(found.value, abs=1e-9)


def test_the_weights_of_length_by_hand() -> None:
    """Lengths 3 and 1: the longer has 3 - 1, 2 - 0, 1 - 0 to come beyond the other's; the shorter 1 - 3."""
    assert [weights.tolist() for weights in length_weights([3, 1], 2)] == [[2.0, 2.0, 1.0], [-2.0]]
    with pytest.raises(ValueError, match="at least two"):
        length_weights([3], 1)


def test_noise_that_both_gradients_share_does_not_count() -> None:
    """Ten folds of pure noise in common: within folds the product is large, between folds it is not."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(200):
        noise = torch.randn(10, 40, generator=generator)
        found.append(drift(noise, noise))
    values = np.array([one.value for one in found])
    assert abs(values.mean()) < 3 * values.std() / len(values) ** 0.5 + 0.02
    assert float((noise * noise).sum(dim=1).mean()) > 30


def test_intervals_cover_a_known_drift() -> None:
    generator = torch.Generator().manual_seed(2)
    truth = torch.zeros(30)
    truth[0] = 3.0
    covered = 0
    for _ in range(300):
        towards, step = (truth + torch.randn(8, 30, generator=generator) for _ in range(2))
        found = drift(towards, step)
        expected_norm = float(step.mean(dim=0).norm())
        covered += found.low <= 9.0 / expected_norm <= found.high
    assert covered / 300 > 0.88
    with pytest.raises(ValueError, match="at least three"):
        drift(torch.ones(2, 3), torch.ones(2, 3))


def test_adams_update_divides_by_the_root_mean_square_over_updates() -> None:
    """Coordinates (1, 1, 1, 1) and (3, -1, 3, -1) over four folds: their means by their roots are 1 and 1 / sqrt(5)."""
    step = torch.tensor([[1.0, 3.0], [1.0, -1.0], [1.0, 3.0], [1.0, -1.0]])
    towards = torch.tensor([[2.0, 10.0]]).repeat(4, 1)
    found = adam(towards, step)
    assert found.value == pytest.approx(2 + 10 / 5**0.5)
    assert found.low < found.value < found.high
    assert adam(towards, 1000 * step).value == pytest.approx(found.value)  # an estimator's scale is no part of it
    with pytest.raises(ValueError, match="at least three"):
        adam(towards[:2], step[:2])


def test_adams_jackknife_leaves_a_fold_out_of_the_root_too() -> None:
    """The pseudo-values by hand; the last fold's gradient is large, so the root differs much without it."""
    generator = np.random.default_rng(3)
    towards, step = generator.normal(1, 0.5, (5, 3)), generator.normal(1, 1, (5, 3)) * [[1], [1], [1], [1], [20]]

    def moved(kept: list[int]) -> float:
        root = np.sqrt(np.mean([step[f] ** 2 for f in kept], axis=0))
        return float(np.mean([towards[f] @ (step[g] / root) for f in kept for g in kept if f != g]))

    whole = moved(list(range(5)))
    pseudo = [5 * whole - 4 * moved([f for f in range(5) if f != out]) for out in range(5)]
    half = 2.776445 * np.std(pseudo, ddof=1) / 5**0.5
    found = adam(torch.tensor(towards), torch.tensor(step))
    assert (found.value, found.low, found.high) == pytest.approx((whole, whole - half, whole + half), rel=1e-5)
