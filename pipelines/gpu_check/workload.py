"""Rollouts to measure training with: a shaped dataset of random tokens with a chosen spread of lengths."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from pass_ops.shards import DatasetSpec, commit_part, create_dataset, finalize, open_dataset, shaped_schema
from trainer import TrainOptions

CHUNK = 8  # tokens sharing one credit


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Rollouts to train on; spread: mean over max of their completion lengths (0.5 to 1)."""

    vocabulary: int
    groups: int  # of one step
    group: int
    steps: int
    longest: int
    spread: float
    prompt: int

    def lengths(self) -> np.ndarray:
        """Completion tokens of each rollout, evenly spaced over [(2 spread - 1) longest, longest] and shuffled."""
        rollouts = self.groups * self.group
        shares = np.linspace(2 * self.spread - 1, 1, rollouts)
        rng = np.random.default_rng(0)
        steps = [rng.permutation(np.maximum(1, np.round(self.longest * shares))) for _ in range(self.steps)]
        lengths: np.ndarray = np.concatenate(steps).astype(int)
        return lengths


def write_workload(url: str, workload: Workload) -> None:
    """The shaped dataset, one part a step. Behaviour log-probabilities are about those of a uniform policy."""
    rng = np.random.default_rng(1)
    lengths = workload.lengths()
    rows, group = len(lengths), workload.group
    groups = np.repeat(np.arange(rows // group), group)
    ends = [[*range(CHUNK, int(n), CHUNK), int(n)] for n in lengths]
    prompts = rng.integers(1, workload.vocabulary, (rows // group, workload.prompt))
    credits = [rng.normal(0, 1, len(e)).tolist() for e in ends]
    columns = {
        "group_id": [f"g{g:05d}" for g in groups],
        "sample_index": np.tile(np.arange(group), rows // group),
        "rollout_id": [f"g{g:05d}/{i % group}" for i, g in enumerate(groups)],
        "prompt_token_ids": [prompts[g].tolist() for g in groups],
        "token_ids": [rng.integers(1, workload.vocabulary, n).tolist() for n in lengths],
        "text": [""] * rows,
        "behavior_logprobs": [rng.normal(-math.log(workload.vocabulary), 0.3, n).tolist() for n in lengths],
        "loss_mask": [[True] * n for n in lengths],
        "finish_reason": ["stop"] * rows,
        "seed": [0] * rows,
        "answer": [None] * rows,
        "chunk_ends": ends,
        "chunk_credits": credits,
        "chunk_advantages": credits,
        "path_score": [0.0] * rows,
        "trainable": [True] * rows,
        "policy_digest": [""] * rows,
        "round": [0] * rows,
    }
    schema = shaped_schema({})
    table = pa.table({name: columns[name] for name in schema.names}, schema=schema)
    carried = {"sampling": {"temperature": 1.0, "logprobs_mode": "raw_logprobs"}}
    spec = DatasetSpec(stage="shape", stage_version=1, options={}, parts=workload.steps, carried=carried)
    dataset = create_dataset(url, spec)
    size = workload.groups * group
    for part in range(workload.steps):
        commit_part(dataset, part, table.slice(part * size, size))
    finalize(dataset)


def write_order(shaped: str, file: Path, options: TrainOptions) -> None:
    """A JSON file of the rollout ids of each of the trainer's steps, for another trainer to follow."""
    from trainer.data import ShapedData, build_index, select
    from trainer.order import all_steps

    data = ShapedData((open_dataset(shaped),))
    index = build_index(data, threads=1)
    parts = [data.read(part, ("rollout_id",))["rollout_id"].to_pylist() for part in range(len(data.places))]
    ids = [rollout_id for part in parts for rollout_id in part]
    steps = all_steps(select(index, options, context=2**31).units, options)
    file.write_text(json.dumps([[ids[r] for r in step.rows_R] for step in steps]), encoding="utf-8")
