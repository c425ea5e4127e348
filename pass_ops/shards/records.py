"""What markers, the list of parts and the manifest say, and how they are written."""

from __future__ import annotations

import json
import posixpath
import re
import reprlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields

from pass_ops.errors import CorruptDatasetError
from pass_ops.shards import names, version1
from pass_ops.shards.documents import as_object, parse_json
from pass_ops.shards.fingerprint import content_digest, json_file, sha256_bytes
from pass_ops.shards.spec import DatasetSpec, check_version
from pass_ops.shards.store import Store

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SIZE = re.compile(r"0|[1-9][0-9]*")


@dataclass(frozen=True, kw_only=True)
class PartRecord:
    """What a marker says: the part's file and its sha256, the rejected file if any, and counts.

    tokens: completion tokens (of a signal: of its per-token lists). groups_by_size: size (a string) -> groups.
    rejected_rollouts counts a rejected prompt as G. reasons: reason -> rejections.
    """

    part: int
    data: str
    sha256: str
    bytes: int
    rows: int
    groups: int
    tokens: int
    groups_by_size: Mapping[str, int] = field(default_factory=dict)
    rejected: str | None = None
    rejected_sha256: str | None = None
    rejected_rollouts: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)

    @property
    def files(self) -> tuple[str, ...]:
        """The files the marker names; it is void without one of them."""
        return (self.data,) if self.rejected is None else (self.data, self.rejected)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What `_manifest-fp8.json` says of a complete dataset.

    parts_sha256: of the list of parts. totals: parts, rows, groups, tokens, bytes, rejected_rollouts.
    rejected: reason -> rejections. groups_by_size: size (a string) -> groups.
    """

    format_version: int
    stage: str
    fingerprint: str
    content_digest: str
    parts_sha256: str
    totals: Mapping[str, int]
    rejected: Mapping[str, int]
    groups_by_size: Mapping[str, int]

    def to_json(self) -> bytes:
        return json_file(asdict(self))


_TOTALS = ("rows", "groups", "tokens", "bytes", "rejected_rollouts")


def read_marker(store: Store, name: str) -> PartRecord | None:
    """The record of a marker; None if there is none. Raises CorruptDatasetError."""
    try:
        content = store.read(name)
    except FileNotFoundError:
        return None
    return parse_marker(content, store, name)


def parse_marker(content: bytes, store: Store, name: str) -> PartRecord:
    """A marker's content as a record of the part that the marker's name says. Raises CorruptDatasetError."""
    place = names.parse(names.DONE, posixpath.basename(name))
    try:
        record = as_object(PartRecord, parse_json(content))
        if place is None or record.part != place.part:
            raise ValueError(f"it is of part {record.part}")
        _check_names(record, place.fp8)
    except ValueError as error:
        message = (
            f"{store.path(name)} cannot be read as a marker ({error}); remove it and run again: the part is redone"
        )
        raise CorruptDatasetError(message) from error
    return record


def parts_bytes(records: Sequence[PartRecord], spec: DatasetSpec) -> bytes:
    """The list of parts: the markers' records in order, one JSON object a line."""
    rows = [asdict(record) for record in records]
    if spec.format_version == 1:
        return version1.list_bytes(rows, spec.stage)
    return "".join(f"{json.dumps(row, ensure_ascii=False, allow_nan=False)}\n" for row in rows).encode()


def parse_parts(content: bytes, where: str, spec: DatasetSpec) -> tuple[PartRecord, ...]:
    """The list of parts back as records, of parts 0 to the last in order. Raises CorruptDatasetError."""
    try:
        rows = version1.list_rows(content) if spec.format_version == 1 else map(parse_json, content.splitlines())
        records = tuple(as_object(PartRecord, row) for row in rows)
        for part, record in enumerate(records):
            if record.part != part:
                raise ValueError(f"part {record.part} stands in the place of part {part}")
            _check_names(record, spec.fingerprint[:8])
        if len(records) != spec.parts:
            raise ValueError(f"it has {len(records)} of {spec.parts} parts")
    except (ValueError, TypeError, KeyError, OSError) as error:
        message = (
            f"{where} cannot be read as the list of parts ({error}); remove it and the manifest, then finalize again"
        )
        raise CorruptDatasetError(message) from error
    return records


