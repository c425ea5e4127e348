"""List columns are looked at where they lie: of a slice its own rows, whatever stands around them."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest

from pass_ops.reading.columns import first_null_in_lists
from pass_ops.reading.ragged import RaggedBits, list_array, list_lengths, list_values, offsets


@pytest.mark.parametrize("skipped", [0, 3])
def test_all_true_looks_at_every_bit_of_its_rows_and_at_no_other(skipped):
    for first, length in itertools.product(range(10), range(27)):
        values = first + length + 9
        for wrong in (None, *range(values)):
            bits = pa.array([n - skipped != wrong for n in range(values + skipped)]).slice(skipped)
            rows = RaggedBits(starts_R1=np.array([first, first + length // 2, first + length]), bits=bits)
            assert rows.all_true() is (wrong is None or not first <= wrong < first + length), (first, length, wrong)


LISTS = ([1, 2], None, [], [3, None], [4], [None, None, 5], [6], [None])


def test_the_first_list_of_a_slice_that_holds_a_null():
    array = pa.array(LISTS, pa.list_(pa.int32()))
    for first, last in itertools.combinations_with_replacement(range(len(LISTS) + 1), 2):
        holding = [row for row, values in enumerate(LISTS[first:last]) if values and None in values]
        assert first_null_in_lists(array.slice(first, last - first)) == (holding[0] if holding else None)


def test_what_lies_behind_a_null_list_does_not_count():
    values = pa.array([1, None, 2], pa.int32())
    array = pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), values, mask=pa.array([False, True, False]))
    assert array.to_pylist() == [[1], None, [2]]
    assert first_null_in_lists(array) is None


def test_lengths_and_values_of_sliced_null_and_chunked_lists():
    column = pa.chunked_array([pa.array([[1], [2, 3], None, []]).slice(1), pa.array([[4, 5, 6]])])
    assert list_lengths(column).tolist() == [2, 0, 0, 3]
    assert list_values(column).tolist() == [2, 3, 4, 5, 6]
    assert list_lengths(column.chunk(0)).tolist() == [2, 0, 0]
    assert list_values(column.chunk(0)).tolist() == [2, 3]
    nothing = pa.chunked_array([], pa.list_(pa.int32()))
    assert (list_lengths(nothing).tolist(), list_values(nothing).tolist()) == ([], [])
    assert {list_lengths(column).dtype, list_lengths(nothing).dtype} == {np.dtype(np.int64)}
    assert list_values(pa.array([[True], [False]])).tolist() == [True, False]


def test_a_null_list_over_values_has_none():
    hidden = pa.ListArray.from_arrays([0, 2, 3], pa.array([1, 2, 3]), mask=pa.array([True, False]))
    assert (list_lengths(hidden).tolist(), list_values(hidden).tolist()) == ([0, 1], [3])


@pytest.mark.parametrize("values", [np.int32([1, 2, 3]), np.float32([1, 2, 3]), np.array([True, False, True])])
def test_offsets_and_values_make_a_list_array(values):
    made = list_array(offsets(np.array([2, 0, 1])), values)
    assert made.to_pylist() == [values[:2].tolist(), [], values[2:].tolist()]
    assert list_array(offsets(np.array([2, 0, 1])), values, valid_R=np.array([True, False, True]))[1].as_py() is None
