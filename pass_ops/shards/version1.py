"""What format version 1 had otherwise: the list of parts was Parquet, counts by key were JSON in its columns.

Datasets of version 1 are read, and one that was begun in it is also completed in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from pass_ops.shards.fingerprint import canonical_json
from pass_ops.shards.tables import open_parquet, plain_bytes

_COUNTS = ("groups_by_size", "reasons")
_SCHEMA = pa.schema(
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


def list_bytes(records: Sequence[Mapping[str, Any]], stage: str) -> bytes:
    """The list of parts: one row a part, in order."""
    rows = [{**record, **{name: canonical_json(record[name]) for name in _COUNTS}} for record in records]
    return plain_bytes(pa.Table.from_pylist(rows, schema=_SCHEMA), stage, format_version=1)


def list_rows(content: bytes) -> list[dict[str, Any]]:
    """The list of parts back. Raises ValueError, KeyError, TypeError or OSError for what is none."""
    rows = open_parquet(content).read().to_pylist()
    return [{**row, **{name: json.loads(row[name]) for name in _COUNTS}} for row in rows]
