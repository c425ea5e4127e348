"""Rows of a file, one after the other: JSON lines, a JSON array or Parquet, on any fsspec URL, in bounded memory.

What is wrong with one row is a RejectedRow in its place, and the rows behind it are read. Pickle is not read.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple, cast

import pyarrow as pa

from pass_ops.shards.documents import parse_json
from pass_ops.shards.store import Store
from pass_ops.shards.tables import open_parquet
from pipelines.rows.record import RejectedRow, RowError, RowFileError

#: a longer row is rejected unread: a real one has some thousand bytes
MAX_ROW_BYTES = 16 * 2**20
_BLOCK = 2**20
_BATCH = 256
_BOM = b"\xef\xbb\xbf"
_MARK = re.compile(rb'[\\"\[\]{},]')


class SourceRow(NamedTuple):
    """One row: its place, its number in the file (a line's from 1, a Parquet row's from 0), and its values."""

    where: str
    number: int
    values: dict[str, Any]


def read_rows(url: str, *, skip: int = 0) -> Iterator[SourceRow | RejectedRow]:
    """The rows of a .jsonl, .ndjson, .json or .parquet file, in order, without the first `skip`, which are not parsed.

    Raises RowFileError.
    """
    store = Store(os.path.expanduser(url))
    name = posixpath.basename(store.path())
    suffix = posixpath.splitext(name)[1].lower()
    if suffix not in (".jsonl", ".ndjson", ".json", ".parquet"):
        raise RowFileError(
            f"{url}: rows are read from .jsonl, .ndjson, .json and .parquet files, and {suffix or 'no suffix'!r} is "
            "none of them. Convert the file."
        )
    try:
        if suffix == ".parquet":
            yield from _parquet_rows(store, name, skip)
        else:
            with store.open("") as stream:
                yield from _json_rows(cast(BinaryIO, stream), name, skip, array=suffix == ".json")
    except FileNotFoundError as error:
        raise RowFileError(f"{url} does not exist. Give the path of a file that is there.") from error
    except OSError as error:
        raise RowFileError(f"{url} cannot be read: {error.strerror or error}.") from error


def _json_rows(stream: BinaryIO, name: str, skip: int, *, array: bool) -> Iterator[SourceRow | RejectedRow]:
    first = stream.read(_BLOCK)
    first = first.removeprefix(_BOM)
    pieces = _items if array and first.lstrip()[:1] == b"[" else _lines
    for number, content in pieces(_blocks(first, stream)):
        if pieces is _lines and not isinstance(content, RowError) and not content.strip():
            continue
        if skip:
            skip -= 1
            continue
        where = f"{name}:{number}"
        if isinstance(content, RowError):
            yield RejectedRow(where=where, reason=content.reason, detail=str(content))
        else:
            yield parsed_row(content, where, number)


def parsed_row(content: bytes, where: str, number: int) -> SourceRow | RejectedRow:
    """The row of a JSON object in UTF-8, or why it is none."""
    try:
        values = parse_json(content)
    except UnicodeDecodeError as error:
        return RejectedRow(where=where, reason="encoding", detail=f"it is not UTF-8: {error}")
    except json.JSONDecodeError as error:
        return RejectedRow(where=where, reason="json", detail=f"it is not JSON: {error}")
    except ValueError as error:
        return RejectedRow(where=where, reason="json", detail=str(error))
    if not isinstance(values, dict):
        return RejectedRow(where=where, reason="json", detail=f"it holds a {type(values).__name__}, not an object")
    return SourceRow(where, number, values)


def _blocks(first: bytes, stream: BinaryIO) -> Iterator[bytes]:
    while first:
        yield first
        first = stream.read(_BLOCK)


class _Held:
    """The pieces of a row that goes on in the next block; they are let go of once they are too long."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, piece: bytes) -> None:
        self._size += len(piece)
        self._pieces.append(piece)
        if self._size > MAX_ROW_BYTES:
            self._pieces.clear()

    def take(self, piece: bytes) -> bytes | RowError:
        """The whole row with its last piece, or that it was too long; nothing is held any more."""
        self.add(piece)
        whole = b"".join(self._pieces) if self._size <= MAX_ROW_BYTES else None
        self._pieces, self._size = [], 0
        return RowError("gigantic", f"it is longer than {MAX_ROW_BYTES // 2**20} MiB") if whole is None else whole


def _lines(blocks: Iterator[bytes]) -> Iterator[tuple[int, bytes | RowError]]:
    """Number and content of each line."""
    held, number = _Held(), 1
    for block in blocks:
        *ended, rest = block.split(b"\n")
        for piece in ended:
            yield number, held.take(piece)
            number += 1
        held.add(rest)
    yield number, held.take(b"")


def _items(blocks: Iterator[bytes]) -> Iterator[tuple[int, bytes | RowError]]:
    """First line and content of each item of an array, split at the commas of its own level.

    Only quotes, escapes and brackets are looked at. What follows the array is one more item, which is no JSON.
    """
    held, line, lines = _Held(), 1, 0
    depth, quoted, skipped, several = 0, False, -1, False
    for block in blocks:
        start = 0
        for mark in _MARK.finditer(block):
            at, byte = mark.start(), mark[0]
            if at == skipped:
                continue
            if quoted:
                quoted, skipped = byte != b'"', at + 1 if byte == b"\\" else -1
                continue
            quoted = byte == b'"'
            depth += (byte in b"[{") - (byte in b"]}")
            opens, ends = byte == b"[" and depth == 1, byte == b"]" and depth == 0
            if opens or ends or (byte == b"," and depth == 1):
                content = held.take(block[start:at])
                lines += block.count(b"\n", start, at)
                empty = ends and not several and _is_blank(content)
                if not (opens or empty):
                    yield line + _blank_lines(content), content
                several = several or not opens
                line, lines, start = line + lines, 0, at + 1
        skipped = 0 if skipped == len(block) else -1
        held.add(block[start:])
        lines += block.count(b"\n", start)
    rest = held.take(b"")
    if not _is_blank(rest):
        yield line + _blank_lines(rest), rest
    if depth > 0:
        yield line + lines, RowError("truncated", "the file ends here, within its array")


def _is_blank(content: bytes | RowError) -> bool:
    return isinstance(content, bytes) and not content.strip()


def _blank_lines(content: bytes | RowError) -> int:
    """Line ends before what a row says."""
    return content[: len(content) - len(content.lstrip())].count(b"\n") if isinstance(content, bytes) else 0


def _parquet_rows(store: Store, name: str, skip: int) -> Iterator[SourceRow | RejectedRow]:
    number = 0
    try:
        file = open_parquet(store.open_arrow())
        columns = file.schema_arrow.names
        if twice := [column for column in columns if columns.count(column) > 1]:
            raise RowFileError(f"{name} has two columns named {twice[0]!r}; rename one of them.")
        for batch in file.iter_batches(batch_size=_BATCH):
            if number + batch.num_rows <= skip:
                number += batch.num_rows
                continue
            batch.validate(full=True)  # texts that are not UTF-8
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                if number >= skip:
                    yield SourceRow(f"{name} row {number}", number, dict(zip(columns, row, strict=True)))
                number += 1
    except pa.ArrowException as error:
        raise RowFileError(
            f"{name} cannot be read as Parquet beyond row {number}: {error}. Copy or make it again."
        ) from error
