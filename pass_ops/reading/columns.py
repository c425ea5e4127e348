"""Columns of a table: found by name, cast where nothing is lost, refused by name otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pass_ops.errors import ColumnTypeError, MissingColumnError, ShapingError
from pass_ops.reading.ragged import one_chunk

TOKENS_OF_BOOL = pa.list_(pa.bool_())
LIST_OF_FLOAT32 = pa.list_(pa.float32())
LIST_OF_INT32 = pa.list_(pa.int32())
SHOWN = 6  # values at the head of a list that an error quotes


class ArrowStream(Protocol):
    """A table or column of any library that speaks Arrow: pyarrow, polars, pandas, ..."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The Arrow C stream, as a PyCapsule."""


def require(table: pa.Table, name: str, *, needed_by: str) -> pa.ChunkedArray:
    """The column `name`, of which there must be exactly one.

    Raises:
        MissingColumnError: none has that name, or several have it.
    """
    found = table.schema.get_all_field_indices(name)
    if len(found) == 1:
        return table.column(found[0])
    if found:
        raise MissingColumnError(f"column {name!r} appears {len(found)} times; keep the one that {needed_by} shall use")
    present = ", ".join(table.column_names) or "(the table has none)"
    raise MissingColumnError(f"column {name!r} is missing: {needed_by} needs it; add it to the columns {present}")


def rollout_name(table: pa.Table, row: int) -> str:
    """How errors call row `row`: by its rollout_id where the table has one, else by its number."""
    if table.schema.get_field_index("rollout_id") >= 0:
        rollout_id = table.column("rollout_id")[row].as_py()
        if rollout_id is not None:
            return f"rollout {rollout_id!r}"
    return f"row {row}"


def to_type(
    array: pa.Array, target: pa.DataType, *, name: str, row_name: Callable[[int], str] = "row {}".format
) -> pa.Array:
    """`array` as `target`, without a copy where it has that type already.

    float64 is rounded to float32. Other widths, large and fixed-size lists and dictionary-encoded values are cast if
    every value survives the round trip. View types and everything else are refused.

    Raises:
        ColumnTypeError: the cast is impossible, would change a value, or a float64 is beyond float32.
    """
    if array.type == target:
        return array
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), target)
    expected = f"column {name!r} is {short_type(array.type)}, expected {short_type(target)}"
    remedy = f"store it as {short_type(target)}"
    if not _castable(array.type, target):
        raise ColumnTypeError(f"{expected}, and there is no cast that loses nothing; {remedy}")
    try:
        cast = array.cast(target)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise ColumnTypeError(f"{expected}, and some value does not fit; {remedy}") from None
    if is_list(array.type) and array.type.value_type == target.value_type:
        return cast  # other offsets over the same values
    before, after = _values(array), _values(cast)
    rounded = pa.types.is_float64(before.type) and pa.types.is_float32(after.type)
    changed = _first_overflow(before, after) if rounded else _first_difference(before, after.cast(before.type))
    if changed is not None:
        row = pc.list_parent_indices(array)[changed].as_py() if is_list(array.type) else changed
        was, becomes = before[changed].as_py(), after[changed].as_py()
        remedy = "scale it down" if rounded else remedy
        raise ColumnTypeError(f"{row_name(row)}: {expected}, and {was!r} would become {becomes!r}; {remedy}")
    return cast


def first_null_in_lists(array: pa.ListArray) -> int | None:
    """The first row whose list holds a null; null lists do not count."""
    if array.buffers()[2] is None:
        return None  # no validity of values at all
    starts = np.asarray(array.offsets)
    if len(array) == 0 or array.values.slice(starts[0], starts[-1] - starts[0]).null_count == 0:
        return None
    nulls = np.flatnonzero(array.values.is_null().to_numpy(zero_copy_only=False))
    rows = np.searchsorted(starts, nulls, side="right") - 1
    in_range = (nulls >= starts[0]) & (nulls < starts[-1])
    inside = rows[in_range][array.is_valid().to_numpy(zero_copy_only=False)[rows[in_range]]]
    return int(inside[0]) if len(inside) else None


def is_list(kind: pa.DataType) -> bool:
    """Whether the type is one of lists of any kind."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _castable(kind: pa.DataType, target: pa.DataType) -> bool:
    if is_list(kind) != is_list(target):
        return False
    if is_list(kind):
        kind = kind.value_type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _values(array: pa.Array) -> pa.Array:
    values = array.flatten() if is_list(array.type) else array
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    return values.cast(pa.float32()) if pa.types.is_float16(values.type) else values  # float16 cannot be compared


def _first_overflow(before: pa.Array, after: pa.Array) -> int | None:
    index = pc.index(pc.and_(pc.is_inf(after), pc.is_finite(before)), True).as_py()
    return None if index < 0 else int(index)


def _first_difference(before: pa.Array, after: pa.Array) -> int | None:
    differs = pc.not_equal(before, after)
    if pa.types.is_floating(before.type):
        differs = pc.and_not(differs, pc.and_(pc.is_nan(before), pc.is_nan(after)))
    index = pc.index(differs, True).as_py()
    return None if index < 0 else int(index)


def short_type(kind: pa.DataType) -> str:
    """Types by the names people use: Arrow prints float32 as "float" and list items with a field name."""
    if pa.types.is_list(kind):
        return f"list<{short_type(kind.value_type)}>"
    return {"halffloat": "float16", "float": "float32", "double": "float64"}.get(str(kind), str(kind))


def shortened(values: list[int]) -> str:
    """The head of a list, and its last value, for an error."""
    if len(values) <= SHOWN + 2:
        return str(values)
    return f"[{', '.join(map(str, values[:SHOWN]))}, ..., {values[-1]}]"


def to_table(given: Any) -> pa.Table:
    """Anything with Arrow's `__arrow_c_stream__` (polars, pandas, ...) as a pyarrow Table.

    Raises:
        ShapingError: `given` has no such method, or holds what Arrow has no type for.
    """
    if isinstance(given, pa.Table):
        return given
    kind = f"{type(given).__module__}.{type(given).__qualname__}"
    if not _speaks_arrow(given):
        raise ShapingError(
            f"expected a table (pyarrow, polars, pandas, or anything else with __arrow_c_stream__), got {kind}; "
            "convert it first (Hugging Face: dataset.with_format('arrow')[:], plain Python: pyarrow.table(columns))"
        )
    try:
        return pa.table(given)
    except (pa.ArrowException, TypeError) as error:
        raise ShapingError(f"this {kind} cannot be read as an Arrow table: {error}; convert it first") from error


def to_array(given: Any, *, name: str) -> pa.Array:
    """An Arrow array, or anything else with `__arrow_c_stream__` or `__arrow_c_array__`, as one array.

    Raises:
        ColumnTypeError: `given` has no such method, or holds what Arrow has no type for.
    """
    if not _speaks_arrow(given):
        raise ColumnTypeError(
            f"{name} is {type(given).__name__}, expected an Arrow list<float32> array (pyarrow, polars, pandas); "
            "pass table['logprobs'], say"
        )
    try:
        return one_chunk(pa.chunked_array(given)) if hasattr(given, "__arrow_c_stream__") else pa.array(given)
    except (pa.ArrowException, TypeError) as error:
        raise ColumnTypeError(f"{name} cannot be read as an Arrow array: {error}; convert it first") from error


def _speaks_arrow(given: Any) -> bool:
    return hasattr(given, "__arrow_c_stream__") or hasattr(given, "__arrow_c_array__")
