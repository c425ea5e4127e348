"""The live elements of a stream in one rollout (docs/spec/streams.md section 2), for `streams`, and a group's rows."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import pyarrow as pa

from pass_ops import Stream
from pass_ops.reading.stream_sources import Source
from pipelines.inspect.explain.pools import Number

Fields = Mapping[str, Any]


class Live(NamedTuple):
    """Where an element lies, and its stored value. first and last: its first and last token that count; place: of the
    value in its list.
    """

    first: int
    last: int
    place: int
    raw: float


@dataclass(frozen=True, slots=True)
class Element:
    """A live element, and what becomes of it: x before the operator, center and scale of the operator, the
    standardized value, and y after the transforms that follow.
    """

    live: Live
    x: Number
    center: float | None
    scale: float | None
    standardized: Number
    y: Number

    @property
    def first(self) -> int:
        """Its first token that counts."""
        return self.live.first

    @property
    def last(self) -> int:
        """Its last token that counts."""
        return self.live.last


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """One rollout: its row, its tokens that count, how many there are in all, and each stream's elements."""

    row: Fields
    counting: Sequence[int]
    length: int
    y: Mapping[str, Sequence[Element]]


def counting_of(row: Fields) -> tuple[list[int], int]:
    """The tokens of a rollout that count, and how many there are in all."""
    mask = row["loss_mask"]
    return [t for t, counts in enumerate(mask) if counts], len(mask)


def states_of(stream: Stream, row: Fields, live: Sequence[Live]) -> Sequence[object]:
    """The state of each element; None where the stream's pool is not that of a state."""
    if stream.pool != "state":
        return [None] * len(live)
    value = row[str(stream.key)]
    return [value[one.place] for one in live] if isinstance(value, list) else [value] * len(live)


def live_elements(source: Source, row: Fields, counting: Sequence[int], *, length: int) -> list[Live]:
    """A stream's elements in a rollout, in order. counting: its tokens that count; length: all of them."""
    values = row[source.values]
    if source.level == "rollout":
        return [Live(0, length - 1, 0, float(values))]
    if source.level == "token":
        return [Live(t, t, t, float(values[t])) for t in counting]
    found = []
    for place, (start, end) in enumerate(pairwise([0, *row[str(source.ends)]])):
        first, after = bisect_left(counting, start), bisect_left(counting, end)
        if first < after:
            found.append(Live(counting[first], counting[after - 1], place, float(values[place])))
    return found


def rows_of(table: pa.Table, *, kept: bool) -> Sequence[Fields]:
    """The rows of a table: kept as Python values, of tens of bytes each, or read by column as they are asked for."""
    if kept:
        rows: list[Fields] = table.to_pylist()
        return rows
    columns = {name: table[name] for name in table.column_names}
    return [_StoredFields(columns, index) for index in range(len(table))]


class _StoredFields(Mapping[str, Any]):
    """One row of a table."""

    def __init__(self, columns: Mapping[str, pa.ChunkedArray], index: int) -> None:
        self._columns, self._index = columns, index

    def __getitem__(self, name: str) -> Any:
        return self._columns[name][self._index].as_py()

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)
