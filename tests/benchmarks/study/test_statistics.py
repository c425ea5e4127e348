"""Intervals cover, corrections hold the family's error, verdicts follow known effects."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from benchmarks.study.statistics import (
    Question,
    Verdict,
    answers,
    detectable,
    holm,
    joint,
    mean_estimate,
    p_above,
    paired,
    rank_correlation,
)


def test_a_mean_by_hand() -> None:
    """1, 2, 6: mean 3, deviation 2.6458, t(0.975, 2) = 4.3027, half 6.5725."""
    found = mean_estimate([1.0, 2.0, 6.0])
    assert (found.value, found.seeds) == (3.0, 3)
    assert found.deviation == pytest.approx(7**0.5)
    assert found.low is not None
    assert found.high is not None
    assert (found.low, found.high) == (pytest.approx(3 - 6.5725, abs=1e-3), pytest.approx(3 + 6.5725, abs=1e-3))


def test_one_seed_has_no_interval_and_none_has_no_mean() -> None:
    assert (mean_estimate([2.0]).value, mean_estimate([2.0]).low) == (2.0, None)
    with pytest.raises(ValueError, match="no seeds"):
        mean_estimate([])


@pytest.mark.parametrize("seeds", [3, 8, 12])
def test_intervals_cover_the_truth_in_95_of_100_studies(seeds: int) -> None:
    generator = np.random.default_rng(seeds)
    covered = 0
    for _ in range(2000):
        found = mean_estimate(generator.normal(0.3, 0.1, seeds).tolist())
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.3 <= found.high
    assert 0.93 < covered / 2000 < 0.97


def test_differences_are_those_of_common_seeds() -> None:
    assert paired({1: 0.5, 2: 0.7, 3: 0.9}, {2: 0.4, 1: 0.4, 9: 0.0}) == pytest.approx([0.1, 0.3])


def test_one_sided_p_values_are_scipys_and_equal_seeds_prove_nothing() -> None:
    values = [0.1, 0.3, 0.15, 0.2]
    t = (np.mean(values) - 0.05) / (np.std(values, ddof=1) / 2)
    assert p_above(values, 0.05) == pytest.approx(stats.t.sf(t, 3))
    assert p_above([0.5], 0.0) == p_above([0.5, 0.5], 0.0) == 1.0


def test_holm_by_hand() -> None:
    """0.01 * 4, 0.02 * 3, 0.03 * 2, 0.4: 0.04, 0.06, 0.06, 0.4."""
    assert holm([0.03, 0.01, 0.4, 0.02]) == pytest.approx([0.06, 0.04, 0.4, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_rejects_what_the_step_down_procedure_rejects() -> None:
    """Against the procedure as it is told: smallest first, stop at the first p above error / remaining."""
    generator = np.random.default_rng(1)
    for _ in range(200):
        p = generator.beta(0.3, 2.0, size=7)
        rejected, left = set(), len(p)
        for index in np.argsort(p):
            if p[index] > 0.05 / left:
                break
            rejected.add(int(index))
            left -= 1
        assert {index for index, value in enumerate(holm(p.tolist())) if value <= 0.05} == rejected


@pytest.mark.parametrize(("seeds", "error"), [(4, 0.05), (12, 0.05), (12, 0.05 / 15)])
def test_the_detectable_difference_is_found_four_times_in_five(seeds: int, error: float) -> None:
    size = detectable(0.1, seeds, error=error)
    assert size is not None
    generator = np.random.default_rng(seeds)
    values = generator.normal(size, 0.1, (20_000, seeds))
    found = stats.ttest_1samp(values, 0.0, axis=1).pvalue < error
    assert found.mean() == pytest.approx(0.8, abs=0.015)
    assert detectable(0.1, 1) is None
    assert detectable(0.0, 5) == 0.0


def better(effect: float, *, seeds: int = 12, spread: float = 0.02, draw: int = 0) -> Question:
    values = np.random.default_rng(draw).normal(effect, spread, seeds)
    return Question((values - values.mean() + effect).tolist(), threshold=0.0, refuted_below=0.02)


def test_verdicts_on_known_effects() -> None:
    """A clear gain, a clear loss, no effect measured well, no effect measured badly, one seed."""
    questions = [
        better(0.1),
        better(-0.1),
        better(0.0, spread=0.005),
        better(0.0, spread=0.1),
        Question([0.3], threshold=0.0, refuted_below=0.02),
    ]
    assert [one.verdict for one in answers(questions)] == [
        Verdict.REPRODUCED,
        Verdict.NOT_REPRODUCED,
        Verdict.NOT_REPRODUCED,
        Verdict.UNDECIDED,
        Verdict.UNDECIDED,
    ]


def test_at_least_as_good_allows_the_margin_and_refuses_more() -> None:
    def at_least(effect: float) -> Question:
        return Question(better(effect, spread=0.01).differences, threshold=-0.02, refuted_below=-0.02)

    assert [one.verdict for one in answers([at_least(0.0), at_least(-0.05), at_least(-0.02)])] == [
        Verdict.REPRODUCED,
        Verdict.NOT_REPRODUCED,
        Verdict.UNDECIDED,
    ]


def test_of_twenty_claims_without_effect_none_is_reproduced_in_97_of_100_studies() -> None:
    generator = np.random.default_rng(5)
    false = 0
    for _ in range(400):
        family = [Question(generator.normal(0, 0.1, 8).tolist(), 0.0, 0.02) for _ in range(20)]
        false += any(one.verdict is Verdict.REPRODUCED for one in answers(family))
    assert false / 400 < 0.05  # 0.025, and two standard errors of 400 studies are 0.016


def test_a_claim_of_parts_needs_all_of_them() -> None:
    yes, no, open_ = Verdict.REPRODUCED, Verdict.NOT_REPRODUCED, Verdict.UNDECIDED
    assert joint([yes, yes]) is yes
    assert joint([yes, open_]) is open_
    assert joint([open_, no]) is no


def test_the_rank_correlation_is_scipys_and_its_interval_widens_with_noise() -> None:
    generator = np.random.default_rng(3)
    forecast = np.linspace(0, 1, 12)
    clear = forecast[:, None] + generator.normal(0, 0.07, (12, 6))
    noisy = forecast[:, None] + generator.normal(0, 2.0, (12, 6))
    value, low, high = rank_correlation(forecast.tolist(), clear, clusters=range(12))
    assert value == pytest.approx(stats.spearmanr(forecast, clear.mean(axis=1)).statistic)
    assert 0.9 < low < high <= 1.0
    _, noisy_low, noisy_high = rank_correlation(forecast.tolist(), noisy, clusters=range(12))
    assert noisy_high - noisy_low > 3 * (high - low)
    again = rank_correlation(forecast.tolist(), clear, clusters=range(12))
    assert again == (value, low, high)  # the same draws each time
    with pytest.raises(ValueError, match="at least three"):
        rank_correlation([0.1, 0.2], np.ones((2, 3)), clusters=range(2))
    with pytest.raises(ValueError, match="of 2 arms, which leave no interval"):
        rank_correlation([0.1, 0.2, 0.3], np.ones((3, 3)), clusters=["a", "b", "b"])


def test_levels_of_one_arm_are_drawn_together_and_seeds_are_everybodys() -> None:
    """Levels that only repeat their arm add no knowledge, and neither does luck that all points share."""
    generator = np.random.default_rng(4)
    forecast = np.linspace(0, 1, 8)
    gains = forecast[:, None] + generator.normal(0, 0.6, (8, 1)).repeat(5, axis=1)
    one = rank_correlation(forecast.tolist(), gains, clusters=range(8))
    arms = np.repeat(np.arange(8), 3)
    three = rank_correlation(forecast[arms].tolist(), gains[arms], clusters=arms.tolist())
    assert three[1:] == pytest.approx(one[1:], abs=0.02)
    apart = rank_correlation(forecast[arms].tolist(), gains[arms], clusters=range(24))
    assert apart[2] - apart[1] < 0.75 * (three[2] - three[1])
    lucky = gains + generator.normal(0, 5.0, (1, 5))
    assert rank_correlation(forecast.tolist(), lucky, clusters=range(8)) == pytest.approx(one, abs=1e-9)


def test_an_interval_over_arms_of_several_levels_covers_the_truth() -> None:
    """Arms with an effect of their own, three levels each: drawn by arm about 95 of 100 intervals hold the truth."""
    generator = np.random.default_rng(5)
    truth, covered, apart = 6 / math.pi * math.asin(0.5 / 2), 0, 0  # Spearman's of a normal pair with correlation 0.5
    arms = np.repeat(np.arange(30), 3)
    for _ in range(100):
        pair = generator.multivariate_normal([0, 0], [[1, 0.5], [0.5, 1]], 30)[arms] + generator.normal(
            0, 0.01, (90, 2)
        )
        for clusters in (arms.tolist(), range(90)):
            _, low, high = rank_correlation(pair[:, 0].tolist(), pair[:, 1:], clusters=clusters, draws=300)
            hit = low <= truth <= high
            covered, apart = (covered + hit, apart) if clusters != range(90) else (covered, apart + hit)
    assert covered >= 86
    assert apart <= 80
