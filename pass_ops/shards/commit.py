"""What a writer does to one part: attempts, the commit, giving up; and which parts are left to do.

A commit is: the data file, the rejected file if any, then the marker, each created exclusively. The marker is the
only commit: the first one wins, for good. The loser removes its own files unless the marker names those very files.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from pass_ops.errors import StoreError
from pass_ops.shards import names
from pass_ops.shards.checks import check_part
from pass_ops.shards.dataset import Dataset
from pass_ops.shards.fingerprint import json_file, sha256_bytes
from pass_ops.shards.records import PartRecord, parse_marker, parse_parts, read_marker
from pass_ops.shards.schemas import conform
from pass_ops.shards.spec import DatasetSpec
from pass_ops.shards.splice import StoredPart
from pass_ops.shards.store import Store
from pass_ops.shards.tables import Rejection, count_table, part_bytes, rejected_bytes

_CONTESTED = 10  # times a marker may be found and then gone before this writer gives up


@dataclass(frozen=True, kw_only=True)
class PendingParts:
    """todo: parts without a valid marker, in order. Of these, suspects have an attempt on record (run them alone),
    and failed were given up by an earlier run.
    """

    todo: tuple[int, ...]
    suspects: tuple[int, ...]
    failed: tuple[int, ...]


def begin_attempt(ds: Dataset, part: int) -> int:
    """Put an attempt on record before it begins, so that one which kills its process is known. Returns its number,
    from 1: attempts of earlier runs count too, except those that led to the part being given up.
    """
    before = number = ds.attempts_before.get(part, 0)
    while True:
        number += 1
        record = {"part": part, "attempt": number, **_whereabouts()}
        if ds.store.create(names.attempt(part, ds.fp8, number), json_file(record)):
            return number - before


def fail_part(ds: Dataset, part: int, *, cause: str, traceback: str, listed: Mapping[int, int] | None = None) -> None:
    """Give a part up for this run. The dataset cannot complete; the next run tries again with a new count, from the
    attempt after the last one on record; a marker outranks this.

    listed: what `last_attempts` said earlier, for a writer that gives up many parts: attempts made since then are
    looked up one by one. None: all attempts of the dataset are listed now.
    """
    before = last_attempts(ds.store, ds.fp8) if listed is None else listed
    attempts = last_attempt(ds, part, after=max(before.get(part, 0), ds.attempts_before.get(part, 0)))
    record = {"part": part, "cause": cause, "traceback": traceback, "attempts": attempts, **_whereabouts()}
    ds.store.put(names.failed(part, ds.fp8), json_file(record))


def last_attempts(store: Store, fp8: str) -> dict[int, int]:
    """Part -> number of its last attempt, of the parts that have one on record: by one listing."""
    last: dict[int, int] = {}
    for name in (names.parse(names.ATTEMPTS, entry.name) for entry in store.entries(names.ATTEMPTS)):
        if name is not None and name.fp8 == fp8:
            last[name.part] = max(name.number, last.get(name.part, 0))
    return last


def last_attempt(ds: Dataset, part: int, *, after: int) -> int:
    """Number of the last of the attempts on record that follow number `after` one by one; `after` where none does.

    Asked by reading the little files: `exists` would also list the store, for a folder of that name.
    """
    while ds.store.read_many([name := names.attempt(part, ds.fp8, after + 1)])[name] is not None:
        after += 1
    return after


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedPart:
    """A part checked, encoded and hashed: what `commit_prepared` writes."""

    record: PartRecord
    content: bytes = field(repr=False)
    refused: bytes = field(repr=False)


def prepare_part(
    spec: DatasetSpec,
    part: int,
    table: pa.Table,
    *,
    url: str,
    rejected: Sequence[Rejection] = (),
    stored: Sequence[StoredPart] = (),
) -> PreparedPart:
    """A part of the dataset at `url`, ready to be committed; writes nothing, so several may be prepared at a time.

    The table is checked against the schema and the rules of its stage. stored: the parts it was made from
    (`CompleteDataset.read_stored`); what is encoded there is not encoded again, which changes no byte.

    Raises PartError.
    """
    table = conform(table, spec.stage, unknown=spec.unknown_columns)
    check_part(table, spec.stage, where=f"part {part} of {url}")
    content = part_bytes(table, spec.stage, format_version=spec.format_version, stored=stored)
    refused = rejected_bytes(spec.stage, rejected, format_version=spec.format_version) if rejected else b""
    record = _record(spec, part, table, content, rejected=rejected, refused=refused)
    return PreparedPart(record=record, content=content, refused=refused)


def commit_prepared(ds: Dataset, prepared: PreparedPart) -> PartRecord:
    """Commit a part. Returns the record that counts: this writer's, or that of the writer that was first.

    Raises StoreError if the store refuses (full disk): then the part is not committed.
    """
    record = prepared.record
    create_whole(ds.store, record.data, prepared.content)
    if record.rejected:
        create_whole(ds.store, record.rejected, prepared.refused)
    return _create_marker(ds, record)


def commit_part(ds: Dataset, part: int, table: pa.Table, *, rejected: Sequence[Rejection] = ()) -> PartRecord:
    """Prepare a part and commit it. Raises what `prepare_part` and `commit_prepared` raise."""
    if not 0 <= part < ds.spec.parts:
        raise IndexError(f"{ds.url} has parts 0 to {ds.spec.parts - 1}, not {part}")
    return commit_prepared(ds, prepare_part(ds.spec, part, table, url=ds.url, rejected=rejected))


def committed(ds: Dataset, part: int) -> PartRecord | None:
    """The part's record if it is committed: its marker exists and the files it names too."""
    record = read_marker(ds.store, names.done(part, ds.fp8))
    return record if record is not None and all(ds.store.exists(name) for name in record.files) else None


