"""slime's and miles' rollout dumps: {rollout_id, samples}, one `.pt` a part, named as --load-debug-rollout-data names
it.

A sample has the fields of slime's `Sample.to_dict` that are known: group_index (a group's number in the part), index,
tokens (prompt and completion), response, response_length, label, reward, loss_mask, rollout_log_probs, status (pending
where nobody knows how it ended), metadata {group_id, rollout_id}, and train_metadata {advantages}, one a token of the
response, which slime hands to a custom advantage function as rollout_data["metadata"]. prompt is "", slime's default:
shaped rollouts have its ids alone. torch loads the file with weights_only=True. Rows that are not trainable are left
out.
"""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa

from pass_ops import shards
from pass_ops.reading.groups import group_bounds, group_numbers
from pipelines.exports.form import ExportFormat, Settings, advantages, trainable

_STATUS = {"stop": "completed", "length": "truncated"}


def encode(table: pa.Table, dataset: shards.CompleteDataset, settings: Settings) -> tuple[int, bytes]:  # noqa: ARG001
    """A part as slime's samples."""
    import torch

    table = trainable(table)
    groups = group_numbers(group_bounds(table["group_id"])).tolist()
    rows = table.append_column("advantages", advantages(table)).to_pylist()
    samples = [
        _sample(row, group=group, index=index) for index, (row, group) in enumerate(zip(rows, groups, strict=True))
    ]
    sink = io.BytesIO()
    torch.save({"rollout_id": 0, "samples": samples}, sink)
    return table.num_rows, sink.getvalue()


def _sample(row: dict[str, Any], *, group: int, index: int) -> dict[str, Any]:
    return {
        "group_index": group,
        "index": index,
        "prompt": "",
        "tokens": row["prompt_token_ids"] + row["token_ids"],
        "response": row["text"],
        "response_length": len(row["token_ids"]),
        "label": row["answer"],
        "reward": row.get("outcome_reward"),
        "loss_mask": [int(counts) for counts in row["loss_mask"]],
        "rollout_log_probs": row["behavior_logprobs"],
        "status": _STATUS.get(row["finish_reason"], "pending"),
        "metadata": {"group_id": row["group_id"], "rollout_id": row["rollout_id"]},
        "train_metadata": {"advantages": row["advantages"]},
    }


SLIME = ExportFormat(
    name="slime",
    summary="slime's and miles' rollout dumps (--load-debug-rollout-data FOLDER/{rollout_id}.pt)",
    stage="shape",
    file="{part}.pt",
    encode=encode,
    columns=(
        "group_id", "rollout_id", "prompt_token_ids", "token_ids", "text", "loss_mask", "behavior_logprobs", "answer",
        "finish_reason", "outcome_reward", "chunk_ends", "chunk_advantages", "trainable",
    ),
)  # fmt: skip
