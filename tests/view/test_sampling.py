from __future__ import annotations

import pytest

from pipelines.view.sampling import sample_groups

NO_LIMIT = 10**9


@pytest.fixture
def dataset(store_run, row):
    """Ten groups of two rollouts, of 1 to 10 tokens each, in two parts."""

    def rows(numbers):
        return [row(f"g{n:02}/{index}", n + 1) for n in numbers for index in range(2)]

    return store_run(rows(range(6)), rows(range(6, 10))).shaped


def shown(dataset, sample) -> list[str]:
    return [dataset.read_part(place.part)["group_id"][place.first].as_py() for place in sample.places]


def test_all_groups_are_taken_where_they_fit(dataset):
    sample = sample_groups(dataset, max_rollouts=20, max_tokens=110)
    assert shown(dataset, sample) == [f"g{n:02}" for n in range(10)]
    assert (sample.groups, sample.rollouts, sample.tokens) == (10, 20, 110)
    assert sample.rule == "Every group of the dataset: 10 groups."


@pytest.mark.parametrize(("max_rollouts", "max_tokens"), [(19, NO_LIMIT), (7, NO_LIMIT), (NO_LIMIT, 109), (8, 40)])
def test_whole_groups_are_drawn_within_both_limits_and_the_next_would_pass_one(dataset, max_rollouts, max_tokens):
    sample = sample_groups(dataset, max_rollouts=max_rollouts, max_tokens=max_tokens)
    taken = [int(name[1:]) for name in shown(dataset, sample)]
    assert taken == sorted(taken)
    assert 0 < len(taken) < 10
    tokens = sum(2 * (n + 1) for n in taken)
    assert 2 * len(taken) <= max_rollouts
    assert tokens <= max_tokens
    assert 2 * len(taken) + 2 > max_rollouts or tokens + 20 > max_tokens
    assert "drawn uniformly (seed 0)" in sample.rule
    assert f"{max_tokens:,} tokens" in sample.rule


def test_another_seed_draws_others_and_one_seed_the_same(dataset):
    draws = [
        shown(dataset, sample_groups(dataset, max_rollouts=4, max_tokens=NO_LIMIT, seed=seed)) for seed in range(20)
    ]
    assert draws[0] == shown(dataset, sample_groups(dataset, max_rollouts=4, max_tokens=NO_LIMIT, seed=0))
    assert {name for drawn in draws for name in drawn} == {f"g{n:02}" for n in range(10)}


def test_a_group_beyond_every_limit_is_still_shown(dataset):
    assert len(sample_groups(dataset, max_rollouts=1, max_tokens=1).places) == 1


def test_named_groups_are_taken_beyond_the_limits(dataset):
    sample = sample_groups(dataset, names=["g08", "g01"], max_rollouts=1, max_tokens=1)
    assert shown(dataset, sample) == ["g01", "g08"]