def pending_parts(ds: Dataset) -> PendingParts:
    """What is left to do, by one listing of the folder and its records. Removes void markers (whose data file is
    gone), and the attempts that led to them: they succeeded, and count for nothing when the part is redone.
    Nothing is left of a complete dataset whose rows were deleted by a rule.
    """
    done = parts_in(ds, names.DONE)
    data = {entry.name for entry in ds.store.entries()}
    if {names.deleted(ds.fp8), names.manifest(ds.fp8)} <= data:
        return PendingParts(todo=(), suspects=(), failed=())
    void = _void_parts(ds, done, data)
    if void and names.manifest(ds.fp8) in data:
        ds.store.remove(names.manifest(ds.fp8))
    for part in void:
        ds.store.remove(names.done(part, ds.fp8))
    _forget_attempts(ds, void)
    todo = [part for part in range(ds.spec.parts) if part not in done or part in void]
    failed = parts_in(ds, names.FAILED)
    tried = parts_in(ds, names.ATTEMPTS) | failed
    return PendingParts(
        todo=tuple(todo),
        suspects=tuple(part for part in todo if part in tried),
        failed=tuple(part for part in todo if part in failed),
    )


def parts_in(ds: Dataset, folder: str) -> set[int]:
    """Parts with a file of this fingerprint in a folder ("" for data), by its listing."""
    found = (names.parse(folder, entry.name) for entry in ds.store.entries(folder))
    return {name.part for name in found if name is not None and name.fp8 == ds.fp8}


def rejected_files(ds: Dataset) -> set[str]:
    """Names of the files in `_rejected`, by its listing."""
    return {f"{names.REJECTED}/{entry.name}" for entry in ds.store.entries(names.REJECTED)}


def journal_files(ds: Dataset) -> dict[int, tuple[str, ...]]:
    """Part -> names of the journals of this fingerprint in `_journal`, by its listing."""
    found: dict[int, tuple[str, ...]] = {}
    for entry in ds.store.entries(names.JOURNAL):
        name = names.parse(names.JOURNAL, entry.name)
        if name is not None and name.fp8 == ds.fp8:
            found[name.part] = (*found.get(name.part, ()), f"{names.JOURNAL}/{entry.name}")
    return found


