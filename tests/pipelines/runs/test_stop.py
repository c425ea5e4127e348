"""When rounds end early: by hand, and against a plain recount of every prefix."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.options import ConfigError
from pipelines.runs.stop import StopError, StopOptions, metric_value, stopped


def options(**values):
    return StopOptions(**({"metric": "eval.math.pass@1", "patience": 2} | values))


def test_it_stops_after_patience_rounds_that_do_not_beat_the_best():
    found = stopped([0.1, 0.4, 0.3, 0.4, 0.9], options())
    assert found is not None
    assert (found.round, found.value, found.best_round, found.best) == (3, 0.4, 1, 0.4)
    assert "stopped after round 3: eval.math.pass@1 is 0.4, and 0.4 of round 1" in str(found)
    assert stopped([0.1, 0.4, 0.3], options()) is None
    assert stopped([], options()) is None


def test_a_smaller_value_is_better_under_min_and_min_delta_counts():
    assert stopped([3.0, 2.0, 1.0, 0.5], options(mode="min")) is None
    assert stopped([0.10, 0.11, 0.12], options(min_delta=0.05)).round == 2
    assert stopped([0.10, 0.11, 0.16], options(min_delta=0.05)) is None


def test_a_value_that_is_no_number_improves_nothing():
    assert stopped([0.2, math.nan, math.nan], options()).round == 2
    assert stopped([math.nan, 0.2, 0.1], options()) is None


@given(st.lists(st.integers(0, 5), max_size=12), st.integers(1, 4))
def test_it_is_the_first_round_whose_last_rounds_beat_nothing_before_them(values, patience):
    """Another way to say it: after round n none of the last `patience` values exceeds the best of those before."""
    ends = [
        n
        for n in range(patience, len(values))
        if max(values[n - patience + 1 : n + 1]) <= max(values[: n - patience + 1])
    ]
    found = stopped([float(value) for value in values], options(patience=patience))
    assert (found.round if found else None) == (min(ends) if ends else None)


def test_a_metric_is_found_by_name_or_named_as_missing():
    metrics = {"train": {"behavior_kl": 0.5}, "eval": {"math.v2": {"pass@1": 0.25}}}
    assert metric_value(metrics, "eval.math.v2.pass@1", where="round 0") == 0.25
    assert metric_value(metrics, "train.behavior_kl", where="round 0") == 0.5
    with pytest.raises(StopError, match=r"train\.behaviour_kl is not measured in round 3; it has: behavior_kl"):
        metric_value(metrics, "train.behaviour_kl", where="round 3")
    for value in (math.nan, math.inf):
        with pytest.raises(StopError, match=f"stop.metric train.kl is {value} in round 3, so it cannot be said"):
            metric_value({"train": {"kl": value}}, "train.kl", where="round 3")
    with pytest.raises(ConfigError, match="is no metric"):
        options(metric="pass@1")
