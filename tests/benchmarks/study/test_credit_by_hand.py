"""The study's credit against the equations of docs/spec/method.md, written out anew over the published rollouts.

Nothing of `pass_ops` is used on the hand's side: loops over groups, rollouts and tokens, in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks.study.arms import ARMS, CORE, Cell
from benchmarks.study.cell import Workshop, rollouts, train_options, update
from benchmarks.study.kept import kept_batch, kept_cells, kept_scores
from benchmarks.study.mechanism import gradients, policy_of
from benchmarks.study.probe import PROBED, read_rows
from benchmarks.study.publish import KEPT_ROUNDS
from benchmarks.study.run import open_workshop
from benchmarks.study.sample import token_logprobs
from benchmarks.study.signals import Batch, Models, table
from benchmarks.study.size import SMOKE
from benchmarks.study.store import HOME, MODELS, load_models
from benchmarks.study.tasks import Split, make_tasks
from pass_ops import shape, token_advantages
from tests.benchmarks.study.models import tiny_models
from trainer.update import make_optimizer

Array = NDArray[np.float64]
FLAT = 1e-6  # eps of the standardization


@dataclass(frozen=True)
class Group:
    """A group's rollouts: raw process scores and exclusive ends of steps (of one token each under kl), rewards."""

    scores: Sequence[Array]
    ends: Sequence[Sequence[int]]
    outcome: Array
    form: Array


def standard(values: Array, pool: Array) -> Array:
    """Section 1, masked_norm: (x - mean(S)) / (std(S) + eps), ddof 1; 0 where all of S are equal."""
    if len(pool) < 2 or np.ptp(pool) == 0:
        return np.zeros_like(values)
    return (values - pool.mean()) / (pool.std(ddof=1) + FLAT)


def spread(values: Array, ends: Sequence[int]) -> Array:
    """A value a step, repeated over the step's tokens."""
    return np.repeat(values, np.diff([0, *ends]))


def divided(credits: Array, k: float) -> Array:
    """Section 4: (a_j + ... + a_K) / (K - j + 1)^k."""
    to_go = [credits[j:].sum() for j in range(len(credits))]
    return np.array([total / (len(credits) - j) ** k for j, total in enumerate(to_go)])


def chunk_ends(group: Group, row: int, *, kl: bool, chunk: bool) -> list[int]:
    """Section 3: steps under prm, Chunk-by-Value over the group's mean trace under kl, tokens without CV."""
    length = group.ends[row][-1]
    if not chunk:
        return list(range(1, length + 1))
    if not kl:
        return list(group.ends[row])
    pool = np.concatenate(group.scores)
    trace = np.zeros(length)
    for scores in group.scores:
        known = standard(scores, pool)[:length]
        trace[: len(known)] += known / len(group.scores)
    ends, value = [], trace[0]
    for t in range(1, length):
        if abs(trace[t] - value) > 1e-8:
            ends.append(t)
            value = trace[t]
    return [*ends, length]


def by_pass(
    group: Group, *, k: float, kl: bool = False, chunk: bool = True, with_format: bool = True
) -> Iterator[Array]:
    """Section 2, 3, 4: AF, CV, DL; without format neither its stream nor its gate (section 0a)."""
    pool = np.concatenate(group.scores)
    outcome, form = standard(group.outcome, group.outcome), standard(group.form, group.form)
    for row, scores in enumerate(group.scores):
        tokens = spread(standard(scores, pool), group.ends[row])
        fused = tokens + outcome[row]
        if with_format:
            fused = fused + form[row] if group.form[row] else np.full(len(tokens), 3 * form[row])
        ends = chunk_ends(group, row, kl=kl, chunk=chunk)
        yield spread(divided(fused[np.array(ends) - 1], k), ends)


def by_reward_shaping(group: Group) -> Iterator[Array]:
    """Section 5: the raw sum of each step, one standardization over the group's steps, then CV and DL; no gate."""
    raw = [s + o + f for s, o, f in zip(group.scores, group.outcome, group.form, strict=True)]
    for values, ends in zip(raw, group.ends, strict=True):
        yield spread(divided(standard(values, np.concatenate(raw)), 0.7), ends)


def by_grpo_process(group: Group) -> Iterator[Array]:
    """Section 5, Eq. 1-3: all rewards in one pool; a token is credited what lies at or after it; no gate."""
    pool = np.concatenate([*group.scores, group.outcome, group.form])
    for row, (scores, ends) in enumerate(zip(group.scores, group.ends, strict=True)):
        at = np.zeros(ends[-1])
        at[np.array(ends) - 1] = standard(scores, pool)
        at[-1] += standard(group.outcome[row : row + 1], pool)[0] + standard(group.form[row : row + 1], pool)[0]
        yield np.cumsum(at[::-1])[::-1]


def by_grpo_outcome(group: Group) -> Iterator[Array]:
    """Section 5: r_out + r_fmt, summed before the standardization over the group's rollouts."""
    both = group.outcome + group.form
    for value, ends in zip(standard(both, both), group.ends, strict=True):
        yield np.full(ends[-1], value)


HAND: dict[str, Callable[[Group], Iterator[Array]]] = {
    "grpo_outcome": by_grpo_outcome,
    "pass_k07": lambda group: by_pass(group, k=0.7),
    "grpo_process": by_grpo_process,
    "reward_shaping": by_reward_shaping,
    "pass_k0": lambda group: by_pass(group, k=0.0),
    "pass_k1": lambda group: by_pass(group, k=1.0),
    "pass_no_cv": lambda group: by_pass(group, k=0.7, chunk=False),
    "grpo_opd": by_grpo_process,
    "pass_opd": lambda group: by_pass(group, k=0.7, kl=True),
    "grpo_gopd": by_grpo_process,
    "pass_gopd": lambda group: by_pass(group, k=0.7, kl=True),
    "pass_no_format": lambda group: by_pass(group, k=0.7, with_format=False),
}


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models(MODELS)


