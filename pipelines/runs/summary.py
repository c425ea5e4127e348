"""A shaped dataset in a few numbers: what a round's table and its lineage show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from pass_ops.shards import CompleteDataset


@dataclass(frozen=True, kw_only=True)
class ShapedSummary:
    """Of all rollouts: mean_length (tokens), outcome_rate (mean outcome reward of the scored ones, None without any).

    Of the trainable ones: chunks_per_rollout, zero_advantage (share whose every chunk advantage is 0),
    advantage_mean and
    advantage_std (over chunks).
    """

    rollouts: int
    trainable: int
    mean_length: float
    outcome_rate: float | None
    chunks_per_rollout: float
    zero_advantage: float
    advantage_mean: float
    advantage_std: float


def summarize_shaped(dataset: CompleteDataset) -> ShapedSummary:
    """One pass over the chunk columns, part by part: memory is bounded by a part."""
    columns = ["chunk_ends", "chunk_advantages", "trainable"]
    if "outcome_reward" in dataset.read_part(0).schema.names:
        columns.append("outcome_reward")
    rollouts = trainable = tokens = chunks = zero = scored = 0
    reward_sum = advantage_sum = advantage_squares = 0.0
    for part in range(len(dataset.parts)):
        table = dataset.read_part(part, columns=columns)
        rollouts += len(table)
        tokens += dataset.parts[part].tokens
        if "outcome_reward" in columns:
            rewards = table.column("outcome_reward")
            scored += len(rewards) - rewards.null_count
            reward_sum += pc.sum(rewards).as_py() or 0.0
        kept = table.filter(table.column("trainable"))
        trainable += len(kept)
        advantage_K = np.asarray(pc.list_flatten(kept.column("chunk_advantages")), np.float64)
        chunks += len(advantage_K)
        advantage_sum += float(advantage_K.sum())
        advantage_squares += float(np.square(advantage_K).sum())
        row_K = np.asarray(pc.list_parent_indices(kept.column("chunk_advantages").combine_chunks()))
        zero += len(kept) - len(np.unique(row_K[advantage_K != 0.0]))
    mean = advantage_sum / max(chunks, 1)
    return ShapedSummary(
        rollouts=rollouts,
        trainable=trainable,
        mean_length=tokens / max(rollouts, 1),
        outcome_rate=reward_sum / scored if scored else None,
        chunks_per_rollout=chunks / max(trainable, 1),
        zero_advantage=zero / max(trainable, 1),
        advantage_mean=mean,
        advantage_std=float(np.sqrt(max(advantage_squares / max(chunks, 1) - mean * mean, 0.0))),
    )
