"""What verify finds, and datasets that are committed or smuggled past the checks of a commit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa
import pytest

from pass_ops.shards import (
    CompleteDataset,
    DatasetSpec,
    PartRecord,
    commit_part,
    create_dataset,
    finalize,
    open_dataset,
    verify,
)
from pass_ops.shards.checks import part_problems
from pass_ops.shards.fingerprint import sha256_bytes
from pass_ops.shards.records import make_manifest, parse_marker, parts_bytes


def errors_of(url: str) -> list[tuple[str, str]]:
    return [(finding.code, finding.message) for finding in verify(url) if finding.severity == "error"]


def codes_of(url: str) -> set[str]:
    return {code for code, _ in errors_of(url)}


def problems(table: pa.Table, stage: str) -> list[tuple[str, list[int], str]]:
    """Every broken rule of a part: its name, the rows that break it, what is wrong."""
    return [(problem.code, problem.rows.tolist(), problem.message) for problem in part_problems(table, stage)]


def make_signal(url, made, tables):
    spec = DatasetSpec(
        stage="score", stage_version=1, options={}, parts=len(tables), inputs={"rollouts": made.ref(url)}
    )
    ds = create_dataset(url, spec)
    for part, table in enumerate(tables):
        commit_part(ds, part, table)
    finalize(ds)
    return open_dataset(url)


def smuggle(url: str, part: int, content: bytes) -> None:
    """Replace a part of a finalized dataset by other bytes, with all records rewritten to vouch for them."""
    complete = open_dataset(url)
    store, fp8 = complete.store, complete.spec.fingerprint[:8]
    name = f"part-{part:06d}-{fp8}-{sha256_bytes(content)[:8]}.parquet"
    store.put(name, content)
    marker = store.read(f"_done/{part:06d}-{fp8}.json").replace(complete.parts[part].data.encode(), name.encode())
    marker = marker.replace(complete.parts[part].sha256.encode(), sha256_bytes(content).encode())
    marker = marker.replace(b'"bytes": %d' % complete.parts[part].bytes, b'"bytes": %d' % len(content))
    store.put(f"_done/{part:06d}-{fp8}.json", marker)
    records = list(complete.parts)
    records[part] = parse_marker(marker, store, f"_done/{part:06d}-{fp8}.json")
    forge_list(complete, records)


def forge_list(complete: CompleteDataset, records: Sequence[PartRecord]) -> None:
    """Another list of parts, and a manifest that vouches for it."""
    listed, fp8 = parts_bytes(records, complete.spec), complete.spec.fingerprint[:8]
    complete.store.put(f"_parts-{fp8}.jsonl", listed)
    complete.store.put(f"_manifest-{fp8}.json", make_manifest(complete.spec, records, sha256_bytes(listed)).to_json())


def put(table: pa.Table, name: str, values: list) -> pa.Table:
    field = table.schema.field(name)
    return table.set_column(table.column_names.index(name), field, pa.array(values, field.type))


def said(error: type[Exception], act: Callable[[], object]) -> str:
    """What the error says that an act raises."""
    with pytest.raises(error) as raised:
        act()
    return str(raised.value)
