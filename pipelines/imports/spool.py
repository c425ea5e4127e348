"""The spool: what a source's rows say, as Arrow tables beside the run, from which parts take the rows of their groups.

Every row of the source is parsed and checked once, in order, and memory holds one chunk. The rows of a group may lie
anywhere in a source; a part then reads them from the spool by their number, of a local spool without reading the rest.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from pass_ops.reading.ragged import Array
from pass_ops.shards import Store
from pass_ops.shards.schemas import BOOL_LIST, FLOAT_LIST, INT_LIST
from pipelines.imports.known import Known
from pipelines.imports.record import Format, Place, Record
from pipelines.rows.record import RejectedRow

CHUNK_ROWS = 8192
CHUNK_BYTES = 64 * 2**20
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


@dataclass(kw_only=True)
class _Rows:
    """The columns of the index under way: some 29 bytes a row."""

    keys: bytearray = field(default_factory=bytearray)
    sample_index: array[int] = field(default_factory=lambda: array("i"))
    sizes: array[int] = field(default_factory=lambda: array("q"))
    rejected: bytearray = field(default_factory=bytearray)
    chunk_starts: list[int] = field(default_factory=lambda: [0])

    def index(self) -> Index:
        return Index(
            keys=np.frombuffer(bytes(self.keys), np.uint64).reshape(-1, DIGEST // 8),
            sample_index=np.array(self.sample_index, np.int32),
            sizes=np.array(self.sizes, np.int64),
            rejected=np.frombuffer(bytes(self.rejected), np.bool_),
            chunk_starts=tuple(self.chunk_starts),
        )


def chunk_name(number: int) -> str:
    """The file of a chunk."""
    return f"rows-{number:06d}.arrow"


def write_spool(
    rows: Iterable[tuple[Place, Record] | RejectedRow],
    store: Store,
    form: Format,
    known: Known,
    *,
    group_size: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Index:
    """Spool every row; `known` is told what the records hold. group_size: neighbours form groups of this many."""
    kept, chunk, size = _Rows(), [], 0
    name_group = _Groups(form, group_size)
    for row in rows:
        if isinstance(row, RejectedRow):
            values, key, sample, weight = _rejected(row), bytes(DIGEST), -1, 0
        else:
            place, record = row
            values = _values(place, record, name_group(place, record), known)
            key, sample = _digest(values[0]), -1 if record.sample_index is None else record.sample_index
            weight = _size(record)
        chunk.append(values)
        size += weight
        kept.keys += key
        kept.sample_index.append(sample)
        kept.sizes.append(weight)
        kept.rejected.append(isinstance(row, RejectedRow))
        if len(chunk) == CHUNK_ROWS or size >= CHUNK_BYTES:
            _flush(chunk, store, kept, known)
            size = 0
            if progress is not None:
                progress(kept.chunk_starts[-1])
    if chunk:
        _flush(chunk, store, kept, known)
    return kept.index()


class _Groups:
    """A record's group_id, by the rule that its format declares."""

    def __init__(self, form: Format, group_size: int | None) -> None:
        self._rule, self._size = form.group, group_size
        self._before: tuple[str | None, bytes] | None = None
        self._name, self._count = "", 0

    def __call__(self, place: Place, record: Record) -> str:
        if self._rule == "key":
            return _encoded(str(record.group))
        if self._rule == "row":
            return _encoded(f"{_base(place)}-{place.number}")
        task = _task(record)
        if self._rule == "prompt":
            return _encoded(f"{_base(place) if record.group is None else record.group}-{task.hex()[:16]}")
        if self._before != (record.group, task) or self._count == self._size:
            self._before, self._count = (record.group, task), 0
            self._name = _encoded(f"{_base(place)}-{place.number}")
        self._count += 1
        return self._name


def _base(place: Place) -> str:
    return place.file.rsplit(".", 1)[0]


def _encoded(name: str) -> str:
    """As the contract has it: "/" percent-encoded."""
    return name.replace("/", "%2F")


def _task(record: Record) -> bytes:
    if record.prompt is not None:
        return _digest(record.prompt)
    if record.messages is not None:
        return _digest(json.dumps(list(record.messages)))
    return hashlib.blake2b(np.asarray(record.prompt_token_ids).tobytes(), digest_size=DIGEST).digest()


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=DIGEST).digest()


def _size(record: Record) -> int:
    """Bytes of a record, near enough."""
    size = len(record.text or "") + len(record.prompt or "") + 64
    if record.token_ids is not None:
        size += 9 * len(record.token_ids) + 4 * len(
            record.prompt_token_ids if record.prompt_token_ids is not None else ()
        )
    return size


def _values(place: Place, record: Record, group_id: str, known: Known) -> tuple[Any, ...]:
    known.note(record)
    names = [known.reward_number(name) for name in record.rewards]
    return (
        group_id,
        _task(record),
        record.prompt,
        None if record.messages is None else json.dumps(list(record.messages), ensure_ascii=False),
        record.text,
        record.prompt_token_ids,
        record.token_ids,
        record.logprobs,
        record.loss_mask,
        record.finish_reason,
        record.answer,
        record.source,
        None if record.extra is None else json.dumps(record.extra, ensure_ascii=False, default=str),
        record.turns,
        names,
        list(record.rewards.values()),
        record.steps,
        record.step_scores,
        record.between,
        place.where,
        None,
        None,
    )


def _rejected(row: RejectedRow) -> tuple[Any, ...]:
    given = {"where": row.where, "reason": row.reason, "detail": row.detail}
    return tuple(given.get(name) for name in SPOOL.names)


def _flush(chunk: list[tuple[Any, ...]], store: Store, kept: _Rows, known: Known) -> None:
    columns = [pa.array(values, column.type) for values, column in zip(zip(*chunk, strict=True), SPOOL, strict=True)]
    table = pa.table(columns, schema=SPOOL)
    known.note_logprobs([row[SPOOL.get_field_index("logprobs")] for row in chunk])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, SPOOL) as writer:
        writer.write_table(table)
    store.put(chunk_name(len(kept.chunk_starts) - 1), sink.getvalue().to_pybytes())
    kept.chunk_starts.append(kept.chunk_starts[-1] + len(chunk))
    chunk.clear()


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
            self._chunk(number).select(list(columns)).take(pa.array(rows[which] - self._starts[number]))
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


def _runs(chunk_R: Array, order: Array) -> Iterator[tuple[int, Array]]:
    """Each chunk that is needed, and which of the rows lie there."""
    ordered = chunk_R[order]
    cuts = np.flatnonzero(np.diff(ordered)) + 1
    for which in np.split(order, cuts):
        yield int(chunk_R[which[0]]), which
