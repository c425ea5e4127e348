"""Where groups start."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest

from pass_ops.errors import GroupOrderError
from pass_ops.reading.groups import group_bounds, group_numbers, group_starts

IDS = {
    "one group": ["a", "a", "a"],
    "ids that end alike": ["ab", "b", "cb", "bb", "bb", "abb"],
    "ids that begin alike": ["b", "ba", "ba", "bab"],
    "equal lengths, another first letter": ["axx", "bxx", "cxx"],
    "an empty id": ["", "", "a"],
    "empty ids alone": ["", ""],
    "beyond ASCII": ["ä", "ä", "a"],
    "no rows": [],
}


def starts(ids):
    return list(itertools.accumulate((len(list(rows)) for _, rows in itertools.groupby(ids)), initial=0))


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
@pytest.mark.parametrize("ids", IDS.values(), ids=IDS)
def test_groups_start_where_the_id_changes(ids, kind):
    column = pa.array(ids, kind)
    assert group_starts(pa.table({"group_id": column}), needed_by="it").tolist() == starts(ids)
    sliced = pa.table({"group_id": pa.concat_arrays([pa.array(["before"], kind), column]).slice(1)})
    assert group_starts(sliced, needed_by="it").tolist() == starts(ids)


def test_a_group_that_goes_on_later_is_refused():
    with pytest.raises(GroupOrderError, match="row 2: group 'a' began at row 0"):
        group_starts(pa.table({"group_id": ["a", "b", "a"]}), needed_by="it")


def test_bounds_are_those_of_runs_of_equal_keys():
    assert group_bounds(pa.chunked_array([["a", "a"], ["b", "a"]])).tolist() == [0, 2, 3, 4]
    assert group_bounds(pa.chunked_array([["a", None], [None, "b"]])).tolist() == [0, 1, 2, 3, 4]
    assert group_bounds(pa.chunked_array([[]], pa.string())).tolist() == [0]
    assert {group_bounds(pa.chunked_array([keys], pa.string())).dtype for keys in ([], ["a"])} == {np.dtype(np.int64)}


def test_numbers_count_the_runs():
    assert group_numbers(np.array([0, 2, 3, 4])).tolist() == [0, 0, 1, 2]
    assert group_numbers(np.zeros(1, np.int64)).tolist() == []
