"""Parquet for the Hugging Face hub, and for TRL.

huggingface: every column of the shaped dataset, and `advantages`, one a token; beside it the dataset card (README.md),
which says how it was made and which files are its data.

trl: the columns of TRL's generation batches (GRPOTrainer), unpadded: prompt_ids, completion_ids, completion_mask,
advantages (one a token), old_per_token_logps (the sampler's), ref_per_token_logps where there are any; and group_id,
rollout_id, completion (text) and reward for people. Rows that are not trainable are left out, since TRL has no
place for that.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from pass_ops import shards
from pipelines.exports.form import ExportFormat, Settings, advantages, trainable

#: TRL's name -> the shaped dataset's
TRL_NAMES = {
    "group_id": "group_id",
    "rollout_id": "rollout_id",
    "prompt_ids": "prompt_token_ids",
    "completion_ids": "token_ids",
    "completion_mask": "loss_mask",
    "old_per_token_logps": "behavior_logprobs",
    "ref_per_token_logps": "reference_logprobs",
    "completion": "text",
    "reward": "outcome_reward",
}


def huggingface(table: pa.Table, dataset: shards.CompleteDataset, settings: Settings) -> tuple[int, bytes]:  # noqa: ARG001
    """A part with all its columns and one advantage a token."""
    return table.num_rows, _parquet(table.append_column("advantages", advantages(table)))


def trl(table: pa.Table, dataset: shards.CompleteDataset, settings: Settings) -> tuple[int, bytes]:  # noqa: ARG001
    """A part under TRL's names."""
    table = trainable(table)
    columns = {name: table[ours] for name, ours in TRL_NAMES.items() if ours in table.column_names}
    made = pa.table(columns | {"advantages": advantages(table)})
    return made.num_rows, _parquet(made)


def card(dataset: shards.CompleteDataset, rows: int) -> Mapping[str, bytes]:
    """README.md: what the hub shows, and where `datasets` finds the data."""
    spec = dataset.spec
    options = json.dumps(spec.options, indent=1, sort_keys=True, default=str)
    models = "\n".join(f"- {role}: `{model.id}` (digest `{model.digest}`)" for role, model in spec.models.items())
    sampling = json.dumps(spec.carried.get("sampling", {}), indent=1, sort_keys=True)
    parts, policy = dataset.manifest.totals["parts"], spec.carried.get("policy_digest")
    text = f"""---
configs:
- config_name: default
  data_files: data/*.parquet
tags:
- reinforcement-learning
- process-supervision
---

# Rollouts with token advantages

{rows:,} rollouts in {parts} parts, exported by passrl.

- content digest of the shaped dataset: `{dataset.content_digest}`
- round {spec.carried.get("round")}, digest of the policy that sampled: `{policy}`

`advantages` has one value for each of `token_ids`, 0 where `loss_mask` is false; rows with `trainable` false belong to
no denominator. The columns are described in the project's reference.

## How it was shaped

```json
{options}
```

## How the rollouts were sampled

```json
{sampling}
```

## Models

{models or "None besides the policy."}
"""
    return {"README.md": text.encode()}


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


HUGGINGFACE = ExportFormat(
    name="huggingface",
    summary="a Hugging Face dataset: Parquet with every column and an advantage a token, and its card",
    stage="shape",
    file="data/part-{part:05d}.parquet",
    encode=huggingface,
    beside=card,
)
TRL = ExportFormat(
    name="trl",
    summary="Parquet with the columns of TRL's generation batches, unpadded",
    stage="shape",
    file="rollouts-{part:05d}.parquet",
    encode=trl,
    columns=(*TRL_NAMES.values(), "chunk_ends", "chunk_advantages", "trainable"),
)