def kl_scores(batch: Batch, models: Models, signal: str) -> list[Array]:
    """Section 0: l_teacher - l_policy, and Eq. 5 with lambda 1.25 and the start policy as base."""
    teacher = token_logprobs(models.teacher, batch.pairs, models.shape)
    base = token_logprobs(models.policy, batch.pairs, models.shape)
    found = []
    for one, of_teacher, of_base in zip(batch.completions, teacher, base, strict=True):
        policy, goal, start = (x.astype(np.float64) for x in (one.logprobs, of_teacher, of_base))
        found.append(goal - policy if signal == "opd" else -((policy - start) - 1.25 * (goal - start)))
    return found


def groups(batch: Batch, scores: Sequence[Array], *, stepwise: bool) -> Iterator[Group]:
    """The batch's groups as the equations speak of them."""
    for first in range(0, len(batch.completions), batch.copies):
        rows = range(first, first + batch.copies)
        yield Group(
            [scores[row] for row in rows],
            [batch.judged[row].ends if stepwise else range(1, len(batch.completions[row].ids) + 1) for row in rows],
            np.array([float(batch.judged[row].outcome) for row in rows]),
            np.array([float(batch.judged[row].format_ok) for row in rows]),
        )


def weight_by_hand(arm: str, level: str, number: int) -> tuple[float, float]:
    """RMS of a round's advantages, and the share of failed format in their squares."""
    [cell] = [one for one in kept_cells() if (one.arm, one.level) == (arm, level)]
    batch = kept_batch(cell, number)
    found = [row for group in groups(batch, kept_scores(cell, number), stepwise=True) for row in HAND[arm](group)]
    squares = np.array([np.mean(row**2) for row in found])
    failed = np.array([not one.format_ok for one in batch.judged])
    return float(np.sqrt(squares.mean())), float(squares[failed].sum() / squares.sum())


@pytest.mark.parametrize("arm", ["pass_k07", "reward_shaping"])
def test_the_stored_weight_of_failed_format_is_the_hands(arm: str) -> None:
    stored = {(row["arm"], row["level"], row["round"]): row for row in read_rows(HOME / "probe" / "credit.parquet")}
    for number in KEPT_ROUNDS:
        row = stored[arm, "high", number]
        rms, share = weight_by_hand(arm, "high", number)
        assert row["rms"] == pytest.approx(rms, rel=1e-3)
        assert row["failed_share"] == pytest.approx(share, rel=1e-3)


def published(arm: str) -> list[Cell]:
    """The cells whose rollouts are published and have an arm's signal: its own, or PASS's, whose signal is the same.

    Fails where there is none: a test over no rollouts would say nothing.
    """
    found = [cell for cell in kept_cells() if cell.arm == arm] or [
        cell for cell in kept_cells() if (arm, cell.arm) == ("pass_no_format", "pass_k07")
    ]
    assert {cell.level for cell in found} == set(ARMS[arm].levels), f"no rollouts are published for {arm}"
    return found


@pytest.mark.parametrize("number", KEPT_ROUNDS)
@pytest.mark.parametrize("arm", HAND)
def test_the_credit_of_every_arm_is_the_specs(arm: str, number: int, models: Models) -> None:
    for cell in published(arm):
        batch, signal = kept_batch(cell, number), ARMS[arm].signal
        shaped = shape(table(batch, ARMS[arm], cell.level, models), ARMS[arm].shaping, threads=1)
        if signal == "prm":
            scores = kept_scores(cell, number)
        elif signal == "none":
            scores = [np.zeros(len(one.ends)) for one in batch.judged]
        else:
            scores = kl_scores(batch, models, signal)
        stepwise = signal in ("prm", "none")
        expected = [row for group in groups(batch, scores, stepwise=stepwise) for row in HAND[arm](group)]
        for found, hand in zip(token_advantages(shaped), expected, strict=True):
            np.testing.assert_allclose(found.values.to_numpy(), hand, atol=2e-4, rtol=2e-4)


def test_every_arm_of_the_claims_has_a_hand_and_rollouts() -> None:
    assert HAND.keys() == set(PROBED)
    assert {cell.arm for cell in kept_cells()} >= set(CORE)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return open_workshop(tiny_models(tmp_path_factory.mktemp("models")), replace(SMOKE, updates=1, cap=48))


@pytest.mark.parametrize("arm", PROBED)
def test_every_arms_update_weighs_tokens_alike(arm: str, shop: Workshop) -> None:
    """Ratios are 1 in a round's first update: its gradient is that of the sum of A_it log pi(o_it) / length_i."""
    shop.reset()
    prompts = [task.prompt_ids() for task in make_tasks(2, seed=1, split=Split.ROUNDS)]
    batch = rollouts(shop, prompts, torch.Generator().manual_seed(0))
    shaped = shape(table(batch, ARMS[arm], ARMS[arm].levels[0], shop.models), ARMS[arm].shaping, threads=1)
    weights = [row.values.to_numpy().astype(float) / len(row) for row in token_advantages(shaped)]
    parameters = {name: one.detach().clone().requires_grad_() for name, one in shop.parameters.items()}
    policy = policy_of(parameters, shop.models.shape)
    [gradient] = gradients(policy, list(parameters.values()), batch.pairs, [weights])
    options = train_options(1e-4)
    optimizer = make_optimizer(shop.policy.model, options)
    trained = update(shop, batch, shaped, optimizer=optimizer, options=options)
    assert trained["grad_norm"] == pytest.approx(float(gradient.norm()), rel=5e-3)
