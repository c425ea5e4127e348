"""Rollouts of the start policy on which every arm's credit is looked at before anything is trained.

They are sampled once and stored; the arms differ in their signals and estimators alone, so that what sets their
gradients apart is the credit. The tasks are of the rounds' split, of a seed that no cell trains on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.study.arms import ARMS, CORE
from benchmarks.study.sample import Completion, sample
from benchmarks.study.signals import Batch, Models, judged_batch, table
from benchmarks.study.store import HOME, load_models, threads
from benchmarks.study.tasks import Split, make_tasks
from pass_ops import shape

PROBE_SEED = 2000
PROBED = (*CORE, "pass_no_format")
GROUPS, COPIES = 128, 8
SCHEMA = pa.schema(
    [
        pa.field("group", pa.int32(), nullable=False),
        pa.field("prompt_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("logprobs", pa.list_(pa.float32()), nullable=False),
    ]
)


def sample_probe(models: Models, *, cap: int, groups: int = GROUPS, copies: int = COPIES) -> Batch:
    """``copies`` rollouts of each of ``groups`` tasks, at temperature 1, judged."""
    tasks = make_tasks(groups, seed=PROBE_SEED, split=Split.ROUNDS)
    prompts = [task.prompt_ids() for task in tasks]
    generator = torch.Generator().manual_seed(PROBE_SEED)
    completions = sample(
        models.policy, prompts, copies=copies, shape=models.shape, cap=cap, temperature=1.0, generator=generator
    )
    return judged_batch(prompts, completions, copies=copies)


def write_probe(path: Path, batch: Batch) -> None:
    """One row a rollout: group, prompt_ids, token_ids, logprobs."""
    rows = [
        {"group": row // batch.copies, "prompt_ids": list(prompt), "token_ids": list(ids), "logprobs": one.logprobs}
        for row, ((prompt, ids), one) in enumerate(zip(batch.pairs, batch.completions, strict=True))
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path, compression="zstd")


def read_probe(path: Path) -> Batch:
    """What `write_probe` wrote, judged again; entropies are not stored and read as NaN."""
    stored = pq.read_table(path, schema=SCHEMA)
    copies = stored["group"].to_pylist().count(0)
    prompts = stored["prompt_ids"].to_pylist()[::copies]
    completions = [
        Completion(tuple(ids), np.array(logprobs, np.float32), np.full(len(ids), np.nan, np.float32))
        for ids, logprobs in zip(stored["token_ids"].to_pylist(), stored["logprobs"].to_pylist(), strict=True)
    ]
    return judged_batch(prompts, completions, copies=copies)


def shaped_arms(batch: Batch, models: Models) -> Iterator[tuple[str, str, pa.Table]]:
    """Arm, level and shaped rollouts, for every arm that answers the paper's claims, and PASS without format."""
    for name in PROBED:
        arm = ARMS[name]
        for level in arm.levels:
            yield name, level, shape(table(batch, arm, level, models), arm.shaping, threads=1)


def write_probes(*, models: Path, cap: int, out: Path = HOME / "probe") -> None:
    """Samples the rollouts unless they are stored, and writes forecast.parquet, drift.parquet and credit.parquet."""
    from benchmarks.study.forecast import forecasts
    from benchmarks.study.kept import credit_rows
    from benchmarks.study.mechanism import drifts

    threads(1)
    loaded, rollouts = load_models(models), out / "rollouts.parquet"
    if not rollouts.exists():
        write_probe(rollouts, sample_probe(loaded, cap=cap))
    batch = read_probe(rollouts)
    write_rows(out / "forecast.parquet", list(forecasts(batch, loaded)))
    write_rows(out / "credit.parquet", list(credit_rows(batch, loaded)))
    write_rows(out / "drift.parquet", list(drifts(batch, loaded)))


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows of names and numbers as Parquet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path, compression="zstd")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """What `write_rows` wrote; nothing where there is no file."""
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist() if path.exists() else []
    return rows
