"""The rollouts that credit is looked at on before training: stored, read again, and judged for every arm."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.study.arms import ARMS
from benchmarks.study.forecast import forecasts
from benchmarks.study.mechanism import drifts, gradients, policy_of
from benchmarks.study.probe import PROBED, read_probe, sample_probe, shaped_arms, write_probe
from benchmarks.study.sample import token_logprobs
from benchmarks.study.signals import Batch, Models
from benchmarks.study.store import MODELS, load_models
from pass_ops import token_advantages
from pipelines.inspect.sweep.truth import truth_advantages

EVERY = [(arm, level) for arm in PROBED for level in ARMS[arm].levels]


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models(MODELS)


@pytest.fixture(scope="module")
def batch(models: Models) -> Batch:
    return sample_probe(models, cap=128, groups=4, copies=4)


def test_stored_rollouts_are_read_as_they_were(batch: Batch, tmp_path: Path) -> None:
    write_probe(tmp_path / "rollouts.parquet", batch)
    found = read_probe(tmp_path / "rollouts.parquet")
    assert found.copies == batch.copies
    assert found.judged == batch.judged
    assert found.pairs == [(list(prompt), ids) for prompt, ids in batch.pairs]
    for one, other in zip(found.completions, batch.completions, strict=True):
        np.testing.assert_array_equal(one.logprobs, other.logprobs)


def test_the_policy_with_gradients_gives_the_samplers_log_probabilities(batch: Batch, models: Models) -> None:
    found = policy_of(models.policy, models.shape)(batch.pairs[:3])
    for one, other in zip(found, token_logprobs(models.policy, batch.pairs[:3], models.shape), strict=True):
        np.testing.assert_allclose(one.detach().numpy(), other, atol=1e-5)


def test_a_gradient_is_that_of_the_weighted_log_probabilities(batch: Batch, models: Models) -> None:
    """Along its own gradient the weighted sum rises by the gradient's square: a central difference against it."""
    parameters = {name: one.clone().requires_grad_() for name, one in models.policy.items()}
    pairs = batch.pairs[:2]
    weights = [np.linspace(-1, 1, len(ids)) for _, ids in pairs]
    [gradient] = gradients(policy_of(parameters, models.shape), list(parameters.values()), pairs, [weights])
    size, sums, at = 1e-3 / float(gradient.norm()), [], 0
    for sign in (1, -1):
        moved, at = {}, 0
        for name, one in models.policy.items():
            moved[name] = one + sign * size * gradient[at : at + one.numel()].view_as(one)
            at += one.numel()
        found = policy_of(moved, models.shape)(pairs)
        sums.append(sum(float(row.detach().numpy() @ of) for row, of in zip(found, weights, strict=True)) / 2)
    assert (sums[0] - sums[1]) / (2 * size) == pytest.approx(float(gradient.square().sum()), rel=0.02)


def test_every_arm_of_the_claims_has_a_drift_and_a_forecast(batch: Batch, models: Models) -> None:
    rows = list(drifts(batch, models, folds=4))
    assert [(row["arm"], row["level"]) for row in rows] == EVERY
    assert all(math.isfinite(row[name]) for row in rows for name in ("length", "length_low", "pass1", "pass1_high"))
    forecast = list(forecasts(batch, models))
    assert [(row["arm"], row["level"]) for row in forecast] == EVERY


def test_alignment_is_the_cosine_of_token_advantages_and_the_truths(batch: Batch, models: Models) -> None:
    """From the vectors themselves, without the sweep's sums."""
    rollouts = pa.table(
        {"group_id": [str(row // 4) for row in range(16)], "loss_mask": [[True] * len(ids) for _, ids in batch.pairs]}
    )
    truth = pa.table(
        {
            "process_scores": pa.array([list(one.truth) for one in batch.judged], pa.list_(pa.float32())),
            "process_ends": pa.array([list(one.ends) for one in batch.judged], pa.list_(pa.int32())),
        }
    )
    goal = truth_advantages(rollouts, truth, as_="value").advantage_N
    found = {(row["arm"], row["level"]): row["alignment"] for row in forecasts(batch, models)}
    for arm, level, shaped in shaped_arms(batch, models):
        given = token_advantages(shaped).flatten().to_numpy().astype(float)
        size = np.linalg.norm(given) * np.linalg.norm(goal)
        if size:
            assert found[arm, level] == pytest.approx(given @ goal / size, abs=1e-5)
