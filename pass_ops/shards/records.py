"""What markers, `_parts` and the manifest say, and how they are written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import pyarrow as pa

from pass_ops.errors import CorruptDatasetError
from pass_ops.shards.fingerprint import canonical_json, content_digest, json_file, sha256_bytes
from pass_ops.shards.spec import FORMAT_VERSION, DatasetSpec
from pass_ops.shards.store import Store
from pass_ops.shards.tables import open_parquet, plain_bytes


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

    parts_sha256: of `_parts-fp8.parquet`. totals: parts, rows, groups, tokens, bytes, rejected_rollouts.
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
_COUNTS = ("groups_by_size", "reasons")
_PARTS_SCHEMA = pa.schema(
    [
        pa.field("part", pa.int32(), nullable=False),
        pa.field("data", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("groups", pa.int64(), nullable=False),
        pa.field("tokens", pa.int64(), nullable=False),
        pa.field("groups_by_size", pa.string(), nullable=False),
        pa.field("rejected", pa.string()),
        pa.field("rejected_sha256", pa.string()),
        pa.field("rejected_rollouts", pa.int64(), nullable=False),
        pa.field("reasons", pa.string(), nullable=False),
    ]
)


def read_marker(store: Store, name: str) -> PartRecord | None:
    """The record of a marker; None if there is none. Raises CorruptDatasetError."""
    try:
        content = store.read(name)
    except FileNotFoundError:
        return None
    return parse_marker(content, store.path(name))


def parse_marker(content: bytes, where: str) -> PartRecord:
    """A marker's content as a record; keys of later versions are skipped. Raises CorruptDatasetError."""
    try:
        return PartRecord(**_known(PartRecord, json.loads(content)))
    except (ValueError, TypeError, AttributeError) as error:
        message = f"{where} cannot be read as a marker ({error}); remove it and run again: the part is redone"
        raise CorruptDatasetError(message) from error


def parts_bytes(records: Sequence[PartRecord], stage: str) -> bytes:
    """`_parts`: the markers' records, one row a part, in order; counts by key as JSON."""
    rows = [
        {**asdict(record), **{name: canonical_json(getattr(record, name)) for name in _COUNTS}} for record in records
    ]
    return plain_bytes(pa.Table.from_pylist(rows, schema=_PARTS_SCHEMA), stage)


def parse_parts(content: bytes, where: str) -> tuple[PartRecord, ...]:
    """`_parts` back as records. Raises CorruptDatasetError."""
    try:
        rows = open_parquet(content).read().to_pylist()
        records = [
            PartRecord(**{**_known(PartRecord, row), **{name: json.loads(row[name]) for name in _COUNTS}})
            for row in rows
        ]
    except (ValueError, TypeError, KeyError, OSError) as error:
        message = (
            f"{where} cannot be read as the list of parts ({error}); remove it and the manifest, then finalize again"
        )
        raise CorruptDatasetError(message) from error
    return tuple(records)


def make_manifest(spec: DatasetSpec, records: Sequence[PartRecord], parts_sha256: str) -> Manifest:
    """The manifest of the parts' records, in order."""
    totals = {name: sum(getattr(record, name) for record in records) for name in _TOTALS}
    return Manifest(
        format_version=FORMAT_VERSION,
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


def parse_manifest(content: bytes, where: str) -> Manifest:
    """Raises CorruptDatasetError."""
    try:
        manifest = Manifest(**_known(Manifest, json.loads(content)))
    except (ValueError, TypeError, AttributeError) as error:
        raise CorruptDatasetError(
            f"{where} cannot be read as a manifest ({error}); remove it and finalize again"
        ) from error
    if manifest.format_version != FORMAT_VERSION:
        raise CorruptDatasetError(
            f"{where} has format_version {manifest.format_version}; this program reads {FORMAT_VERSION}: "
            "use the one that made it"
        )
    return manifest


def read_manifest(store: Store, name: str) -> Manifest | None:
    """None if there is none. Raises CorruptDatasetError."""
    try:
        content = store.read(name)
    except FileNotFoundError:
        return None
    return parse_manifest(content, store.path(name))


def read_parts(store: Store, name: str, manifest: Manifest) -> tuple[PartRecord, ...]:
    """The records a manifest vouches for. Raises CorruptDatasetError."""
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
    return parse_parts(content, where)


def _summed(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items()))


def _known(kind: Any, document: Mapping[str, Any]) -> dict[str, Any]:
    wanted = {item.name for item in fields(kind)}
    return {key: value for key, value in document.items() if key in wanted}
