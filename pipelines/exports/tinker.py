"""tinker's Datum as JSON lines: what `forward_backward` takes for the losses importance_sampling, ppo and cispo.

model_input {chunks} is prompt and completion without the last token; loss_fn_inputs has, for the token that follows
each: target_tokens (int64), logprobs and advantages (float32), both 0 where the token does not count, each as
{data, dtype, shape}. Beside the Datum: rollout_id, group_id, reward. Rows that are not trainable are left out.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from pass_ops import shards
from pipelines.exports.form import ExportFormat, Settings, json_lines
from pipelines.exports.tokens import COLUMNS, weighted_rows


def encode(table: pa.Table, dataset: shards.CompleteDataset, settings: Settings) -> tuple[int, bytes]:  # noqa: ARG001
    """A part as Datums."""
    rows = [_datum(row) for row in weighted_rows(table)]
    return len(rows), json_lines(rows)


def _datum(row: dict[str, Any]) -> dict[str, Any]:
    tokens = row["prompt_token_ids"] + row["token_ids"]
    before = [0.0] * (len(row["prompt_token_ids"]) - 1)
    return {
        "rollout_id": row["rollout_id"],
        "group_id": row["group_id"],
        "reward": row.get("outcome_reward"),
        "model_input": {"chunks": [{"type": "encoded_text", "tokens": tokens[:-1]}]},
        "loss_fn_inputs": {
            "target_tokens": _tensor(tokens[1:], "int64"),
            "logprobs": _tensor(before + row["behavior_logprobs"], "float32"),
            "advantages": _tensor(before + row["advantages"], "float32"),
        },
    }


def _tensor(values: list[Any], dtype: str) -> dict[str, Any]:
    return {"data": values, "dtype": dtype, "shape": [len(values)]}


TINKER = ExportFormat(
    name="tinker",
    summary="JSONL of tinker's Datum, with an advantage a target token",
    stage="shape",
    file="data-{part:05d}.jsonl",
    encode=encode,
    needs_known=("behavior_logprobs",),
    columns=COLUMNS,
)
