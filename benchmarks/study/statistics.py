"""Intervals and tests over seeds: means, paired differences, what can be detected, and corrected verdicts.

Seeds are the unit: evaluation prompts, tasks and the generator are the same in two cells of one seed, so that arms are
compared by the difference within a seed. All intervals and tests are Student's, two-sided at 5 % unless said otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

#: of intervals and tests
ERROR = 0.05
POWER = 0.8


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95 % interval; low, high and deviation (n - 1) are None with fewer than two seeds."""

    value: float
    low: float | None
    high: float | None
    deviation: float | None
    seeds: int


def mean_estimate(values: Sequence[float], *, error: float = ERROR) -> Estimate:
    """The mean of one value a seed, and the interval that covers the truth in all but ``error`` of studies.

        mean +- t(1 - error / 2, n - 1) * deviation / sqrt(n)

    Raises ValueError for no value at all.
    """
    if not values:
        raise ValueError("a mean over no seeds has no value; leave out what no cell measured")
    mean, seeds = float(np.mean(values)), len(values)
    if seeds < 2:
        return Estimate(mean, None, None, None, seeds)
    deviation = float(np.std(values, ddof=1))
    half = float(special.stdtrit(seeds - 1, 1 - error / 2)) * deviation / math.sqrt(seeds)
    return Estimate(mean, mean - half, mean + half, deviation, seeds)


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> list[float]:
    """Differences first - second of every seed that both have, in order of the seeds."""
    return [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]


def p_above(values: Sequence[float], threshold: float) -> float:
    """One-sided p of "the mean is at most ``threshold``" (Student's t); 1 where fewer than two seeds say anything.

    Seeds that all give the same value have no deviation to measure by: they count as nothing found, not as proof.
    """
    if len(values) < 2 or np.ptp(values) == 0:
        return 1.0
    t = (float(np.mean(values)) - threshold) / (float(np.std(values, ddof=1)) / math.sqrt(len(values)))
    return float(special.stdtr(len(values) - 1, -t))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: the family's error is held where adjusted p-values are compared with it.

        p~_(i) = max over j <= i of min(1, (m - j + 1) p_(j)), p_(1) <= ... <= p_(m)

    Source: Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    order = np.argsort(p_values, kind="stable")
    remaining = np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(np.asarray(p_values, float)[order] * remaining))
    found: list[float] = adjusted.tolist()
    return found


def detectable(deviation: float, seeds: int, *, error: float = ERROR, power: float = POWER) -> float | None:
    """The smallest true mean difference that a two-sided paired t test finds, sign and all, with probability ``power``.

    deviation: of the paired differences. Solves the power of the noncentral t; None with fewer than two seeds. For the
    first step of Holm over m comparisons give error / m: that is what a lone effect has to pass.
    """
    if seeds < 2:
        return None
    if deviation == 0:
        return 0.0
    freedom = seeds - 1
    critical = float(special.stdtrit(freedom, 1 - error / 2))

    def lack(shift: float) -> float:
        return 1.0 - float(special.nctdtr(freedom, shift, critical)) - power

    high = critical
    while lack(high) < 0:
        high *= 2
    shift = float(optimize.brentq(lack, 0.0, high))
    return shift * deviation / math.sqrt(seeds)


class Verdict(StrEnum):
    """What the seeds say of a claim."""

    REPRODUCED = "reproduced"
    NOT_REPRODUCED = "not reproduced"
    UNDECIDED = "undecided at this size"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Question:
    """One comparison: ``differences`` by seed, signed so that the claim says they are above ``threshold``.

    threshold: 0 for "is better", minus the margin for "is at least as good". refuted_below: differences shown to lie
    below it refute the claim: the margin (the smallest difference that matters) for "is better", since what is shown
    to be smaller is not the claim's effect, and the threshold itself for "is at least as good".
    """

    differences: Sequence[float]
    threshold: float
    refuted_below: float


