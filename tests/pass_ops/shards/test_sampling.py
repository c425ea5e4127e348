from __future__ import annotations

import pytest

from pass_ops.shards import SamplingFacts
from pass_ops.shards.sampling import cuts

PLAIN = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}


@pytest.mark.parametrize(
    ("changed", "truncated"),
    [
        ({}, {}),
        ({"top_k": -1, "top_p": None, "min_p": None}, {}),
        ({"top_p": 0.9}, {"top_p": 0.9}),
        ({"top_k": 20, "min_p": 0.05}, {"top_k": 20, "min_p": 0.05}),
        ({"truncated": True, "extra": {"repetition_penalty": 1.1}}, {"extra": {"repetition_penalty": 1.1}}),
        ({"truncated": False, "extra": {"stop_token_ids": [3]}}, {}),
    ],
)
def test_what_cuts_the_distribution_is_named(changed, truncated):
    facts = SamplingFacts.of({**PLAIN, **changed})
    assert facts.truncated == truncated
    assert facts.full_vocabulary_at_one == (not truncated)
    assert cuts({**PLAIN, **changed}) == {name: value for name, value in truncated.items() if name != "extra"}


@pytest.mark.parametrize(
    ("temperature", "mode", "greedy", "mixes", "at_one"),
    [
        (1.0, "raw_logprobs", False, False, True),
        (0.7, "raw_logprobs", False, True, False),
        (0.7, "processed_logprobs", False, False, False),
        (0.0, "raw_logprobs", True, True, False),
    ],
)
def test_what_the_temperature_means_for_the_log_probabilities(temperature, mode, greedy, mixes, at_one):
    facts = SamplingFacts.of({**PLAIN, "temperature": temperature, "logprobs_mode": mode})
    assert (facts.greedy, facts.mixes_temperatures, facts.full_vocabulary_at_one) == (greedy, mixes, at_one)


@pytest.mark.parametrize("sampling", [None, {}, {"group_size": 4}])
def test_a_dataset_that_does_not_say_is_at_no_temperature(sampling):
    facts = SamplingFacts.of(sampling)
    assert (facts.temperature, facts.logprobs_mode, facts.truncated) == (None, "raw_logprobs", {})
    assert (facts.greedy, facts.mixes_temperatures, facts.full_vocabulary_at_one) == (False, False, False)
