"""Writing the spool: every row of a source is parsed and checked once, in order, and memory holds one chunk.

A chunk is a file; its schema's metadata hold what was known once it was full, so that spooling goes on behind the last
chunk that is there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pass_ops.shards import Store
from pass_ops.support.garbage import no_search_for_cycles
from pipelines.imports.known import Known
from pipelines.imports.record import Format, Place, Record
from pipelines.imports.sources import Entry, Position, SourceFile, read_entries
from pipelines.imports.spool import DIGEST, SPOOL, Index, chunk_name
from pipelines.rows.record import RejectedRow

CHUNK_ROWS = 8192
CHUNK_BYTES = 64 * 2**20
_INDEX = ["key", "sample_index", "size", "reason"]
_STATE = b"passrl"
_NOTHING = Record()


def write_spool(
    files: Sequence[SourceFile],
    store: Store,
    form: Format,
    *,
    group_size: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[Index, Known]:
    """Spool every row that is not in it yet, and say what is known of all.

    group_size: neighbours form groups of this many. Raises RowFileError for a file that cannot be read.
    """
    kept = _Kept(store, _Groups(form, group_size))
    kept.take_up()
    with no_search_for_cycles():  # records hold none, and among so many it takes as long as the import
        _spool(read_entries(files, form, start=kept.read), kept, progress)
    return kept.index(), kept.known


def _spool(rows: Iterator[tuple[int, int, list[Entry]]], kept: _Kept, progress: Callable[[int], None] | None) -> None:
    chunk, before = _Chunk(), (kept.read.files, kept.read.rows)
    for file, row, entries in rows:
        if chunk.full:  # a row's entries lie in one chunk
            kept.put(chunk, Position(files=before[0], rows=before[1]))
            chunk = _Chunk()
            if progress is not None:
                progress(kept.starts[-1])
        for entry in entries:
            if isinstance(entry, RejectedRow):
                chunk.reject(entry)
            else:
                chunk.add(*entry, kept.groups(*entry))
        before = (file, row + 1)
    if chunk.records:
        kept.put(chunk, Position(files=before[0], rows=before[1]))


@dataclass(kw_only=True)
class _Chunk:
    """Rows of a chunk under way. A rejected one stands as an empty record. group: name, and digest of the task."""

    records: list[Record] = field(default_factory=list)
    wheres: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    groups: list[tuple[str | None, bytes | None]] = field(default_factory=list)
    rejected: dict[int, RejectedRow] = field(default_factory=dict)
    size: int = 0

    @property
    def full(self) -> bool:
        return len(self.records) >= CHUNK_ROWS or self.size >= CHUNK_BYTES

    def add(self, place: Place, record: Record, group: tuple[str | None, bytes | None]) -> None:
        self.records.append(record)
        self.wheres.append(place.where)
        self.groups.append(group)
        self.sizes.append(size := _size(record))
        self.size += size

    def reject(self, row: RejectedRow) -> None:
        self.rejected[len(self.records)] = row
        self.records.append(_NOTHING)
        self.wheres.append(row.where)
        self.sizes.append(0)
        self.groups.append((None, None))

    def table(self, known: Known) -> pa.Table:
        """As columns; `known` numbers the rewards."""
        columns = dict(zip(Record._fields, zip(*self.records, strict=True), strict=True))
        groups, tasks = zip(*self.groups, strict=True)
        rejected = [self.rejected.get(at) for at in range(len(self.records))]
        names = [tuple(rewards) for rewards in columns["rewards"]]
        numbers = {one: known.reward_numbers(one) for one in dict.fromkeys(names)}
        own = {
            "group_id": groups,
            "task": tasks,
            "messages": [None if chat is None else _json(list(chat)) for chat in columns["messages"]],
            "extra": [None if extra is None else _json(extra) for extra in columns["extra"]],
            "reward_names": [numbers[one] for one in names],
            "rewards": [list(rewards.values()) for rewards in columns["rewards"]],
            "where": self.wheres,
            "reason": [None if row is None else row.reason for row in rejected],
            "detail": [None if row is None else row.detail for row in rejected],
            "key": _keys(groups),
            "sample_index": [-1 if index is None else index for index in columns["sample_index"]],
            "size": self.sizes,
        }
        arrays = [
            pa.array(own[field.name] if field.name in own else columns[field.name], field.type) for field in SPOOL
        ]
        return pa.table(arrays, schema=SPOOL)


class _Kept:
    """The chunks that are there, and what they say together."""

    def __init__(self, store: Store, groups: _Groups) -> None:
        self.groups, self.known, self.read = groups, Known(), Position()
        self.starts = [0]
        self._store = store
        self._columns: list[pa.Table] = []

    def take_up(self) -> None:
        """Chunks of an earlier call, and the state after the last of them."""
        for number in count():
            try:
                table = pa.ipc.open_file(self._store.open_arrow(chunk_name(number))).read_all()
                state = json.loads(table.schema.metadata[_STATE])
            except (FileNotFoundError, pa.ArrowInvalid, KeyError, TypeError):
                return
            self._note(table.select(_INDEX).take(pa.array(np.arange(len(table)))))  # a copy: a chunk is one buffer
            self.known = Known.from_json(state["known"])
            self.groups.state = state["groups"]
            self.read = Position(**state["read"])

    def put(self, chunk: _Chunk, read: Position) -> None:
        """Write a chunk. read: how far the source was read for it."""
        table, good = chunk.table(self.known), [record for record in chunk.records if record is not _NOTHING]
        self.known.note(
            table,
            temperatures={record.temperature for record in good},
            models={record.model for record in good},
        )
        state = {"known": self.known.as_json(), "groups": self.groups.state, "read": asdict(read)}
        sink = pa.BufferOutputStream()
        schema = SPOOL.with_metadata({_STATE: json.dumps(state)})
        with pa.ipc.new_file(sink, schema) as writer:
            writer.write_table(table.replace_schema_metadata(schema.metadata))
        self._store.put(chunk_name(len(self._columns)), sink.getvalue().to_pybytes())
        self._note(table)

    def _note(self, table: pa.Table) -> None:
        self._columns.append(table.select(_INDEX))
        self.starts.append(self.starts[-1] + len(table))

    def index(self) -> Index:
        columns = pa.concat_tables(self._columns) if self._columns else SPOOL.empty_table().select(_INDEX)
        keys = columns["key"].combine_chunks()
        return Index(
            keys=np.frombuffer(keys.buffers()[1] or b"", np.uint64).reshape(-1, DIGEST // 8)[: len(keys)],
            sample_index=columns["sample_index"].to_numpy(),
            sizes=columns["size"].to_numpy(),
            rejected=pc.is_valid(columns["reason"]).to_numpy(),
            chunk_starts=tuple(self.starts),
        )


class _Groups:
    """A record's group_id, by the rule that its format declares, and the digest of its task.

    state: what the next record's group depends on, as JSON holds it.
    """

    def __init__(self, form: Format, group_size: int | None) -> None:
        self._rule, self._size = form.group, group_size
        self.state: dict[str, Any] = {"group": None, "task": "", "name": "", "count": 0}
        self._said: tuple[Any, Any] = (None, None)
        self._task = b""

    def __call__(self, place: Place, record: Record) -> tuple[str, bytes]:
        said = (record.prompt, record.messages)
        if said != self._said or said == (None, None):  # neighbours often have one task
            self._said, self._task = said, _task(record)
        return self._name(place, record).replace("/", "%2F"), self._task

    def _name(self, place: Place, record: Record) -> str:
        if self._rule == "key":
            return str(record.group)
        if self._rule == "row":
            return f"{_base(place)}-{place.number}"
        if self._rule == "prompt":
            return f"{_base(place) if record.group is None else record.group}-{self._task.hex()[:16]}"
        now, task = self.state, self._task.hex()
        if now["group"] != record.group or now["task"] != task or now["count"] == self._size:
            self.state = now = {
                "group": record.group,
                "task": task,
                "name": f"{_base(place)}-{place.number}",
                "count": 0,
            }
        now["count"] += 1
        return str(now["name"])


def _base(place: Place) -> str:
    return place.file.rsplit(".", 1)[0]


def _task(record: Record) -> bytes:
    if record.prompt is not None:
        return _digest(record.prompt)
    if record.messages is not None:
        return _digest(json.dumps(list(record.messages)))
    return hashlib.blake2b(np.asarray(record.prompt_token_ids).tobytes(), digest_size=DIGEST).digest()


def _keys(groups: Sequence[str | None]) -> list[bytes]:
    """A digest of each group's name; zeros for a rejected row."""
    digests = {name: bytes(DIGEST) if name is None else _digest(name) for name in dict.fromkeys(groups)}
    return [digests[name] for name in groups]


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=DIGEST).digest()


def _size(record: Record) -> int:
    """Bytes of a record, near enough."""
    size = len(record.text or "") + len(record.prompt or "") + 64
    if record.token_ids is not None:
        prompt_ids = record.prompt_token_ids
        size += 9 * len(record.token_ids) + (0 if prompt_ids is None else 4 * len(prompt_ids))
    return size


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
