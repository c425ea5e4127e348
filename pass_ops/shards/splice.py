"""A part's file made of columns that lie encoded in other parts' files, and of columns that are encoded here.

Most columns of a shaped part are those of its rollouts and signals, in the same row groups. What Parquet holds of such
a column is copied as it is, and only the footer says where it lies now. No byte of the file depends on that
(tests/pass_ops/shards/test_splice.py): a column is copied only where it is still the very memory that was read from
the file, and where the file was written by the same version of Arrow, in the same format and row groups, with the same
type, nullability and encoding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa

from pass_ops.shards.encoding import encoded, encoded_alike
from pass_ops.shards.footer import I64, LIST, MAGIC, STRUCT, Elements, Struct, read_footer, write_footer

# Fields of parquet.thrift: of FileMetaData, RowGroup, ColumnChunk, ColumnMetaData, SchemaElement.
_SCHEMA, _ROWS, _ROW_GROUPS, _CREATED_BY = 2, 3, 4, 6
_CHUNKS, _GROUP_SIZE, _GROUP_ROWS, _GROUP_OFFSET, _GROUP_COMPRESSED = 1, 2, 3, 5, 6
_METADATA = 3
_PATH, _SIZE, _COMPRESSED, _DATA, _DICTIONARY = 3, 6, 7, 9, 11
_NAME, _CHILDREN = 4, 5


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredPart:
    """A part's file, and the table that was read from it."""

    content: pa.Buffer
    table: pa.Table
    format_version: int


class _Column(NamedTuple):
    """A column of a file: its elements of the schema, and the ColumnChunks of its leaves in every row group."""

    file: memoryview
    schema: list[Struct]
    chunks: list[list[Struct]]


def spliced(
    table: pa.Table,
    row_groups: Sequence[tuple[int, int]],
    *,
    stored: Sequence[StoredPart],
    stage: str,
    format_version: int,
) -> bytes:
    """What `encoded` makes of the table; columns that are still as they were read from `stored` are copied."""
    empty = memoryview(encoded(table.slice(0, 0), [], stage=stage, format_version=format_version))
    footer = read_footer(empty)
    wanted = _columns(empty, footer)
    sizes = [stop - start for start, stop in row_groups]
    columns: dict[str, _Column] = {}
    for part in stored:
        if part.format_version == format_version:
            columns |= _copied(table, part, wanted=wanted, sizes=sizes, created_by=footer[_CREATED_BY])
    others = table.select([name for name in table.column_names if name not in columns])
    made = memoryview(encoded(others, row_groups, stage=stage, format_version=format_version))
    columns |= _columns(made, read_footer(made))
    return _joined([(name, columns[name]) for name in table.column_names], sizes, footer)


def _copied(
    table: pa.Table, part: StoredPart, *, wanted: Mapping[str, _Column], sizes: Sequence[int], created_by: Any
) -> dict[str, _Column]:
    """The columns of the table that may be copied from the part."""
    content = memoryview(part.content)
    footer = read_footer(content)
    if footer[_CREATED_BY] != created_by or [group[_GROUP_ROWS][1] for group in _row_groups(footer)] != list(sizes):
        return {}
    there = _columns(content, footer)
    places = {_place(part.table[name]): name for name in part.table.column_names}
    found = {}
    for name in table.column_names:
        source = places.get(_place(table[name]))
        if source is None or not encoded_alike(source, name):
            continue
        if _unnamed(there[source].schema) == _unnamed(wanted[name].schema):
            found[name] = there[source]
    return found


def _place(column: pa.ChunkedArray) -> tuple[Any, ...]:
    """Where the column lies in memory: equal for two columns only if they are the same one."""
    return tuple(_place_of(chunk) for chunk in column.chunks)


def _place_of(array: pa.Array) -> tuple[Any, ...]:
    inside = _place_of(array.values) if pa.types.is_list(array.type) else ()
    addresses = [None if buffer is None else buffer.address for buffer in array.buffers()]
    return (str(array.type), array.offset, len(array), *addresses, *inside)


def _row_groups(footer: Struct) -> list[Struct]:
    found: list[Struct] = footer[_ROW_GROUPS][1].values
    return found


def _columns(file: memoryview, footer: Struct) -> dict[str, _Column]:
    """The columns of a file by name; the schema lists each element before its children."""
    elements: list[Struct] = footer[_SCHEMA][1].values
    found: dict[str, _Column] = {}
    at, leaf = 1, 0  # the first is the table itself
    while at < len(elements):
        first, open_ = at, 1
        while open_:
            open_ += elements[at].get(_CHILDREN, (0, 0))[1] - 1
            at += 1
        schema = elements[first:at]
        leaves = slice(leaf, leaf + sum(_CHILDREN not in element for element in schema))
        leaf = leaves.stop
        chunks = [group[_CHUNKS][1].values[leaves] for group in _row_groups(footer)]
        found[schema[0][_NAME][1].decode()] = _Column(file, schema, chunks)
    return found


def _unnamed(schema: list[Struct]) -> list[Struct]:
    """The elements of a column without the column's name."""
    return [{field: value for field, value in schema[0].items() if field != _NAME}, *schema[1:]]


def _joined(columns: Sequence[tuple[str, _Column]], sizes: Sequence[int], footer: Struct) -> bytes:
    """A file of these columns. footer: that of a file of the same schema without rows."""
    pieces: list[bytes | memoryview] = [MAGIC]
    at = len(MAGIC)
    groups = []
    for group, rows in enumerate(sizes):
        chunks, start = [], at
        for name, column in columns:
            for chunk in column.chunks[group]:
                metadata = chunk[_METADATA][1]
                first, size = metadata.get(_DICTIONARY, metadata[_DATA])[1], metadata[_COMPRESSED][1]
                pieces.append(column.file[first : first + size])
                chunks.append({**chunk, _METADATA: (STRUCT, _moved(metadata, name, by=at - first))})
                at += size
        inner = [chunk[_METADATA][1] for chunk in chunks]
        groups.append(
            {
                _CHUNKS: (LIST, Elements(STRUCT, chunks)),
                _GROUP_SIZE: (I64, sum(metadata[_SIZE][1] for metadata in inner)),
                _GROUP_ROWS: (I64, rows),
                _GROUP_OFFSET: (I64, start),
                _GROUP_COMPRESSED: (I64, at - start),
            }
        )
    whole = {**footer, _ROWS: (I64, sum(sizes)), _ROW_GROUPS: (LIST, Elements(STRUCT, groups))}
    return b"".join([*pieces, write_footer(whole)])


def _moved(metadata: Struct, name: str, *, by: int) -> Struct:
    """A ColumnMetaData of pages that lie elsewhere, in a column of this name."""
    kind, path = metadata[_PATH]
    moved = {**metadata, _PATH: (kind, Elements(path.kind, [name.encode(), *path.values[1:]]))}
    for field in (_DATA, _DICTIONARY):
        if field in metadata:
            moved[field] = (I64, metadata[field][1] + by)
    return moved
