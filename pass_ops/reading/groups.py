"""Where groups start: the rows of one group_id are adjacent."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pass_ops.errors import ColumnTypeError, GroupOrderError, NullValueError
from pass_ops.reading import columns
from pass_ops.reading.ragged import Array


def group_bounds(keys: pa.Array | pa.ChunkedArray) -> Array:
    """Rows at which a run of equal keys starts, and the number of rows at the end (int64, runs + 1 values).

    >>> group_bounds(pa.array(["a", "a", "b", "a"]))
    array([0, 2, 3, 4])
    """
    if len(keys) == 0:
        return np.zeros(1, dtype=np.int64)
    differs = pc.fill_null(pc.not_equal(keys.slice(1), keys.slice(0, len(keys) - 1)), True)
    return np.concatenate(([0], np.flatnonzero(differs.to_numpy(zero_copy_only=False)) + 1, [len(keys)]))


def group_numbers(bounds_G1: Array) -> Array:
    """For each row, which run of `group_bounds` it belongs to (int64).

    >>> group_numbers(np.array([0, 2, 3, 4]))
    array([0, 0, 1, 2])
    """
    return np.repeat(np.arange(len(bounds_G1) - 1), np.diff(bounds_G1))


def group_starts(table: pa.Table, *, needed_by: str) -> Array:
    """`group_bounds` of the column group_id, of which every group is one run.

    Raises:
        MissingColumnError, ColumnTypeError: there is no such column of strings.
        NullValueError: a null group_id.
        GroupOrderError: a group's rows are not adjacent.
    """
    column = _strings(columns.require(table, "group_id", needed_by=needed_by))
    if column.null_count:
        row = pc.index(column.is_null(), True).as_py()
        raise NullValueError(
            f"{columns.rollout_name(table, row)}: group_id is null, so it belongs to no group; give it the prompt_id"
        )
    bounds_G1 = group_bounds(column)
    names = column.take(pa.array(bounds_G1[:-1]))
    if len(names.unique()) != len(names):
        _raise_not_adjacent(table, bounds_G1[:-1], names)
    return bounds_G1


def _raise_not_adjacent(table: pa.Table, heads: Array, names: pa.ChunkedArray) -> None:
    seen: dict[object, int] = {}
    for row, name in zip(heads.tolist(), names.to_pylist(), strict=True):
        if name in seen:
            raise GroupOrderError(
                f"{columns.rollout_name(table, row)}: group {name!r} began at row {seen[name]}, ended, and goes on at "
                f"row {row}; its statistics would be split; sort the table by group_id first"
            )
        seen[name] = row


def _strings(column: pa.ChunkedArray) -> pa.ChunkedArray:
    encoded = pa.types.is_dictionary(column.type)
    kind = column.type.value_type if encoded else column.type
    if not any(test(kind) for test in _GROUP_IDS):
        raise ColumnTypeError(
            f"column 'group_id' is {columns.short_type(kind)}, expected string; store the prompt_id as a string"
        )
    target = pa.large_string() if pa.types.is_string_view(kind) else pa.string() if pa.types.is_null(kind) else kind
    if encoded:  # Arrow cannot decode a dictionary of views, such as polars' categories
        chunks = [pa.DictionaryArray.from_arrays(c.indices, c.dictionary.cast(target)) for c in column.chunks]
        column = pa.chunked_array(chunks, type=pa.dictionary(column.type.index_type, target))
    return column.cast(target)


_GROUP_IDS = (
    pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_integer, pa.types.is_null,
)  # fmt: skip
