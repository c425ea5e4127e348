"""The spool: what a source's rows say, as Arrow tables beside the run, from which parts take the rows of their groups.

The rows of a group may lie anywhere in a source; a part reads them from the spool by their number, of a local spool
without reading the rest. `spooling` writes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pass_ops.reading.ragged import Array
from pass_ops.shards import Store
from pass_ops.shards.schemas import BOOL_LIST, FLOAT_LIST, INT_LIST

DIGEST = 16

SPOOL = pa.schema(
    [
        ("group_id", pa.string()),
        ("task", pa.binary(DIGEST)),  # of prompt or messages: equal where the task is the same
        ("prompt", pa.string()),
        ("messages", pa.string()),  # JSON
        ("text", pa.string()),
        ("prompt_token_ids", INT_LIST),
        ("token_ids", INT_LIST),
        ("logprobs", FLOAT_LIST),
        ("loss_mask", BOOL_LIST),
        ("finish_reason", pa.string()),
        ("answer", pa.string()),
        ("source", pa.string()),
        ("extra", pa.string()),  # JSON
        ("turns", pa.int32()),
        ("reward_names", INT_LIST),  # numbers of names
        ("rewards", pa.list_(pa.float64())),
        ("steps", pa.list_(pa.string())),
        ("step_scores", pa.list_(pa.float64())),
        ("between", pa.string()),
        ("where", pa.string()),
        ("reason", pa.string()),  # why a row was rejected; null for a good one
        ("detail", pa.string()),
        ("key", pa.binary(DIGEST)),  # of group_id; zeros for a rejected row
        ("sample_index", pa.int32()),  # -1 where the source gives none
        ("size", pa.int64()),  # bytes, near enough
    ]
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Index:
    """What putting groups together needs to know of each spooled row, good ones and rejected ones.

    keys: bytes, DIGEST a row, equal where the group is the same. sample_index: -1 where the source gives none.
    sizes: bytes. rejected: bool.
    """

    keys: Array
    sample_index: Array
    sizes: Array
    rejected: Array
    chunk_starts: tuple[int, ...]


def chunk_name(number: int) -> str:
    """The file of a chunk."""
    return f"rows-{number:06d}.arrow"


class Spool:
    """Spooled rows by their number. chunk_starts: the first row of each chunk, and the number of rows."""

    def __init__(self, store: Store, chunk_starts: Sequence[int]) -> None:
        self._store = store
        self._starts = np.asarray(chunk_starts, np.int64)

    def take(self, rows: Array, columns: Sequence[str]) -> pa.Table:
        """These columns of these rows, in the order given."""
        if len(rows) == 0:
            return SPOOL.empty_table().select(list(columns))
        chunk_R = np.searchsorted(self._starts, rows, side="right") - 1
        order = np.argsort(chunk_R, kind="stable")
        pieces = [
            _taken(self._chunk(number).select(list(columns)), rows[which] - self._starts[number])
            for number, which in _runs(chunk_R, order)
        ]
        back = np.empty(len(rows), np.int64)
        back[order] = np.arange(len(rows))
        table = pa.concat_tables(pieces)
        if not (back == np.arange(len(rows))).all():
            table = table.take(pa.array(back))
        return table.combine_chunks()

    def _chunk(self, number: int) -> pa.Table:
        name = chunk_name(number)
        if self._store.is_local:  # only the pages of the rows that are taken are read
            return pa.ipc.open_file(pa.memory_map(self._store.path(name))).read_all()
        return pa.ipc.open_file(self._store.open_arrow(name)).read_all()


def _taken(table: pa.Table, rows: Array) -> pa.Table:
    """These rows; a slice where they follow one another, as those of a source in order of its groups do."""
    first = int(rows[0])
    if (rows == np.arange(first, first + len(rows))).all():
        return table.slice(first, len(rows))
    return table.take(pa.array(rows))


def _runs(chunk_R: Array, order: Array) -> Iterator[tuple[int, Array]]:
    """Each chunk that is needed, and which of the rows lie there."""
    ordered = chunk_R[order]
    cuts = np.flatnonzero(np.diff(ordered)) + 1
    for which in np.split(order, cuts):
        yield int(chunk_R[which[0]]), which
