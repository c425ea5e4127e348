"""What a shape stage does to its rows besides shaping them: read, join, check, write, digest; for kernel_shares.py."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pyarrow as pa
from bench_shape import shortest

from pass_ops.shards.checks import check_part
from pass_ops.shards.fingerprint import sha256_bytes
from pass_ops.shards.schemas import conform
from pass_ops.shards.spec import FORMAT_VERSION
from pass_ops.shards.splice import StoredPart
from pass_ops.shards.tables import open_parquet, part_bytes
from pipelines.shaped.stage import join_signals

GROUP = 16
PROMPT = 60  # tokens
VOCABULARY = 150_000
CHARACTERS = 4  # of a token
SIGNALS = {
    "process": ("process_scores", "process_ends"),
    "outcome": ("outcome_reward",),
    "format": ("format_reward", "format_ok"),
}


def around(table: pa.Table, chunks: pa.Table, repeats: int) -> float:
    """Processor seconds. table: rollouts with their signals (bench_shape.make_table); chunks: what `shape` made."""
    rollouts = rollouts_of(table)
    signals = {name: signal_of(table, rollouts["rollout_id"], columns) for name, columns in SIGNALS.items()}
    stored = {"rollouts": part_bytes(conform(rollouts, "generate"), "generate")}
    stored |= {name: part_bytes(conform(signal, "score"), "score") for name, signal in signals.items()}

    def work() -> None:
        parts = {name: read(content) for name, content in stored.items()}
        tables = {name: part.table for name, part in parts.items()}
        joined = join_signals(tables.pop("rollouts"), tables)
        for column in chunks.column_names:
            joined = joined.append_column(column, chunks[column])
        joined = joined.append_column("policy_digest", pa.repeat("0" * 64, len(joined)))
        shaped = conform(joined.append_column("round", pa.repeat(pa.scalar(0, pa.int32()), len(joined))), "shape")
        check_part(shaped, "shape", where="here")
        sha256_bytes(part_bytes(shaped, "shape", stored=tuple(parts.values())))

    return float(shortest(repeats, time.process_time, work)[0])


def read(content: bytes) -> StoredPart:
    """As `CompleteDataset.read_stored` does."""
    sha256_bytes(content)
    with open_parquet(content) as file:
        return StoredPart(content=pa.py_buffer(content), table=file.read(), format_version=FORMAT_VERSION)


def rollouts_of(table: pa.Table) -> pa.Table:
    """Stored rollouts of these masks: random tokens and text, which do not compress."""
    rng = np.random.default_rng(2)
    mask = table["loss_mask"].combine_chunks()
    rows, tokens, counts = len(mask), len(mask.values), np.asarray(mask.values)
    index = np.arange(rows) % GROUP

    def lists(values: np.ndarray) -> pa.Array:
        return pa.ListArray.from_arrays(mask.offsets, pa.array(values))

    prompts = rng.integers(0, VOCABULARY, (rows // GROUP, PROMPT)).astype(np.int32)
    columns: dict[str, Any] = {
        "group_id": table["group_id"],
        "sample_index": index.astype(np.int32),
        "rollout_id": [f"{group}/{i}" for group, i in zip(table["group_id"].to_pylist(), index, strict=True)],
        "prompt_token_ids": pa.array(list(np.repeat(prompts, GROUP, axis=0))),
        "token_ids": lists(rng.integers(0, VOCABULARY, tokens).astype(np.int32)),
        "text": [rng.bytes(int(n) * CHARACTERS // 2).hex() for n in np.diff(mask.offsets)],
        "behavior_logprobs": lists(np.where(counts, -rng.exponential(0.3, tokens), 0.0).astype(np.float32)),
        "loss_mask": mask,
        "finish_reason": ["stop"] * rows,
        "seed": rng.integers(0, 2**62, rows),
        "answer": ["42"] * rows,
    }
    return pa.table(columns)


def signal_of(table: pa.Table, rollout_ids: pa.ChunkedArray, names: tuple[str, ...]) -> pa.Table:
    """One stored signal: those columns of `names` that the table has."""
    rows = len(table)
    columns: dict[str, Any] = {
        "rollout_id": rollout_ids,
        "status": ["ok"] * rows,
        "detail": pa.nulls(rows, pa.string()),
    }
    columns |= {name: table[name] for name in names if name in table.column_names}
    if names == SIGNALS["process"] and "process_ends" not in columns:
        mask = np.asarray(table["loss_mask"].combine_chunks().values)
        scores = table["process_scores"].combine_chunks()
        values = np.where(mask, np.asarray(scores.values), np.float32(0.0))
        columns["process_scores"] = pa.ListArray.from_arrays(scores.offsets, pa.array(values))
    if "outcome_reward" in columns:
        columns |= {"verify_status": ["ok"] * rows, "extracted_answer": ["42"] * rows}
    return pa.table(columns)
