"""prm-check: AUC against a slow count of pairs, golden means by kind, bins, and what is said about them."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest

from pipelines.inspect.prm_check.check import BINS, auc, auc_in_groups, report, standardize
from pipelines.inspect.prm_check.text import findings


def columns(score, truth, *, group=None, position=None, length=None, repeated=None, padding=None) -> dict:
    size = len(score)
    return {
        "score": np.array(score, float),
        "truth": np.array(truth, float),
        "group": np.array(group if group is not None else ["g"] * size),
        "position": np.array(position if position is not None else np.linspace(0, 1, size)),
        "length": np.array(length if length is not None else [4] * size),
        "repeated": np.array(repeated if repeated is not None else [False] * size),
        "padding": np.array(padding if padding is not None else [False] * size),
    }


def checked(*arguments, **named):
    return report(columns(*arguments, **named), rollouts=1, skipped=0, threshold=0.5)


def slow_auc(scores, truths, groups=None) -> float:
    won = [
        (a > b) + (a == b) / 2
        for (i, a), (j, b) in product(enumerate(scores), repeat=2)
        if truths[i] > 0.5 > truths[j] and (groups is None or groups[i] == groups[j])
    ]
    return sum(won) / len(won)


@pytest.mark.parametrize("seed", range(5))
def test_auc_counts_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, 60) / 5  # many ties
    truths = rng.choice([0.0, 0.5, 1.0], 60)
    groups = rng.integers(0, 7, 60)
    right, wrong = truths > 0.5, truths < 0.5
    assert auc(scores, right, wrong) == pytest.approx(slow_auc(scores, truths))
    assert auc_in_groups(scores, right, wrong, groups) == pytest.approx(slow_auc(scores, truths, groups))


def test_auc_in_groups_does_not_see_a_score_that_only_tells_groups_apart() -> None:
    found = checked([0.9, 0.9, 0.9, 0.1, 0.1, 0.1], [1, 1, 0, 1, 0, 0], group=["a"] * 3 + ["b"] * 3)
    assert found.auc == pytest.approx(6 / 9)
    assert found.auc_in_groups == pytest.approx(0.5)
    assert any("hardly tells right from wrong" in line for line in findings(found))


def test_auc_is_none_without_both_kinds() -> None:
    assert checked([0.1, 0.2], [1, 1]).auc is None
    assert checked([0.1, 0.2], [0.5, 0.5]).auc_in_groups is None


def test_standardized_scores_are_those_of_the_group() -> None:
    values = standardize(np.array([1.0, 3.0, 10.0, 10.0, 7.0]), np.array([0, 0, 1, 1, 2]))
    assert values == pytest.approx([-1 / 2**0.5, 1 / 2**0.5, 0, 0, 0], abs=1e-5)


def test_kinds_hold_mean_and_standardized_score() -> None:
    found = checked(
        [1.0, 0.0, 0.5, 1.5], [1, 0, 0.5, 0.5], repeated=[False, False, False, True], padding=[False, False, True, True]
    )
    assert {name: kind.steps for name, kind in found.kinds.items()} == {
        "right": 1, "wrong": 1, "neutral": 2, "padding": 2, "repeated": 1,
    }  # fmt: skip
    assert found.kinds["padding"].score == 1.0
    assert found.kinds["repeated"].standardized == pytest.approx((1.5 - 0.75) / np.std([1, 0, 0.5, 1.5], ddof=1), 1e-5)
    said = findings(found)
    assert any(line.startswith("Padding steps score +0.39") for line in said)
    assert any(line.startswith("Repeated steps score +1.16") for line in said)


def test_bins_hold_every_step_once_and_equal_values_together() -> None:
    found = checked(np.arange(100) / 100, [1, 0] * 50, length=[3] * 60 + list(range(4, 44)))
    assert len(found.by_position) == BINS
    for bins in (found.by_position, found.by_length):
        assert sum(one.steps for one in bins) == 100
        assert all(a.high < b.low for a, b in pairwise(bins))
    assert (found.by_length[0].low, found.by_length[0].high, found.by_length[0].steps) == (3, 3, 60)
    assert found.by_position[0].truth == 0.5
    assert found.by_position[0].auc == pytest.approx(slow_auc(np.arange(20), [1, 0] * 10))


def test_scores_that_follow_the_length_more_than_the_truth_are_named() -> None:
    rng = np.random.default_rng(0)
    length = rng.integers(2, 50, 300)
    found = checked(length / 50, rng.integers(0, 2, 300), length=length)
    assert found.correlation["length"] == pytest.approx(1.0)
    assert any("follow length (+1.00)" in line for line in findings(found))


def test_a_good_signal_has_nothing_said_against_it() -> None:
    assert findings(checked([0.9, 0.1, 0.8, 0.2], [1, 0, 1, 0], position=[0, 0, 1, 1])) == []


def test_nothing_to_compare_is_an_empty_report() -> None:
    found = checked([], [], group=np.zeros(0))
    assert (found.steps, found.auc, found.by_length) == (0, None, [])
