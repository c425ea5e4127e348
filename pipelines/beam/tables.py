"""Rows and tables as the transforms take them: anything a pipeline may hold, as Arrow tables of the contract's types.

No Beam in here.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pass_ops.errors import ColumnTypeError, PassError
from pass_ops.reading import columns
from pass_ops.reading.groups import group_bounds, group_numbers


class BadTable(PassError, ValueError):
    """An element of a PCollection is no table, or not one that can be used; `reason` is a short stable name for it."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


def as_row(element: Any) -> Mapping[str, Any] | None:
    """A dict, a `beam.Row` or a named tuple as a mapping; None for anything else."""
    if isinstance(element, Mapping):
        return element
    for method in ("as_dict", "_asdict"):
        if not hasattr(element, "__arrow_c_stream__") and hasattr(element, method):
            found: Mapping[str, Any] = getattr(element, method)()
            return found
    return None


def as_table(element: Any) -> pa.Table:
    """A table, a record batch, or any other library's (`__arrow_c_stream__`). Raises BadTable `not_a_table`."""
    if isinstance(element, pa.RecordBatch):
        return pa.Table.from_batches([element])
    try:
        return columns.to_table(element)
    except PassError as error:
        raise BadTable("not_a_table", str(error)) from error


def table_of_rows(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows that have the same columns, as a table of the types that Arrow finds in them.

    Raises:
        BadTable: `columns_differ`.
        ColumnTypeError: the values of a column are of several types.
    """
    names = list(rows[0])
    for row in rows:
        if set(row) != set(names):
            differing = sorted(set(row) ^ set(names))
            raise BadTable(
                "columns_differ",
                f"some rows of the group have {', '.join(differing)} and others have not; give every row the same "
                "columns, with null where a value could not be computed",
            )
    arrays = []
    for name in names:
        try:
            arrays.append(pa.array([row[name] for row in rows]))
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise ColumnTypeError(
                f"column {name!r} cannot be read as an Arrow array: {error}; give its values one type"
            ) from error
    return pa.table(arrays, names=names)


def fitted(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the schema's types in the columns that both have; other columns stay as they are.

    What loses nothing is cast, and float64 is rounded to float32, as `pass_ops.shape` does: sources such as JSON and
    BigQuery know no smaller types. Raises ColumnTypeError.
    """
    for place, name in enumerate(table.column_names):
        if name not in schema.names:
            continue
        column, target = table.column(place), _plain(schema.field(name).type)
        if _plain(column.type) != target:
            table = table.set_column(place, name, _cast(column, target, name))
    return table


def with_groups(table: pa.Table, keys: pa.ChunkedArray) -> Iterator[tuple[str | None, pa.Table]]:
    """(group, its rows in their order) for each key of the table, in order of first appearance; None: rows without."""
    bounds = group_bounds(keys)
    heads = keys.take(pa.array(bounds[:-1])).to_pylist()
    rows: dict[str | None, list[np.ndarray]] = {}
    for head, start, stop in zip(heads, bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        rows.setdefault(head, []).append(np.arange(start, stop))
    for group, places in rows.items():
        yield group, table.take(pa.array(np.concatenate(places)))


def homeless(rows: pa.Table) -> Iterator[tuple[int, str]]:
    """For each row that has no group: its sample_index, or its place among these, and what is wrong with it."""
    ids = rows["rollout_id"].to_pylist() if "rollout_id" in rows.column_names else [None] * len(rows)
    indices = rows["sample_index"].to_pylist() if "sample_index" in rows.column_names else [None] * len(rows)
    for place, (rollout_id, index) in enumerate(zip(ids, indices, strict=True)):
        called = f"row {place} of a table" if rollout_id is None else f"rollout {rollout_id!r}"
        yield index if type(index) is int else place, f"{called} belongs to no group; give it the prompt_id"


def by_part(table: pa.Table, keys: pa.ChunkedArray, *, parts: int) -> Iterator[tuple[int, pa.Table]]:
    """(part, the rows of the groups that belong there), each row in one of them."""
    bounds = group_bounds(keys)
    heads = keys.take(pa.array(bounds[:-1])).to_pylist()
    part_of = np.array([part_of_group(head, parts=parts) for head in heads], dtype=np.int64)
    part_R = part_of[group_numbers(bounds)]
    for part in np.unique(part_R).tolist():
        yield part, table.filter(pa.array(part_R == part))


def part_of_group(group: str, *, parts: int) -> int:
    """The part of a group: sha256 of its name, modulo the number of parts. The same everywhere and always.

    >>> [part_of_group(group, parts=5) for group in ("a", "b", "c")]
    [0, 1, 0]
    """
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") % parts


def packed(table: pa.Table) -> bytes:
    """The table as an Arrow stream. Only its own rows: of a slice, Arrow would pickle all that it was cut from."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return sink.getvalue()


def unpacked(content: bytes) -> pa.Table:
    """What `packed` packed."""
    with pa.ipc.open_stream(content) as reader:
        return reader.read_all()


def _cast(column: pa.ChunkedArray, target: pa.DataType, name: str) -> pa.ChunkedArray:
    if pa.types.is_string(target):
        return _as_strings(column, name)
    if pa.types.is_null(column.type):
        return pa.chunked_array([pa.nulls(len(column), target)])
    if pa.types.is_list(target) and not pa.types.is_primitive(target.value_type):
        return column  # messages: `conform` says what is wrong with them
    return pa.chunked_array([columns.to_type(chunk, target, name=name) for chunk in column.chunks], type=target)


def _as_strings(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    texts = (pa.types.is_large_string, pa.types.is_string, pa.types.is_string_view, pa.types.is_null)
    if not any(test(kind) for test in texts) and not (name == "group_id" and pa.types.is_integer(kind)):
        raise ColumnTypeError(f"column {name!r} is {kind}, expected string; store it as one")
    return pc.cast(column, pa.string())


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type without names and nullability of list elements."""
    return pa.list_(_plain(kind.value_type)) if pa.types.is_list(kind) else kind
