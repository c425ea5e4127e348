"""Prompts by pass rate: by hand, properties, and rates counted from stored data."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.options import ConfigError
from pipelines.prompts.stage import PromptSource, SourceOptionError, UnknownPromptError, read_prompts
from pipelines.runs.selection import Measured, SelectOptions, choose, chosen, selected_source

LAST = {
    "a": Measured(round=0, rate=0.0),
    "b": Measured(round=1, rate=0.5),
    "c": Measured(round=0, rate=0.5),
    "d": Measured(round=1, rate=1.0),
    "e": Measured(round=0, rate=None),
}
ORDER = list("abcdefgh")


def names(choices):
    return "".join(one.prompt_id for one in choices)


def test_the_window_first_then_what_was_never_sampled_then_the_longest_unsampled():
    """b and c lie in the window; one of four explores: f, the first never sampled, then g."""
    found = choose(ORDER, LAST, count=4, options=SelectOptions(explore=0.25))
    assert names(found) == "bcfg"
    assert [one.reason for one in found] == ["window", "window", "unmeasured", "unmeasured"]
    assert [(one.rate, one.round) for one in found] == [(0.5, 1), (0.5, 0), (None, None), (None, None)]


def test_the_floor_of_exploration_outranks_the_window():
    assert names(choose(ORDER, LAST, count=2, options=SelectOptions(explore=0.5))) == "cf"  # c was sampled before b
    assert names(choose(ORDER, LAST, count=2, options=SelectOptions(explore=0.0))) == "bc"
    assert names(choose(ORDER, LAST, count=2, options=SelectOptions(explore=1.0))) == "fg"


def test_outside_the_window_the_longest_unsampled_come_first():
    known = ORDER[:5]
    assert names(choose(known, LAST, count=3, options=SelectOptions(explore=0.3))) == "abc"
    assert names(choose(known, LAST, count=4, options=SelectOptions())) == "abce"
    assert names(choose(known, LAST, count=9, options=SelectOptions())) == "abcde"


@given(
    st.lists(st.sampled_from([None, 0.0, 0.05, 0.1, 0.5, 0.9, 1.0, "new"]), max_size=14),
    st.integers(1, 10),
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)
def test_each_prompt_once_as_many_as_asked_with_the_floor_where_it_can_be(rates, count, explore):
    order = [f"p{index}" for index in range(len(rates))]
    last = {
        name: Measured(round=index % 3, rate=rate)
        for index, (name, rate) in enumerate(zip(order, rates, strict=True))
        if rate != "new"
    }
    found = choose(order, last, count=count, options=SelectOptions(explore=explore))
    inside = {name for name, one in last.items() if one.rate is not None and 0.1 <= one.rate <= 0.9}
    assert len({one.prompt_id for one in found}) == len(found) == min(count, len(order))
    assert {one.prompt_id for one in found if one.reason == "window"} <= inside
    others = sum(one.reason != "window" for one in found)
    assert others >= min(len(order) - len(inside), -(-int(10 * explore) * count // 10))
    assert [one.prompt_id for one in found] == sorted((one.prompt_id for one in found), key=order.index)


def test_a_round_without_measures_takes_what_it_would_take_without_selection(tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"{i}?"}) + "\n" for i in range(7)))
    plain = PromptSource(source=str(file), shuffle_seed=3, offset=5, limit=4)
    taken = selected_source(plain, chosen(plain, {}, SelectOptions()))
    assert read_prompts(taken) == read_prompts(plain)


def test_prompts_by_id_are_those_in_that_order_or_named_as_missing(tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"{i}?"}) + "\n" for i in range(3)))
    rows = read_prompts(PromptSource(source=str(file), ids=("p-2", "p-0")))
    assert [row["prompt"] for row in rows] == ["2?", "0?"]
    with pytest.raises(UnknownPromptError, match=r"has no prompt_id 'p-9'"):
        read_prompts(PromptSource(source=str(file), ids=("p-9",)))
    with pytest.raises(SourceOptionError, match="leave out offset, limit and shuffle_seed"):
        PromptSource(source=str(file), ids=("p-0",), limit=1)


def test_a_window_that_is_none_is_refused():
    with pytest.raises(ConfigError, match=r"min_pass_rate 0\.8 is above max_pass_rate 0\.2"):
        SelectOptions(min_pass_rate=0.8, max_pass_rate=0.2)