def _record(
    spec: DatasetSpec, part: int, table: pa.Table, content: bytes, *, rejected: Sequence[Rejection], refused: bytes
) -> PartRecord:
    sha256, fp8 = sha256_bytes(content), spec.fingerprint[:8]
    refused_sha256 = sha256_bytes(refused) if refused else None
    whole = spec.group_size or 1
    reasons = [item.reason for item in rejected]
    return PartRecord(
        part=part,
        data=names.data(part, fp8, sha256),
        sha256=sha256,
        bytes=len(content),
        **count_table(table),
        rejected=names.rejected(part, fp8, refused_sha256) if refused_sha256 else None,
        rejected_sha256=refused_sha256,
        rejected_rollouts=sum(whole if item.sample_index is None else 1 for item in rejected),
        reasons={reason: reasons.count(reason) for reason in sorted(set(reasons))},
    )


def create_whole(store: Store, name: str, content: bytes) -> None:
    """Create a file whose name decides its content; one that exists has it, or is damaged and is made anew."""
    for _ in range(_CONTESTED):
        if store.create(name, content):
            return
        try:
            if store.read(name) == content:
                return
        except FileNotFoundError:
            continue  # its writer lost and removed it meanwhile
        store.remove(name)
    raise StoreError(
        f"{store.path(name)} was found with other content and removed {_CONTESTED} times in turn: somebody else writes "
        "it; run again when they are done"
    )


def _create_marker(ds: Dataset, record: PartRecord) -> PartRecord:
    name = names.done(record.part, ds.fp8)
    for _ in range(_CONTESTED):
        if ds.store.create(name, json_file(asdict(record))):
            return record
        winner = read_marker(ds.store, name)
        if winner is None:
            continue  # removed as void meanwhile
        if all(file in record.files or ds.store.exists(file) for file in winner.files):
            for own in record.files:
                if own not in winner.files:
                    ds.store.remove(own)
            return winner
        ds.store.remove(name)  # void: a file it names is gone
    raise StoreError(
        f"{ds.store.path(name)} was created and removed by others {_CONTESTED} times in turn; "
        "run again when they are done"
    )


def _void_parts(ds: Dataset, done: set[int], data: set[str]) -> set[int]:
    """Parts whose marker names a file that is not there.

    A part without any data file is one by the listing. Whether the files that are there are the ones meant stands in
    the list of parts once the dataset is finalized. Before that it stands in the markers: they are read for parts with
    several data files, and for all parts once nothing else is left to do (finalize reads them too).
    """
    list_name = names.parts(ds.fp8, ds.spec.format_version)
    listed = ds.store.read_many([list_name])[list_name] if names.manifest(ds.fp8) in data else None
    if listed is not None:
        records = parse_parts(listed, ds.store.path(list_name), ds.spec)
        here = data | rejected_files(ds) if any(record.rejected for record in records) else data
        return {record.part for record in records if not here.issuperset(record.files)} & done
    files = Counter(
        name.part for name in (names.parse("", entry) for entry in data) if name is not None and name.fp8 == ds.fp8
    )
    doubtful = sorted(part for part in done if len(done) == ds.spec.parts or files[part] != 1)
    markers = ds.store.read_many([names.done(part, ds.fp8) for part in doubtful])
    void = set()
    for part in doubtful:
        name = names.done(part, ds.fp8)
        content = markers[name]
        record = parse_marker(content, ds.store, name) if content is not None else None
        if record is None or not all(file in data or ds.store.exists(file) for file in record.files):
            void.add(part)
    return void


def _forget_attempts(ds: Dataset, parts: set[int]) -> None:
    for entry in ds.store.entries(names.ATTEMPTS) if parts else ():
        found = names.parse(names.ATTEMPTS, entry.name)
        if found is not None and found.fp8 == ds.fp8 and found.part in parts:
            ds.store.remove(f"{names.ATTEMPTS}/{entry.name}")


def _whereabouts() -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {"time": now, "host": socket.gethostname(), "pid": os.getpid()}
