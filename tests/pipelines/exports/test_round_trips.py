"""What is exported and imported again is what it was, but for what the format has no place for, which is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pass_ops import Weights, shards
from pipelines.exports.write import FORMATS, export, export_format
from pipelines.shaped.stage import ShapeOptions, shape_dataset
from tests.pipelines.imports.conftest import Run

#: in the alphabet of the tiny model: "2" is 4, "3" 5, "+" 38, "=" 40, "\n" 45; 1 is its end token
ROLLOUTS = [
    {"prompt": "2+3=", "text": "5", "ids": [7, 1], "mask": [1, 1], "finish": "stop", "reward": 1.0},
    {"prompt": "2+3=", "text": "2\n3", "ids": [4, 45, 5], "mask": [1, 0, 1], "finish": "length", "reward": 0.0},
    {"prompt": "3+3=", "text": "6", "ids": [8, 1], "mask": [1, 1], "finish": "stop", "reward": 1.0},
    {"prompt": "3+3=", "text": "2", "ids": [4, 1], "mask": [1, 1], "finish": "stop", "reward": 0.25},
]
PROMPTS = {"2+3=": [4, 38, 5, 40], "3+3=": [5, 38, 5, 40]}
ROLES = {
    "prompt": "prompt", "response": "text", "prompt_token_ids": "prompt_ids", "token_ids": "ids", "loss_mask": "mask",
    "logprobs": "logprobs", "finish_reason": "finish", "answer": "answer", "temperature": "temperature",
    "reward.right": "reward",
}  # fmt: skip

#: export -> import, the mapping where that is `rows`, and what is lost on the way. What has ids and no text, a prompt
#: always, gets it back by --tokenizer.
TRIPS: dict[str, tuple[str, dict[str, str], set[str]]] = {
    "huggingface": (
        "rows",
        {"response": "text", "group": "group_id", "sample_index": "sample_index", "token_ids": "token_ids",
         "prompt_token_ids": "prompt_token_ids", "logprobs": "behavior_logprobs", "loss_mask": "loss_mask",
         "finish_reason": "finish_reason", "answer": "answer", "reward.right": "outcome_reward"},
        {"temperature"},
    ),
    "trl": (
        "rows",
        {"response": "completion", "group": "group_id", "prompt_token_ids": "prompt_ids", "token_ids": "completion_ids",
         "logprobs": "old_per_token_logps", "loss_mask": "completion_mask", "reward.right": "reward"},
        {"temperature", "finish_reason", "answer"},
    ),
    "rllm": (
        "rows",
        {"group": "group_id", "prompt_token_ids": "prompt_ids", "token_ids": "response_ids", "logprobs": "logprobs",
         "reward.right": "reward"},
        {"temperature", "finish_reason", "answer", "loss_mask"},
    ),
    "prime-rl": ("prime_tokens", {}, {"finish_reason", "answer", "group", "sample_index"}),
    "slime": ("slime", {}, {"temperature"}),
    "verl": ("verl_tensors", {}, {"finish_reason"}),
}  # fmt: skip


def facts(run: Run, reward: str) -> dict[str, list[Any]]:
    """What there is to know of each rollout, by name."""
    rollouts, prompts = run.rows("rollouts"), {row["prompt_id"]: row for row in run.rows("prompts")}
    names = list(dict.fromkeys(row["group_id"] for row in rollouts))
    sampling = shards.open_dataset(run.folder("rollouts")).spec.carried["sampling"]
    kept = ("prompt_token_ids", "token_ids", "loss_mask", "behavior_logprobs", "text", "finish_reason", "answer")
    return {name: [row[name] for row in rollouts] for name in kept} | {
        "group": [names.index(row["group_id"]) for row in rollouts],
        "sample_index": [row["sample_index"] for row in rollouts],
        "prompt": [prompts[row["group_id"]]["prompt"] for row in rollouts],
        "reward": [row["outcome_reward"] for row in run.rows("signals", reward)],
        "temperature": [sampling["temperature"]],
    }


@pytest.fixture
def original(import_run, jsonl, tiny_model) -> Run:
    """Rollouts with everything that an import can know, shaped."""
    rows = [row | {"prompt_ids": PROMPTS[row["prompt"]], "answer": "5", "temperature": 0.75} for row in ROLLOUTS]
    drawn = -np.random.default_rng(0).random((len(rows), 3)).astype(np.float32)
    for row, values in zip(rows, drawn.tolist(), strict=True):
        row["logprobs"] = [value * counts for value, counts in zip(values, row["mask"], strict=False)]
    mapping = tuple(f"{role}={column}" for role, column in ROLES.items())
    run = import_run("rows", jsonl(rows), out="original", mapping=mapping, tokenizer=tiny_model)
    shape_dataset(
        rollouts=run.folder("rollouts"),
        signals=run.folder("signals"),
        out=run.folder("shaped"),
        options=ShapeOptions(estimator="grpo_outcome", outcome="right", weights=Weights(format=0.0)),
    )
    return run


@pytest.mark.parametrize("name", TRIPS)
def test_a_format_keeps_what_it_has_a_place_for(original, import_run, tmp_path: Path, tiny_model, name: str) -> None:
    form, mapping, lost = TRIPS[name]
    export(export_format(name), original.folder("shaped"), str(tmp_path / "out"))
    source = tmp_path / "out" / "data" if name == "huggingface" else tmp_path / "out"
    roles = tuple(f"{role}={column}" for role, column in mapping.items())
    again = import_run(form, source, out="again", tokenizer=tiny_model, mapping=roles)
    (reward,) = again.made.facts.rewards
    before, after = facts(original, "right"), facts(again, reward)
    assert {fact for fact in before if before[fact] != after[fact]} == lost


def test_every_export_of_rollouts_is_in_the_table_or_read_by_nobody() -> None:
    unread = {"safetensors", "tinker"}
    assert {name for name, form in FORMATS.items() if form.stage == "shape"} == {*TRIPS, *unread}


def test_prompts_come_back_with_the_answers_to_their_requests(original, import_run, jsonl, tmp_path: Path) -> None:
    """vLLM's run-batch answers each request with n choices; here the stored texts are the answers."""
    folder = tmp_path / "batch"
    export(
        export_format("openai-batch"),
        original.folder("prompts"),
        str(folder),
        settings={"model": "m", "temperature": 1},
    )
    texts: dict[str, list[str]] = {}
    for row in original.rows("rollouts"):
        texts.setdefault(row["group_id"], []).append(row["text"])
    results = [
        {
            "id": f"r-{name}", "custom_id": name, "error": None,
            "response": {"status_code": 200, "body": {"choices": [
                {"index": at, "text": text, "finish_reason": "stop"} for at, text in enumerate(said)
            ]}},
        }
        for name, said in texts.items()
    ]  # fmt: skip
    jsonl(results, "batch/results.jsonl")
    again = import_run("openai_batch", folder, out="again")
    before, after = original.rows("prompts"), again.rows("prompts")
    lost = {name for name in before[0] if [row[name] for row in before] != [row[name] for row in after]}
    assert lost == {"prompt_id", "answer", "source"}  # extra had nothing in it
    assert [row["text"] for row in again.rows("rollouts")] == [row["text"] for row in original.rows("rollouts")]
