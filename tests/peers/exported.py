"""A small shaped dataset, and what `passrl export` made of it."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa

from pass_ops.shards import DatasetSpec, commit_part, create_dataset, finalize, shaped_schema
from pipelines.exports.write import export, export_format

#: (group, prompt, completion, mask, log-probabilities, advantages of its two chunks)
ROWS = [
    ("a", [5, 6, 7], [8, 9, 10, 11], [True, True, False, True], [-0.5, -1.0, 0.0, -0.25], [1.5, -0.5]),
    ("a", [5, 6, 7], [12, 1], [True, True], [-2.0, -0.125], [-1.0, 0.25]),
    ("b", [13], [14, 15, 1], [True, True, True], [-0.75, -0.5, -1.5], [0.5, 2.0]),
]
REWARDS = [1.0, 0.0, 0.5]


def weights_of(row: int) -> list[float]:
    """The first chunk is the first token; 0 where the token does not count."""
    first, second = ROWS[row][5]
    return [(first if at == 0 else second) if counts else 0.0 for at, counts in enumerate(ROWS[row][3])]


def exported(folder: Path, name: str) -> Path:
    """The one file of the export."""
    schema = shaped_schema({"right": "outcome"})
    groups, prompts, tokens, masks, logprobs, advantages = (list(column) for column in zip(*ROWS, strict=True))
    columns = {
        "group_id": groups, "sample_index": [0, 1, 0], "rollout_id": ["a/0", "a/1", "b/0"], "prompt_token_ids": prompts,
        "token_ids": tokens, "text": [""] * 3, "behavior_logprobs": logprobs, "loss_mask": masks, "seed": [0] * 3,
        "finish_reason": ["stop"] * 3, "answer": ["4", "4", None], "outcome_reward": REWARDS,
        "verify_status": ["ok"] * 3, "extracted_answer": [None] * 3, "status_right": ["ok"] * 3,
        "detail_right": [None] * 3, "chunk_ends": [[1, len(one)] for one in tokens], "chunk_credits": advantages,
        "chunk_advantages": advantages, "path_score": [0.0] * 3, "trainable": [True] * 3, "policy_digest": ["p"] * 3,
        "round": [0] * 3,
    }  # fmt: skip
    table = pa.table({column: columns[column] for column in schema.names}, schema=schema)
    sampling = {"temperature": 0.75, "logprobs_mode": "processed_logprobs"}
    spec = DatasetSpec(stage="shape", stage_version=1, options={}, parts=1, carried={"sampling": sampling})
    dataset = create_dataset(str(folder / "shaped"), spec)
    commit_part(dataset, 0, table)
    finalize(dataset)
    made = export(export_format(name), str(folder / "shaped"), str(folder / name))
    return folder / name / made.files[0]


def json_rows(path: Path) -> list[dict]:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text().splitlines()]
