"""Checking every promise of the contract on stored data: a dataset, or all datasets of a RUN folder."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pass_ops.errors import CorruptDatasetError, NotADatasetError, PartError, ShardError
from pass_ops.reading.groups import group_bounds
from pass_ops.shards import names
from pass_ops.shards.checks import alignment_problems, compared_columns, describe, part_problems
from pass_ops.shards.copied import row_group_sizes, same_pages
from pass_ops.shards.dataset import dataset_folders, read_dataset_json
from pass_ops.shards.deletion import read_deletion
from pass_ops.shards.fingerprint import sha256_bytes
from pass_ops.shards.paths import resolve_folder
from pass_ops.shards.reader import CompleteDataset, digest_now, examine_input, open_dataset
from pass_ops.shards.records import (
    Manifest,
    PartRecord,
    manifest_problems,
    parse_marker,
    read_manifest,
    read_parts,
)
from pass_ops.shards.remedy import command_for
from pass_ops.shards.schemas import REJECTED, ROLLOUTS, schema_for
from pass_ops.shards.spec import DatasetSpec
from pass_ops.shards.store import Store, arrow_buffer
from pass_ops.shards.tables import count_table, group_keys, metadata_problems, open_parquet, read_columns
from pass_ops.shards.unique import GroupsOfParts


@dataclass(frozen=True)
class Finding:
    """Something verify found. error: a promise is broken; info: worth knowing, harmless.

    code: which promise. where: the dataset or file. message: what is wrong there, with the first offenders' ids.
    """

    severity: Literal["error", "info"]
    code: str
    where: str
    message: str


def verify(url: str) -> list[Finding]:
    """Everything wrong with a dataset and, by digests, with what it was made from; or with every dataset of a RUN
    folder.

    Reads every byte once, and parts that share a group once more. Raises NotADatasetError if there is no dataset at or
    below `url`.
    """
    folders, others = dataset_folders(url), _Others()
    findings: list[Finding] = []
    for folder in folders:
        findings += _dataset(folder, others)
    seen = {folder.path() for folder in folders}
    for folder in folders:
        findings += _chain(folder, seen, others)
    return findings


class _Others:
    """What datasets were made from: opened once for all that were made from it, for a list of parts is long.

    digest: `digest_now`. dataset: `open_dataset`; only the last one is kept.
    """

    def __init__(self) -> None:
        self.digest = cache(digest_now)
        self.dataset = lru_cache(maxsize=1)(open_dataset)


def _dataset(store: Store, others: _Others) -> Iterator[Finding]:
    try:
        spec, replaced = read_dataset_json(store)
        manifest = read_manifest(store, names.manifest(spec.fingerprint[:8]))
        markers = yield from _markers(store, spec)
        if manifest is None:
            missing = [part for part in range(spec.parts) if part not in markers]
            state = f"{len(missing)} of {spec.parts} parts have no marker" if missing else "all parts are done"
            yield Finding(
                "error", "incomplete", store.root, f"the dataset is not finalized; {state}: run its stage again"
            )
            records = tuple(markers[part] for part in sorted(markers))
        else:
            records = read_parts(store, spec, manifest)
            yield from _manifest(store, spec, manifest, records)
            yield from _marker_differences(store, spec, markers, records)
    except CorruptDatasetError as error:
        yield Finding("error", "corrupt", store.root, str(error))
        return
    del markers  # as much as the records are, while the parts are read
    if spec.missing_facts:
        says = (
            f"it does not say {', '.join(spec.missing_facts)}, which shape and train need: make it anew from what does"
        )
        yield Finding("error", "facts", store.path(names.DATASET), says)
    try:
        deletion = read_deletion(store, spec.fingerprint[:8])
    except CorruptDatasetError as error:
        yield Finding("error", "corrupt", store.root, str(error))
        return
    if deletion is None:
        yield from _parts(store, spec, records, _rollouts_of(store, spec, others))
    else:
        what = f"{deletion.files} files, {deletion.bytes:,} bytes"
        yield Finding("info", "deleted", store.root, f"deleted by rule ({deletion.rule}): {what}; its digests stay")
    yield from _inputs(store, spec, others)
    yield from _orphans(store, spec, records, replaced)


# -- the small files ---------------------------------------------------------------------------------------------


def _markers(store: Store, spec: DatasetSpec) -> Generator[Finding, None, dict[int, PartRecord]]:
    """The markers by part (returned); findings about unreadable ones."""
    marked: dict[int, PartRecord] = {}
    found = [names.parse(names.DONE, entry.name) for entry in store.entries(names.DONE)]
    wanted = [names.done(name.part, name.fp8) for name in found if name and name.fp8 == spec.fingerprint[:8]]
    for name, content in store.read_many(wanted).items():
        try:
            record = parse_marker(content or b"", store, name)
            marked[record.part] = record
        except CorruptDatasetError as error:
            yield Finding("error", "marker", store.path(name), str(error))
    return marked


def _manifest(
    store: Store, spec: DatasetSpec, manifest: Manifest, records: tuple[PartRecord, ...]
) -> Iterator[Finding]:
    where = store.path(names.manifest(spec.fingerprint[:8]))
    fix = f"Remove it, then {command_for(store.root, spec)} writes it anew"
    for problem in manifest_problems(spec, manifest, records):
        yield Finding("error", "manifest", where, f"{problem}. {fix}")


def _marker_differences(
    store: Store, spec: DatasetSpec, markers: dict[int, PartRecord], records: tuple[PartRecord, ...]
) -> Iterator[Finding]:
    for record in records:
        where = store.path(names.done(record.part, spec.fingerprint[:8]))
        marker = markers.get(record.part)
        if marker is None:
            said = "the part's marker is gone or cannot be read, though the dataset is finalized"
        elif marker != record:
            said = f"the marker names {marker.data}, the manifest {record.data}"
        else:
            continue
        yield Finding("error", "marker", where, f"{said}. {_redo(store, spec, record.part)}")


def _inputs(store: Store, spec: DatasetSpec, others: _Others) -> Iterator[Finding]:
    for name, ref in spec.inputs.items():
        folder = resolve_folder(store.root, ref.folder)
        try:
            found, reason = examine_input(store.root, spec, ref, digest=others.digest)
        except CorruptDatasetError as error:
            found, reason = True, f"cannot be read: {error}"
        if reason is not None:
            yield Finding(
                "error", "stale_input", store.root, f"made from {name} ({folder}), which {reason}: make it again"
            )
        elif not found:
            yield Finding(
                "info", "input_absent", store.root, f"its input {name} ({folder}) is not there to compare with"
            )


def _chain(store: Store, seen: set[str], others: _Others) -> Iterator[Finding]:
    """Findings about the inputs of inputs that were not looked at themselves."""
    try:
        spec, _ = read_dataset_json(store)
    except (NotADatasetError, CorruptDatasetError):
        return
    for ref in spec.inputs.values():
        above = store.at(resolve_folder(store.root, ref.folder))
        if above.path() in seen or not above.exists(names.DATASET):
            continue
        seen.add(above.path())
        try:
            yield from _inputs(above, read_dataset_json(above)[0], others)
        except CorruptDatasetError as error:
            yield Finding("error", "corrupt", above.root, str(error))
        yield from _chain(above, seen, others)


def _orphans(
    store: Store, spec: DatasetSpec, records: tuple[PartRecord, ...], replaced: tuple[str, ...]
) -> Iterator[Finding]:
    fp8 = spec.fingerprint[:8]
    named = {file for record in records for file in record.files}
    named |= {names.DATASET, names.RUN_RECORD, names.manifest(fp8)}
    named |= {names.parts(fp8, spec.format_version), names.deleted(fp8)}
    old = {fingerprint[:8] for fingerprint in replaced}
    done = {record.part for record in records}
    for folder in ("", *names.FOLDERS):
        for entry in store.entries(folder):
            name = f"{folder}/{entry.name}" if folder else entry.name
            own = names.fingerprint_of(folder, entry.name)
            if name in named or (own == fp8 and _belongs(folder, entry.name, done)):
                continue
            kind = "of a replaced fingerprint" if own in old else "no marker names it"
            yield Finding("info", "orphan", store.path(name), f"{kind}; harmless, {entry.size} bytes")


def _belongs(folder: str, name: str, done: set[int]) -> bool:
    """Whether a file of this fingerprint that no marker names has its place: a journal has while its part is open."""
    if folder in ("", names.REJECTED) or name.startswith("."):
        return False
    found = names.parse(folder, name)
    return folder != names.JOURNAL or (found is not None and found.part not in done)


# -- the parts ---------------------------------------------------------------------------------------------------


def _parts(
    store: Store, spec: DatasetSpec, records: tuple[PartRecord, ...], rollouts: CompleteDataset | None
) -> Iterator[Finding]:
    groups = GroupsOfParts()
    right: pa.Schema | None = None  # of parts whose columns are those of the stage
    for record in records:
        where = store.path(record.data)
        content, file = yield from _file(store, record.data, record.sha256, spec=spec)
        if file is not None:
            yield from (Finding("error", "schema", where, said) for said in metadata_problems(file, spec))
            table = yield from _read(file, where)
            known = table is not None and right is not None and table.schema.equals(right)
            if table is not None and (known or (yield from _columns(table, spec, where))):
                right = table.schema
                problems = list(part_problems(table, spec.stage))
                yield from (Finding("error", one.code, where, describe(one, table)) for one in problems)
                bounds_G1 = group_bounds(group_keys(table))
                yield from _counts(store, spec, record, count_table(table, bounds_G1))
                yield from _cuts(file, bounds_G1, where)
                groups.add(record.part, group_keys(table).take(pa.array(bounds_G1[:-1])))
                if rollouts is not None and record.part < len(rollouts.parts):
                    part = _Part(record.part, content, file, table, is_sound=not problems)
                    yield from _alignment(part, rollouts, where)
        yield from _rejections(store, record, spec)
    yield from _repeated_groups(store, records, groups)
    if rollouts is not None and len(rollouts.parts) != spec.parts:
        message = f"{spec.parts} parts, but its rollouts have {len(rollouts.parts)}"
        yield Finding("error", "alignment", store.root, message)


def _file(
    store: Store, name: str, sha256: str, *, spec: DatasetSpec
) -> Generator[Finding, None, tuple[pa.Buffer, pq.ParquetFile | None]]:
    """A file's bytes and its reader (returned), or findings and no reader."""
    where = store.path(name)
    try:
        content = arrow_buffer(store.read(name))
    except FileNotFoundError:
        message = f"the file is gone: {command_for(store.root, spec)} makes the part again"
        yield Finding("error", "missing_file", where, message)
        return pa.py_buffer(b""), None
    found = sha256_bytes(content)
    if found != sha256:
        message = (
            f"its sha256 is {found[:16]}..., recorded {sha256[:16]}...: it was changed or damaged. "
            f"Remove it, then {command_for(store.root, spec)} makes the part again"
        )
        yield Finding("error", "sha256", where, message)
    try:
        return content, open_parquet(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as error:
        yield Finding("error", "unreadable", where, f"cannot be read as Parquet: {error}")
        return content, None


def _read(file: pq.ParquetFile, where: str) -> Generator[Finding, None, pa.Table | None]:
    try:
        return read_columns(file)
    except (pa.ArrowException, OSError) as error:
        yield Finding("error", "unreadable", where, f"cannot be read as Parquet: {error}")
        return None


def _columns(table: pa.Table, spec: DatasetSpec, where: str) -> Generator[Finding, None, bool]:
    """Whether the columns are those of the stage (returned): if not, nothing more can be said of the rows."""
    try:
        schema = schema_for(spec.stage, table.column_names, unknown=spec.unknown_columns)
    except PartError as error:
        yield Finding("error", "schema", where, str(error))
        return False
    found = {field.name: field for field in table.schema}
    wrong = [field for field in schema if field.name not in found or found[field.name] != field]
    for field in wrong:
        is_ = _kind(found[field.name]) if field.name in found else "absent"
        yield Finding("error", "schema", where, f"column {field.name} is {is_}, not {_kind(field)}")
    return not wrong


def _kind(field: pa.Field) -> str:
    return str(field.type) if field.nullable else f"{field.type} not null"


def _redo(store: Store, spec: DatasetSpec, part: int) -> str:
    """What to do about a record that is not its part's: the file alone cannot tell which of the two is wrong."""
    marker, manifest = names.done(part, spec.fingerprint[:8]), names.manifest(spec.fingerprint[:8])
    records = [store.path(name) for name in (marker, manifest) if store.exists(name)]
    return f"Remove {' and '.join(records)}, then {command_for(store.root, spec)} makes the part again"


def _counts(store: Store, spec: DatasetSpec, record: PartRecord, counted: dict[str, Any]) -> Iterator[Finding]:
    for name, value in counted.items():
        if getattr(record, name) != value:
            message = f"{name} is {value}, but the marker says {getattr(record, name)}. "
            yield Finding("error", "counts", store.path(record.data), message + _redo(store, spec, record.part))


def _cuts(file: pq.ParquetFile, bounds_G1: np.ndarray, where: str) -> Iterator[Finding]:
    """Row groups hold whole groups."""
    bounds, start = set(bounds_G1.tolist()), 0
    for index, rows in enumerate(row_group_sizes(file)):
        if start not in bounds:
            yield Finding("error", "row_groups", where, f"row group {index} begins within a group, at row {start}")
        start += rows


def _repeated_groups(store: Store, records: tuple[PartRecord, ...], groups: GroupsOfParts) -> Iterator[Finding]:
    """No prompt or group may appear in two parts."""
    files = {record.part: record.data for record in records}
    gone: list[Finding] = []

    def names_of(part: int) -> pa.ChunkedArray:
        try:
            return group_keys(read_columns(open_parquet(store.read(files[part]))))
        except (pa.ArrowException, OSError) as error:  # somebody removed or changed it since it was read
            message = f"it went while it was verified ({error}), so its groups are not compared; verify again"
            gone.append(Finding("error", "missing_file", store.path(files[part]), message))
            return pa.chunked_array([], pa.string())

    for part, name, first in groups.twice(names_of):
        yield Finding("error", "unique_ids", store.path(files[part]), f"{name} is also in part {first}")
    yield from gone


def _rejections(store: Store, record: PartRecord, spec: DatasetSpec) -> Iterator[Finding]:
    if record.rejected is None:
        return
    where = store.path(record.rejected)
    _, file = yield from _file(store, record.rejected, str(record.rejected_sha256), spec=spec)
    table = None if file is None else (yield from _read(file, where))
    if table is None:
        return
    if not table.schema.equals(REJECTED):
        yield Finding("error", "schema", where, f"its columns are {table.schema.names}, not those of rejections")
    elif table.num_rows != sum(record.reasons.values()):
        message = f"{table.num_rows} rejections, but the marker counts {sum(record.reasons.values())}. "
        yield Finding("error", "counts", where, message + _redo(store, spec, record.part))


# -- against the rollouts ----------------------------------------------------------------------------------------


def _rollouts_of(store: Store, spec: DatasetSpec, others: _Others) -> CompleteDataset | None:
    """The rollouts a signal or shaped dataset was made from, if they are there and still the same."""
    ref = spec.inputs.get("rollouts")
    if ref is None or spec.stage not in ("score", "shape"):
        return None
    folder = resolve_folder(store.root, ref.folder)
    try:
        rollouts = others.dataset(folder)
    except ShardError:
        return None  # the finding about this input says why
    return rollouts if rollouts.content_digest == ref.content_digest else None


class _Part(NamedTuple):
    """A part that can be read. is_sound: its rows keep every rule that can be told without the rollouts."""

    number: int
    content: pa.Buffer
    file: pq.ParquetFile
    table: pa.Table
    is_sound: bool


def _alignment(part: _Part, rollouts: CompleteDataset, where: str) -> Iterator[Finding]:
    """What a part says of its rollouts that is not theirs."""
    shaped = "token_ids" in part.table.column_names
    columns = ROLLOUTS.names if shaped else compared_columns(part.table)
    # Then nothing is left to hold against the rollouts: a shaped part's tokens were held against its own columns.
    by_columns = part.is_sound and (shaped or columns == ["rollout_id"])
    try:
        content, source = rollouts.open_content(part.number)
        with source:
            if by_columns and same_pages(columns, part.file, part.content, source, content):
                return
            theirs, sizes = read_columns(source, columns), row_group_sizes(source)
    except (CorruptDatasetError, pa.ArrowException, OSError) as error:
        yield Finding("error", "alignment", where, f"its rollouts' part cannot be read to compare with: {error}")
        return
    for problem in alignment_problems(part.table, theirs):
        yield Finding("error", problem.code, where, describe(problem, part.table))
    own = row_group_sizes(part.file)
    if own != sizes:
        yield Finding("error", "alignment", where, f"row groups of {own} rows, its rollouts' of {sizes}")
    if shaped:
        for name in columns:
            if name in part.table.column_names and not part.table[name].equals(theirs[name]):
                yield Finding("error", "alignment", where, f"column {name} is not that of its rollouts")
