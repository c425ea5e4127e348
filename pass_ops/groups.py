"""Where groups start: rows of one group_id must be adjacent."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pass_ops import columns
from pass_ops.errors import ColumnTypeError, GroupOrderError, NullValueError
from pass_ops.jit import kernel
from pass_ops.ragged import Array, frozen


def group_starts(table: pa.Table, *, needed_by: str) -> np.ndarray:
    """Row numbers at which a group starts, and the number of rows at the end (int64, G + 1 values).

    Raises:
        NullValueError: a null group_id.
        GroupOrderError: a group's rows are not adjacent.
    """
    column = _strings(columns.require(table, "group_id", needed_by=needed_by))
    rows = len(column)
    if column.null_count:
        row = pc.index(column.is_null(), True).as_py()
        raise NullValueError(
            f"{columns.rollout_name(table, row)}: group_id is null, so it belongs to no group; give it the prompt_id"
        )
    if rows == 0:
        return np.zeros(1, dtype=np.int64)
    heads = _heads(column)
    names = column.take(pa.array(heads))
    if len(names.unique()) != len(heads):
        _raise_not_adjacent(table, heads, names)
    return np.append(heads, rows)


def _heads(column: pa.ChunkedArray) -> Array:
    """Rows whose value is not that of the row before."""
    if column.num_chunks == 1 and pa.types.is_string(column.type):
        array = column.chunk(0)
        _, starts, values = array.buffers()
        bytes_ = np.empty(0, np.uint8) if values is None else np.frombuffer(values, np.uint8)
        starts_R1 = np.frombuffer(starts, np.int32)[array.offset : array.offset + len(array) + 1]
        return _string_heads(frozen(starts_R1), frozen(bytes_))
    changes = pc.not_equal(column.slice(1), column.slice(0, len(column) - 1)).to_numpy()
    return np.concatenate([[0], np.flatnonzero(changes) + 1])


@kernel
def _string_heads(starts_R1: Array, bytes_: Array) -> Array:
    heads = np.empty(len(starts_R1) - 1, dtype=np.int64)
    found = 0
    for r in range(len(heads)):
        start, stop = starts_R1[r], starts_R1[r + 1]
        same = r > 0 and stop - start == start - starts_R1[r - 1]
        n = 1
        while same and n <= stop - start:  # from the end, where the ids of a dataset differ
            same = bytes_[stop - n] == bytes_[start - n]
            n += 1
        if not same:
            heads[found] = r
            found += 1
    return heads[:found]


def _raise_not_adjacent(table: pa.Table, heads: np.ndarray, names: pa.ChunkedArray) -> None:
    seen: dict[object, int] = {}
    for row, name in zip(heads.tolist(), names.to_pylist(), strict=True):
        if name in seen:
            raise GroupOrderError(
                f"{columns.rollout_name(table, row)}: group {name!r} began at row {seen[name]}, ended, and goes on at "
                f"row {row}; its statistics would be split; sort the table by group_id first"
            )
        seen[name] = row


def _strings(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_string_view(kind):
        return column.cast(pa.large_string())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind):
        return column
    if pa.types.is_null(kind):
        return column.cast(pa.string())
    raise ColumnTypeError(
        f"column 'group_id' is {columns.short_type(kind)}, expected string; store the prompt_id as a string"
    )
