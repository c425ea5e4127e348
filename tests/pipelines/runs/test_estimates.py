"""Estimates of an evaluation: against counting every subset, against tables, and by simulation."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, product
from statistics import NormalDist

import numpy as np
import pytest

from pipelines.inspect.diff.differences import sign_flip
from pipelines.runs import estimates
from pipelines.runs.estimates import bootstrap, estimate, majority_at_k, share_interval, student_t


def every_subset(answers: list[tuple[str | None, bool]], k: int) -> float:
    """maj@k by going through all subsets; a tie counts by the share of right answers in it."""
    wins = []
    for subset in combinations(answers, k):
        votes = Counter(name for name, _ in subset if name is not None)
        best = [name for name, count in votes.items() if count == max(votes.values())]
        right = {name for name, is_right in answers if is_right}
        wins.append(sum(name in right for name in best) / len(best) if best else 0.0)
    return sum(wins) / len(wins)


@pytest.mark.parametrize("right", [{"a"}, {"a", "b"}, {"c"}, set(), {"a", "b", "c"}])
@pytest.mark.parametrize(
    "given", ["aab", "abc", "aabbc-", "abbbcc--", "a", "---", "aaaa", "ab-", "aabbcc", "bbbaac"], ids=str
)
def test_the_majority_vote_is_the_mean_over_all_subsets(given, right):
    answers = [(None if name == "-" else name, name in right) for name in given]
    votes = Counter(name for name, _ in answers if name is not None)
    for k in range(1, len(answers) + 1):
        found = majority_at_k(list(votes.values()), [name in right for name in votes], given.count("-"), k)
        assert found == pytest.approx(every_subset(answers, k), abs=1e-12), k


def test_a_vote_of_one_is_pass_at_1_and_a_vote_of_many_samples_does_not_overflow():
    assert majority_at_k([3, 4, 2], [True, False, False], 1, 1) == pytest.approx(3 / 10)
    assert majority_at_k([1500, 1500], [True, False], 0, 3) == pytest.approx(0.5)


def test_counts_of_subsets_beyond_floats_are_no_obstacle():
    found = majority_at_k([30_000, 30_000], [True, False], 0, 120)  # 1e370 subsets
    assert found == pytest.approx(0.5)


@pytest.mark.parametrize(("k", "silent"), [(7, 0), (12, 9), (30, 4), (45, 0)])
def test_drawn_subsets_agree_with_all_of_them(monkeypatch, k, silent):
    votes, right = [12, 10, 9, *[3] * 4, *[1] * 8], [False, True, False, *[True] * 2, *[False] * 10]
    exact = majority_at_k(votes, right, silent, k)
    monkeypatch.setattr(estimates, "EXACT_PRODUCTS", 0)
    drawn = majority_at_k(votes, right, silent, k)
    assert drawn != exact
    assert drawn == pytest.approx(exact, abs=0.02)  # four standard errors
    assert majority_at_k(votes, right, silent, k) == drawn


def test_a_vote_that_would_count_for_hours_is_drawn():
    """Thousands of samples: 1e9 products, with numbers of a thousand digits."""
    votes, k = [900, 850, *[1] * 250], 1000
    share = k / sum(votes)  # of the first two answers' lead the normal approximation, variance of a sample drawn whole
    lead = NormalDist(share * 50, (share * (1 - share) * 1750) ** 0.5)
    assert majority_at_k(votes, [True, *[False] * 251], 0, k) == pytest.approx(1 - lead.cdf(0), abs=0.02)


def test_a_vote_of_all_samples_is_one_count_however_many_there_are():
    answers = 3000  # over all subsets of fewer, this would take hours
    votes, right = [20, 20, 20, *[1] * answers], [False, True, True, *[False] * answers]
    assert majority_at_k(votes, right, 7, sum(votes) + 7) == pytest.approx(2 / 3)
    assert majority_at_k([1] * 20, [True] * 5 + [False] * 15, 0, 19) == pytest.approx(
        majority_at_k([1] * 20, [True] * 5 + [False] * 15, 0, 20)
    )


@pytest.mark.parametrize(("freedom", "table"), [(4, 2.776), (9, 2.262), (29, 2.045), (120, 1.980), (10**6, 1.960)])
def test_students_quantile_is_that_of_the_tables(freedom, table):
    assert student_t(0.975, freedom) == pytest.approx(table, rel=3e-3)


def test_with_one_sample_a_prompt_the_interval_is_wilsons_with_students_quantile():
    correct, prompts = 7, 30
    values = np.repeat([1.0, 0.0], [correct, prompts - correct])
    trials, q, p = prompts - 1, student_t(0.975, prompts - 1), correct / prompts  # P - 1: the variance has ddof 1
    middle = (p + q**2 / 2 / trials) / (1 + q**2 / trials)
    half = q / (1 + q**2 / trials) * (p * (1 - p) / trials + q**2 / 4 / trials**2) ** 0.5
    assert share_interval(values) == pytest.approx((middle - half, middle + half))


def test_where_every_prompt_failed_the_interval_still_says_how_little_is_known():
    found = estimate(np.zeros(30))
    assert (found.value, found.standard_error, found.low) == (0.0, 0.0, 0.0)
    assert found.high == pytest.approx(0.122, abs=0.002)
    assert bootstrap(np.zeros(30)).high == 0.0


def test_one_prompt_has_no_interval_and_rewards_beyond_0_and_1_have_the_bootstraps():
    assert estimate(np.array([0.5])).low is None
    values = np.random.default_rng(0).normal(size=50)
    assert estimate(values) == bootstrap(values)


# (prompts, samples, Beta(a, b) of the prompts' own rates): from AIME's 30 hard prompts to 500 of mixed difficulty
WORLDS = [
    (30, 8, 0.3, 0.7), (30, 1, 1.0, 1.0), (30, 8, 3.0, 1.0), (83, 8, 0.1, 2.0), (83, 1, 0.2, 6.0),
    (500, 4, 0.3, 0.7), (500, 1, 0.2, 6.0),
]  # fmt: skip


@pytest.mark.parametrize(("prompts", "samples", "a", "b"), WORLDS)
def test_the_interval_holds_the_truth_in_95_of_100_simulated_evaluations(prompts, samples, a, b):
    generator, held, trials = np.random.default_rng(0), 0, 1000
    for _ in range(trials):
        values = generator.binomial(samples, generator.beta(a, b, prompts)) / samples
        low, high = share_interval(values)
        held += low <= a / (a + b) <= high
    assert 0.925 <= held / trials <= 0.975  # the standard error of the simulation is 0.007


def test_the_permutation_test_goes_through_every_sign():
    values = np.array([0.5, 0.25, -0.125, 0.0, 1.0, 0.375])
    flipped = [abs(np.dot(signs, values)) for signs in product([-1, 1], repeat=len(values))]
    assert sign_flip(values) == np.mean(np.array(flipped) >= abs(values.sum()))
    assert sign_flip(np.zeros(5)) == 1.0


def test_without_an_effect_the_permutation_tests_p_is_uniform_and_with_one_it_is_small():
    generator = np.random.default_rng(0)
    p = [sign_flip(generator.normal(size=40)) for _ in range(200)]
    assert np.mean(np.array(p) < 0.1) == pytest.approx(0.1, abs=0.06)
    assert np.mean(p) == pytest.approx(0.5, abs=0.08)
    assert sign_flip(generator.normal(1.0, 0.1, size=40)) == 1 / 10_001