@dataclass(frozen=True)
class Answer:
    """Adjusted one-sided p-values for and against, and the verdict."""

    p_for: float
    p_against: float
    verdict: Verdict


def answers(questions: Sequence[Question], *, error: float = ERROR) -> list[Answer]:
    """The verdicts on a family of questions, Holm-corrected over all of them, each side at half of ``error``.

    So the chance that any claim without an effect counts as reproduced is at most error / 2, and likewise that any
    claim whose effect is as large as the margin counts as not reproduced. Where both sides are shown (an effect that
    is there and smaller than the margin), it is reproduced: the table gives its size.
    """
    for_ = holm([p_above(one.differences, one.threshold) for one in questions])
    against = holm([p_above([-d for d in one.differences], -one.refuted_below) for one in questions])
    return [Answer(p, q, _verdict(p, q, error)) for p, q in zip(for_, against, strict=True)]


def joint(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on a claim of several parts: all have to hold, and one that does not refutes it."""
    if Verdict.NOT_REPRODUCED in verdicts:
        return Verdict.NOT_REPRODUCED
    return Verdict.UNDECIDED if Verdict.UNDECIDED in verdicts else Verdict.REPRODUCED


def _verdict(p_for: float, p_against: float, error: float) -> Verdict:
    if p_for < error / 2:
        return Verdict.REPRODUCED
    return Verdict.NOT_REPRODUCED if p_against < error / 2 else Verdict.UNDECIDED


def rank_correlation(
    forecast: Sequence[float],
    gains: NDArray[np.float64],
    *,
    clusters: Sequence[Hashable],
    draws: int = 4000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Spearman's correlation of forecasts [P] with mean gains, ``gains`` [P, seeds], and its 95 % bootstrap interval.

    clusters: of each point what it shares with others, its arm: the levels of one arm are near each other in forecast
    and gain, and as many points of their own would make the interval too narrow. Every draw takes clusters with
    replacement, each with all its points (other arms might have been tried), and seeds with replacement, the same for
    all points, as all were trained on the same (other seeds might have been run). Draws in which all ranks are equal
    are left out. Raises ValueError for fewer than three points: they have no ranking to speak of; and for fewer than
    three clusters, which have no interval.
    """
    if len(forecast) < 3:
        raise ValueError(f"{len(forecast)} points have no rank correlation; forecast and run at least three arms")
    members = [[at for at, own in enumerate(clusters) if own == name] for name in dict.fromkeys(clusters)]
    if len(members) < 3:
        raise ValueError(f"the points are of {len(members)} arms, which leave no interval; run at least three")
    given = np.asarray(forecast, float)
    generator = np.random.default_rng(seed)
    seeds = gains.shape[1]
    picked = generator.integers(len(members), size=(draws, len(members)))
    means = gains[:, generator.integers(seeds, size=(draws, seeds))].mean(axis=2).T
    points = [np.concatenate([members[cluster] for cluster in of_draw]) for of_draw in picked.tolist()]
    drawn = np.full(draws, np.nan)
    for count in {len(own) for own in points}:  # draws of as many points are ranked together
        at = np.array([draw for draw, own in enumerate(points) if len(own) == count])
        chosen = np.array([points[draw] for draw in at])
        drawn[at] = _spearman(given[chosen], np.take_along_axis(means[at], chosen, axis=1))
    low, high = np.nanpercentile(drawn, (100 * ERROR / 2, 100 * (1 - ERROR / 2)))
    return float(_spearman(given[None], gains.mean(axis=1)[None])[0]), float(low), float(high)


def _spearman(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """The correlation of the ranks of each row; NaN where one side's are all equal."""
    first, second = (stats.rankdata(values, axis=1) - (values.shape[1] + 1) / 2 for values in (x, y))
    size = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    found = np.full(len(x), np.nan)
    np.divide((first * second).sum(axis=1), size, out=found, where=size > 0)
    return found
