"""A part's tables as the content of Parquet files, and back; `encoding` says how they are encoded.

Row groups hold about 1,024 rows and are cut where a group of rollouts begins, from group_id or from the group in
rollout_id: so signals get the row groups of their rollouts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pass_ops.reading.groups import group_bounds
from pass_ops.reading.ragged import list_lengths
from pass_ops.shards.encoding import encoded
from pass_ops.shards.schemas import REJECTED, row_group_cuts
from pass_ops.shards.spec import FORMAT_VERSION, DatasetSpec
from pass_ops.shards.splice import StoredPart, spliced
from pass_ops.shards.store import arrow_reader

ROWS_PER_ROW_GROUP = 1024
#: Bytes of a file, or of what it holds, up to which calls and not bytes are what a part costs: one read, one thread and
#: encoding every column then take less than several reads, handing columns to threads, and splicing (decision 130).
SMALL = 1 << 18


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """A prompt or rollout that gave no row. sample_index None: the whole prompt. payload: any JSON value."""

    prompt_id: str
    sample_index: int | None = None
    reason: str
    detail: str = ""
    transient: bool = False
    attempts: int = 1
    payload: Any = None


def group_keys(table: pa.Table) -> pa.ChunkedArray:
    """Each row's group: group_id, the group in rollout_id ("{group_id}/{sample_index}"), or prompt_id."""
    names = table.column_names
    if "group_id" in names:
        return table["group_id"]
    if "rollout_id" in names:
        return pc.list_element(pc.split_pattern(table["rollout_id"], "/"), 0)
    return table["prompt_id"]


def part_bytes(
    table: pa.Table, stage: str, *, format_version: int = FORMAT_VERSION, stored: Sequence[StoredPart] = ()
) -> bytes:
    """A part's file. `table` as `schemas.conform` gives it.

    stored: the parts it was made from; what is encoded there is not encoded again unless it is SMALL, which changes no
    byte.
    """
    row_groups = row_group_cuts(group_bounds(group_keys(table)), ROWS_PER_ROW_GROUP)
    if table.num_rows and sum(part.content.size for part in stored) > SMALL:
        return spliced(table, row_groups, stored=stored, stage=stage, format_version=format_version)
    return encoded(table, row_groups, stage=stage, format_version=format_version)


def rejected_bytes(stage: str, rejected: Sequence[Rejection], *, format_version: int = FORMAT_VERSION) -> bytes:
    """The file of a part's rejections, in the order given."""
    rows = [
        {
            "stage": stage,
            "prompt_id": item.prompt_id,
            "sample_index": item.sample_index,
            "reason": item.reason,
            "detail": item.detail,
            "transient": item.transient,
            "attempts": item.attempts,
            "payload": None if item.payload is None else json.dumps(item.payload, sort_keys=True),
        }
        for item in rejected
    ]
    table = pa.Table.from_pylist(rows, schema=REJECTED)
    return plain_bytes(table, stage, format_version=format_version)


def plain_bytes(table: pa.Table, stage: str, *, format_version: int = FORMAT_VERSION) -> bytes:
    """Any other table of a dataset, as one row group."""
    row_groups = [(0, table.num_rows)] if table.num_rows else []
    return encoded(table, row_groups, stage=stage, format_version=format_version)


def open_parquet(source: bytes | pa.NativeFile) -> pq.ParquetFile:
    """A Parquet file from its content, or from a reader in Arrow's hands (`Store.open_arrow`)."""
    reader = arrow_reader(source) if isinstance(source, bytes) else source
    return pq.ParquetFile(reader, pre_buffer=not isinstance(reader, pa.BufferReader))


def read_columns(file: pq.ParquetFile, columns: Sequence[str] | None = None) -> pa.Table:
    """A file's rows, or some of their columns."""
    held = sum(file.metadata.row_group(group).total_byte_size for group in range(file.num_row_groups))
    return file.read(columns=None if columns is None else list(columns), use_threads=held > SMALL)


def metadata_problems(file: pq.ParquetFile, spec: DatasetSpec) -> Iterator[str]:
    """Where a file's metadata is not that of the dataset's format and stage."""
    found = file.schema_arrow.metadata or {}
    for key, wanted in (("format_version", str(spec.format_version)), ("stage", spec.stage)):
        if found.get(key.encode()) != wanted.encode():
            yield f"its metadata has {key} {found.get(key.encode())!r}, not {wanted.encode()!r}"


def count_table(table: pa.Table, bounds_G1: np.ndarray | None = None) -> dict[str, Any]:
    """What a marker counts: rows, groups, tokens, groups_by_size (size -> groups; sizes as strings, as in JSON).

    bounds_G1: `group_bounds` of its groups, where they are known.
    """
    bounds_G1 = group_bounds(group_keys(table)) if bounds_G1 is None else bounds_G1
    sizes, counts = np.unique(np.diff(bounds_G1), return_counts=True)
    by_size = {str(size): count for size, count in zip(sizes.tolist(), counts.tolist(), strict=True)}
    names = set(table.column_names)
    per_token = {"token_ids", "logprobs"} & names
    if not per_token and "process_ends" not in names:
        per_token = {"process_scores"} & names
    tokens = int(list_lengths(table[min(per_token)]).sum()) if per_token else 0
    return {"rows": table.num_rows, "groups": len(bounds_G1) - 1, "tokens": tokens, "groups_by_size": by_size}
