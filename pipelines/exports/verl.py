"""verl's DataProto as plain objects: one `.pt` a part, which torch loads with weights_only=True.

`DataProto.save_to_disk` pickles the class itself, and loading that runs code. Here are its three parts instead, which
`DataProto.from_dict(tensors=, non_tensors=, meta_info=)` takes:

batch: prompts [B, P] filled up on the left, responses [B, T] on the right; input_ids, attention_mask and position_ids
[B, P + T]; response_mask, rollout_log_probs, advantages and returns [B, T], ref_log_prob and token_level_scores (the
outcome, at the last token) where every row has them. Ids and masks are int64, the rest float32, padding is 0.
non_tensor_batch: uid (the group), rollout_id, reward_model {ground_truth}. meta_info: temperature.

verl adds up what it is given: returns are the advantages, since no value function is. Rows that are not trainable are
left out.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa

from pass_ops import shards
from pass_ops.reading.ragged import list_lengths
from pipelines.exports.form import ExportFormat, Settings, advantages, sampling_temperature, trainable
from pipelines.exports.safetensors import padded


def encode(table: pa.Table, dataset: shards.CompleteDataset, settings: Settings) -> tuple[int, bytes]:  # noqa: ARG001
    """A part as the parts of a DataProto."""
    import torch

    table = trainable(table)
    content = {
        "batch": {name: torch.from_numpy(values) for name, values in tensors(table).items()},
        "non_tensor_batch": {
            "uid": table["group_id"].to_pylist(),
            "rollout_id": table["rollout_id"].to_pylist(),
            "reward_model": [{"ground_truth": answer} for answer in table["answer"].to_pylist()],
        },
        "meta_info": {"temperature": sampling_temperature(dataset)},
    }
    sink = io.BytesIO()
    torch.save(content, sink)
    return table.num_rows, sink.getvalue()


def tensors(table: pa.Table) -> dict[str, np.ndarray[Any, Any]]:
    """What verl calls the batch, as arrays."""
    prompts, responses = (
        padded(table[name], np.int64, left=name != "token_ids") for name in ("prompt_token_ids", "token_ids")
    )
    attended = np.hstack(
        [
            np.arange(prompts.shape[1])[::-1] < list_lengths(table["prompt_token_ids"])[:, None],
            np.arange(responses.shape[1]) < list_lengths(table["token_ids"])[:, None],
        ]
    ).astype(np.int64)
    weights = padded(advantages(table), np.float32)
    found = {
        "prompts": prompts,
        "responses": responses,
        "input_ids": np.hstack([prompts, responses]),
        "attention_mask": attended,
        "position_ids": np.maximum(attended.cumsum(axis=1) - 1, 0),
        "response_mask": padded(table["loss_mask"], np.int64),
        "rollout_log_probs": padded(table["behavior_logprobs"], np.float32),
        "advantages": weights,
        "returns": weights.copy(),
    }
    if "reference_logprobs" in table.column_names and table["reference_logprobs"].null_count == 0:
        found["ref_log_prob"] = padded(table["reference_logprobs"], np.float32)
    if "outcome_reward" in table.column_names and table["outcome_reward"].null_count == 0:
        scores = found["token_level_scores"] = np.zeros(responses.shape, np.float32)
        scores[np.arange(len(table)), list_lengths(table["token_ids"]) - 1] = table["outcome_reward"].to_numpy()
    return found


VERL = ExportFormat(
    name="verl",
    summary="the parts of verl's DataProto in one .pt file, loaded with weights_only=True",
    stage="shape",
    file="batch-{part:05d}.pt",
    encode=encode,
    needs_known=("behavior_logprobs",),
    columns=(
        "group_id", "rollout_id", "prompt_token_ids", "token_ids", "loss_mask", "behavior_logprobs", "answer",
        "reference_logprobs", "outcome_reward", "chunk_ends", "chunk_advantages", "trainable",
    ),
)  # fmt: skip