def _check_names(record: PartRecord, fp8: str) -> None:
    """Refuse file names that are not those the protocol gives to these contents, so that none leads elsewhere."""
    refused = record.rejected_sha256
    for sha256 in (record.sha256, refused):
        if sha256 is not None and not _SHA256.fullmatch(sha256):
            raise ValueError(f"{reprlib.repr(sha256)} is no sha256")
    refused_name = None if refused is None else names.rejected(record.part, fp8, refused)
    for found, right in ((record.data, names.data(record.part, fp8, record.sha256)), (record.rejected, refused_name)):
        if found != right:
            raise ValueError(f"it names {reprlib.repr(found)}, where {right} belongs")
    if strange := [size for size in record.groups_by_size if not _SIZE.fullmatch(size)]:
        raise ValueError(f"{reprlib.repr(strange[0])} is no size of a group")


def make_manifest(spec: DatasetSpec, records: Sequence[PartRecord], parts_sha256: str) -> Manifest:
    """The manifest of the parts' records, in order."""
    totals = {name: sum(getattr(record, name) for record in records) for name in _TOTALS}
    return Manifest(
        format_version=spec.format_version,
        stage=spec.stage,
        fingerprint=spec.fingerprint,
        content_digest=content_digest(spec.fingerprint, (record.sha256 for record in records)),
        parts_sha256=parts_sha256,
        totals={"parts": len(records), **totals},
        rejected=_summed([record.reasons for record in records]),
        groups_by_size=dict(
            sorted(_summed([record.groups_by_size for record in records]).items(), key=lambda item: int(item[0]))
        ),
    )


def manifest_problems(spec: DatasetSpec, manifest: Manifest, records: Sequence[PartRecord]) -> list[str]:
    """Where a manifest is not that of these parts, one line each."""
    made = make_manifest(spec, records, manifest.parts_sha256)
    return [
        f"{item.name} is {getattr(manifest, item.name)}, but the parts give {getattr(made, item.name)}"
        for item in fields(Manifest)
        if getattr(manifest, item.name) != getattr(made, item.name)
    ]


def parse_manifest(content: bytes, where: str) -> Manifest:
    """Raises CorruptDatasetError."""
    try:
        manifest = as_object(Manifest, parse_json(content))
        if missing := {"parts", *_TOTALS} - set(manifest.totals):
            raise ValueError(f"its totals lack {min(missing)}")
    except ValueError as error:
        raise CorruptDatasetError(
            f"{where} cannot be read as a manifest ({error}); remove it and finalize again"
        ) from error
    check_version(manifest.format_version, where)
    return manifest


def read_manifest(store: Store, name: str) -> Manifest | None:
    """None if there is none. Raises CorruptDatasetError."""
    try:
        content = store.read(name)
    except FileNotFoundError:
        return None
    return parse_manifest(content, store.path(name))


def read_parts(store: Store, spec: DatasetSpec, manifest: Manifest) -> tuple[PartRecord, ...]:
    """The records a manifest vouches for. Raises CorruptDatasetError."""
    name = names.parts(spec.fingerprint[:8], spec.format_version)
    where = store.path(name)
    try:
        content = store.read(name)
    except FileNotFoundError as error:
        raise CorruptDatasetError(
            f"{where} is gone, but the manifest names it; remove the manifest and finalize again"
        ) from error
    if sha256_bytes(content) != manifest.parts_sha256:
        raise CorruptDatasetError(
            f"{where} is not the file the manifest names (sha256 differs); remove both and finalize again"
        )
    return parse_parts(content, where, spec)


def read_complete(store: Store, spec: DatasetSpec) -> tuple[Manifest, tuple[PartRecord, ...]] | None:
    """The manifest, held against the parts that it vouches for; None if there is none. Raises CorruptDatasetError."""
    name = names.manifest(spec.fingerprint[:8])
    manifest = read_manifest(store, name)
    if manifest is None:
        return None
    records = read_parts(store, spec, manifest)
    for problem in manifest_problems(spec, manifest, records):
        raise CorruptDatasetError(f"{store.path(name)}: {problem}; remove it and finalize again")
    return manifest, records


def _summed(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items()))
