"""Whether columns of two Parquet files are the same bytes, which says more cheaply than decoding that they are equal.

A column chunk's pages are decoded by what they hold, the codec, the column's element of the schema and the footer's
writer (old ones had faults that readers know) alone. Where all of that is the same, so are the values; where any of it
differs, nothing is said, and the values have to be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def same_pages(
    names: Sequence[str], file: pq.ParquetFile, content: pa.Buffer, other: pq.ParquetFile, other_content: pa.Buffer
) -> bool:
    """Whether both files have these columns, in the same row groups, types and bytes. content: of the whole file."""
    ours, theirs = file.schema_arrow, other.schema_arrow
    if any(not _alike(ours, theirs, name) for name in names) or row_group_sizes(file) != row_group_sizes(other):
        return False
    if file.metadata.created_by != other.metadata.created_by:
        return False
    found, wanted = _leaves(file, names), _leaves(other, names)
    leaves = list(zip(found, wanted, strict=False))
    if len(found) != len(wanted) or not all(file.schema.column(i).equals(other.schema.column(j)) for i, j in leaves):
        return False
    for index in range(file.num_row_groups):
        group, other_group = file.metadata.row_group(index), other.metadata.row_group(index)
        for i, j in leaves:
            own, others = _pages(group.column(i), content), _pages(other_group.column(j), other_content)
            if own is None or others is None or own[0] != others[0] or not own[1].equals(others[1]):
                return False
    return True


def row_group_sizes(file: pq.ParquetFile) -> list[int]:
    """Rows of each row group."""
    return [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]


def _alike(one: pa.Schema, other: pa.Schema, name: str) -> bool:
    """Whether both have one column of the name, of the same type."""
    places = [schema.get_all_field_indices(name) for schema in (one, other)]
    return [len(found) for found in places] == [1, 1] and one.field(places[0][0]) == other.field(places[1][0])


def _leaves(file: pq.ParquetFile, names: Sequence[str]) -> list[int]:
    """The leaf columns below these columns, column by column."""
    below: dict[str, list[int]] = {}
    for leaf, path in enumerate(file.reader.column_paths):
        below.setdefault(path[0], []).append(leaf)
    return [leaf for name in names for leaf in below[name]]


def _pages(chunk: Any, content: pa.Buffer) -> tuple[tuple[Any, ...], pa.Buffer] | None:
    """How a column chunk's pages are to be read, and the pages; None where the footer does not say where they lie."""
    dictionary, first = chunk.dictionary_page_offset, chunk.data_page_offset
    start = first if dictionary is None else dictionary
    if not 0 < start <= first or start + chunk.total_compressed_size > len(content):
        return None
    how = (chunk.compression, chunk.num_values, first - start, chunk.physical_type)
    return how, content[start : start + chunk.total_compressed_size]
