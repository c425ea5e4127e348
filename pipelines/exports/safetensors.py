"""Padded tensors, one `.safetensors` file a part: prompts filled up on the left, completions on the right.

prompt_ids, prompt_mask [R, P]; completion_ids, completion_mask, behavior_logprobs, advantages [R, T], and
reference_logprobs where there are any; group_index, trainable [R]. Ids are int64, masks bool, the rest float32; padding
is 0. The file's metadata holds `rollout_ids`, a JSON list. Every row is kept.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa

from pass_ops import shards
from pass_ops.reading.groups import group_bounds, group_numbers
from pass_ops.reading.ragged import list_lengths, list_values
from pipelines.exports.form import ExportFormat, Settings, advantages


def encode(table: pa.Table, dataset: shards.CompleteDataset, settings: Settings) -> tuple[int, bytes]:  # noqa: ARG001
    """A part as padded arrays."""
    from safetensors.numpy import save

    prompts = table["prompt_token_ids"].combine_chunks()
    ones = pa.ListArray.from_arrays(prompts.offsets, pa.array(np.ones(len(prompts.values), dtype=np.bool_)))
    arrays = {
        "prompt_ids": padded(prompts, np.int64, left=True),
        "prompt_mask": padded(ones, np.bool_, left=True),
        "completion_ids": padded(table["token_ids"], np.int64),
        "completion_mask": padded(table["loss_mask"], np.bool_),
        "behavior_logprobs": padded(table["behavior_logprobs"], np.float32),
        "advantages": padded(advantages(table), np.float32),
        "group_index": group_numbers(group_bounds(table["group_id"])).astype(np.int64),
        "trainable": table["trainable"].to_numpy(),
    }
    if "reference_logprobs" in table.column_names and table["reference_logprobs"].null_count == 0:
        arrays["reference_logprobs"] = padded(table["reference_logprobs"], np.float32)
    metadata = {"rollout_ids": json.dumps(table["rollout_id"].to_pylist())}
    content: bytes = save(arrays, metadata=metadata)
    return table.num_rows, content


def padded(lists: pa.Array | pa.ChunkedArray, dtype: Any, *, left: bool = False) -> np.ndarray[Any, Any]:
    """Lists as one array, filled up with 0 on the right, or on the left.

    >>> padded(pa.array([[1, 2], [3]]), np.int64, left=True)
    array([[1, 2],
           [0, 3]])
    """
    lengths_R = list_lengths(lists)
    width = int(lengths_R.max(initial=0))
    places = np.arange(width) < lengths_R[:, None]
    found = np.zeros(places.shape, dtype=dtype)
    found[places[:, ::-1] if left else places] = list_values(lists)
    return found


SAFETENSORS = ExportFormat(
    name="safetensors",
    summary="padded tensors of a part in one .safetensors file",
    stage="shape",
    file="part-{part:05d}.safetensors",
    encode=encode,
    needs_known=("behavior_logprobs",),
    columns=(
        "group_id", "rollout_id", "prompt_token_ids", "token_ids", "loss_mask", "behavior_logprobs",
        "reference_logprobs", "chunk_ends", "chunk_advantages", "trainable",
    ),
)  # fmt: skip
