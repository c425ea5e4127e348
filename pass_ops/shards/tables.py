"""Tables as Parquet bytes, the same bytes however the table was chunked or sliced, and back.

Floats and token ids in lists are stored byte-stream split, positions delta packed, all without dictionaries and
statistics, which would cost bytes for no information. Token ids too: the rollouts of a group repeat each other, and
zstd sees that in split bytes but not in a dictionary's packed indices (SmolLM2 on GSM8K, groups of 8, 99,625 ids: 1.42
bytes a token against 1.60; without repetition, on GSM8K's own answers, 1.00 against 0.93).

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
from pass_ops.shards.schemas import REJECTED, row_group_cuts
from pass_ops.shards.spec import FORMAT_VERSION, DatasetSpec
from pass_ops.shards.store import arrow_reader

ROWS_PER_ROW_GROUP = 1024
_POSITIONS = ("chunk_ends", "process_ends")
_UNIQUE_TEXTS = ("text", "prompt", "rollout_id", "extra")
_LANGUAGE_LEVEL = 3  # of zstd, for text, token ids and positions: up to a tenth smaller than level 1, and little work


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
    if "group_id" in table.column_names:
        return table["group_id"]
    if "rollout_id" in table.column_names:
        return pc.list_element(pc.split_pattern(table["rollout_id"], "/"), 0)
    return table["prompt_id"]


def part_bytes(table: pa.Table, stage: str, *, format_version: int = FORMAT_VERSION) -> bytes:
    """A part's file. `table` as `schemas.conform` gives it."""
    row_groups = row_group_cuts(group_bounds(group_keys(table)), ROWS_PER_ROW_GROUP)
    return _parquet(table, row_groups, stage=stage, format_version=format_version)


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
    return _parquet(table, row_groups, stage=stage, format_version=format_version)


def open_parquet(source: bytes | pa.NativeFile) -> pq.ParquetFile:
    """A Parquet file from its content, or from a reader in Arrow's hands (`Store.open_arrow`)."""
    reader = arrow_reader(source) if isinstance(source, bytes) else source
    return pq.ParquetFile(reader, pre_buffer=True)


def metadata_problems(file: pq.ParquetFile, spec: DatasetSpec) -> Iterator[str]:
    """Where a file's metadata is not that of the dataset's format and stage."""
    found = file.schema_arrow.metadata or {}
    for key, wanted in (("format_version", str(spec.format_version)), ("stage", spec.stage)):
        if found.get(key.encode()) != wanted.encode():
            yield f"its metadata has {key} {found.get(key.encode())!r}, not {wanted.encode()!r}"


def writer_options(schema: pa.Schema, *, format_version: int = FORMAT_VERSION) -> dict[str, Any]:
    """How a dataset's Parquet files are encoded and compressed, as `pq.ParquetWriter` takes it."""
    tensors = [field for field in schema if _is_tensor(field.type)]
    encodings = {_leaf(field): _encoding(field) for field in tensors}
    scalars = [field for field in schema if not pa.types.is_nested(field.type)]
    words = [field.name for field in scalars if pa.types.is_string(field.type) and field.name not in _UNIQUE_TEXTS]
    ids = [_leaf(field) for field in tensors if pa.types.is_integer(field.type.value_type)]
    return {
        "compression": "zstd",
        "compression_level": dict.fromkeys([*ids, "text"], _LANGUAGE_LEVEL),
        "use_dictionary": words,
        "write_statistics": [field.name for field in scalars if field.name != "text"],
        "column_encoding": {path: encoding for path, encoding in encodings.items() if encoding},
        "version": "2.6",
        # for other readers: ours compare the sha256 of the whole file
        "write_page_checksum": format_version > 1,
    }


def _parquet(table: pa.Table, row_groups: Sequence[tuple[int, int]], *, stage: str, format_version: int) -> bytes:
    table = table.replace_schema_metadata({"format_version": str(format_version), "stage": stage})
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, **writer_options(table.schema, format_version=format_version)) as writer:
        for start, stop in row_groups:
            rows = table.slice(start, stop - start)
            writer.write_table(rows, row_group_size=rows.num_rows)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _is_tensor(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) and pa.types.is_primitive(kind.value_type))


def _leaf(field: pa.Field) -> str:
    return f"{field.name}.list.element"


def _encoding(field: pa.Field) -> str | None:
    if field.name in _POSITIONS:
        return "DELTA_BINARY_PACKED"
    return None if pa.types.is_boolean(field.type.value_type) else "BYTE_STREAM_SPLIT"


def count_table(table: pa.Table) -> dict[str, Any]:
    """What a marker counts: rows, groups, tokens, groups_by_size (size -> groups; sizes as strings, as in JSON)."""
    bounds_G = group_bounds(group_keys(table))
    sizes, counts = np.unique(np.diff(bounds_G), return_counts=True)
    by_size = {str(size): count for size, count in zip(sizes.tolist(), counts.tolist(), strict=True)}
    per_token = {"token_ids", "logprobs"} & set(table.column_names)
    if not per_token and "process_ends" not in table.column_names:
        per_token = {"process_scores"} & set(table.column_names)
    tokens = int(list_lengths(table[min(per_token)]).sum()) if per_token else 0
    return {"rows": table.num_rows, "groups": len(bounds_G) - 1, "tokens": tokens, "groups_by_size": by_size}
