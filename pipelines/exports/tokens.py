"""Lists of tokens with an advantage each, for trainers that take advantages as data: prime-rl and rllm.

prime-rl: one object a line with the fields of its `TrainingSample`: prompt and completion on one axis (token_ids, mask,
logprobs, temperatures, advantages), env_name, reward. Prompt tokens have mask false and 0 elsewhere.

rllm: one object a line with the fields of its `Step`: prompt_ids, response_ids, logprobs, advantage (a list, for
`algorithm.use_precomputed_advantage`), reward; beside them group_id and rollout_id, for building trajectories. A token
that the policy did not choose has advantage 0, since a step has no mask.

Rows that are not trainable are left out: neither has a place to say so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from pass_ops import shards
from pipelines.exports.form import (
    ExportFormat,
    Settings,
    advantages,
    json_lines,
    sampling_temperature,
    trainable,
)

COLUMNS = (
    "group_id", "rollout_id", "prompt_token_ids", "token_ids", "loss_mask", "behavior_logprobs", "outcome_reward",
    "chunk_ends", "chunk_advantages", "trainable",
)  # fmt: skip


def prime_rl(table: pa.Table, dataset: shards.CompleteDataset, settings: Settings) -> tuple[int, bytes]:
    """A part as prime-rl's samples."""
    temperature = sampling_temperature(dataset)
    name = settings.get("env_name", "passrl")

    def samples() -> Iterator[dict[str, Any]]:
        for row in weighted_rows(table):
            before = len(row["prompt_token_ids"])
            tokens = row["prompt_token_ids"] + row["token_ids"]
            yield {
                "token_ids": tokens,
                "mask": [False] * before + row["loss_mask"],
                "logprobs": [0.0] * before + row["behavior_logprobs"],
                "temperatures": [temperature] * len(tokens),
                "env_name": name,
                "advantages": [0.0] * before + row["advantages"],
                "reward": row.get("outcome_reward"),
            }

    return trainable(table).num_rows, json_lines(samples())


def rllm(table: pa.Table, dataset: shards.CompleteDataset, settings: Settings) -> tuple[int, bytes]:  # noqa: ARG001
    """A part as rllm's steps."""
    steps = (
        {
            "group_id": row["group_id"],
            "rollout_id": row["rollout_id"],
            "prompt_ids": row["prompt_token_ids"],
            "response_ids": row["token_ids"],
            "logprobs": row["behavior_logprobs"],
            "advantage": row["advantages"],
            "reward": row.get("outcome_reward"),
        }
        for row in weighted_rows(table)
    )
    return trainable(table).num_rows, json_lines(steps)


def weighted_rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """The trainable rows, each with `advantages`, one a completion token."""
    table = trainable(table)
    yield from table.append_column("advantages", advantages(table)).to_pylist()


PRIME_RL = ExportFormat(
    name="prime-rl",
    summary="JSONL of prime-rl's training samples: prompt and completion on one axis, an advantage a token",
    stage="shape",
    file="samples-{part:05d}.jsonl",
    encode=prime_rl,
    needs_known=("behavior_logprobs",),
    columns=COLUMNS,
    settings={"env_name": "the samples' env_name (default passrl)"},
)
RLLM = ExportFormat(
    name="rllm",
    summary="JSONL of rllm's steps, with a list of advantages each (algorithm.use_precomputed_advantage)",
    stage="shape",
    file="steps-{part:05d}.jsonl",
    encode=rllm,
    needs_known=("behavior_logprobs",),
    columns=COLUMNS,
)
