"""List columns are looked at where they lie: of a slice its own rows, whatever stands around them."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest

from pass_ops.columns import first_null_in_lists
from pass_ops.ragged import RaggedBits


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
