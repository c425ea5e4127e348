"""Small stored runs, written through the dataset protocol as the stages write them: no model, no Beam."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pytest

from pass_ops.shards import (
    ROLLOUTS,
    CompleteDataset,
    DatasetSpec,
    commit_part,
    create_dataset,
    finalize,
    open_dataset,
    signal_schema,
)
from pipelines.shaped import streams
from pipelines.shaped.stage import ShapeOptions, joined_parts, resolve_signal, shape_part, shape_spec

SAMPLING = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "max_tokens": 64,
    "group_size": 4,
    "logprobs_mode": "raw_logprobs",
}
STEPS = ShapeOptions(process="steps", outcome="verifier", format="format")


@dataclass(frozen=True)
class StoredRun:
    """URL of a run with one round: rollouts, the signals `steps`, `verifier`, `format`, and `shaped`."""

    url: str
    shaped: CompleteDataset

    @property
    def rollouts(self) -> str:
        return f"{self.url}/round-000/rollouts"

    @property
    def signals(self) -> str:
        return f"{self.url}/round-000/signals"


def rollout(rollout_id: str, tokens: int, **values: Any) -> dict[str, Any]:
    """One rollout and its signals as one flat row; `values` overrides columns of either."""
    group, _, index = rollout_id.rpartition("/")
    row = {
        "group_id": group,
        "sample_index": int(index),
        "rollout_id": rollout_id,
        "prompt_token_ids": [1],
        "token_ids": [7] * tokens,
        "text": "text",
        "behavior_logprobs": [-0.5] * tokens,
        "loss_mask": [True] * tokens,
        "finish_reason": "stop",
        "seed": 1,
        "answer": "1",
        "process_scores": [0.0],
        "process_ends": [tokens],
        "outcome_reward": 1.0,
        "verify_status": "ok",
        "extracted_answer": "1",
        "format_reward": 1.0,
        "format_ok": True,
    }
    row |= values
    if "verify_status" not in values and row["outcome_reward"] == 0.0:
        row["verify_status"] = "wrong"
    row["behavior_logprobs"] = [
        value if kept else 0.0 for value, kept in zip(row["behavior_logprobs"], row["loss_mask"], strict=True)
    ]
    return row


def _signal_table(rows: list[dict[str, Any]], kind: str) -> pa.Table:
    schema = signal_schema(kind)
    columns = [name for name in schema.names if name not in ("rollout_id", "status", "detail", "verify_status")]
    columns = [name for name in columns if name != "extracted_answer"]
    made = []
    for row in rows:
        missing = any(row[name] is None for name in columns)
        made.append({**row, "status": "timeout" if missing else "ok", "detail": None})
        if missing:
            made[-1] |= dict.fromkeys([*columns, "extracted_answer"])
    return pa.Table.from_pylist([{name: row[name] for name in schema.names} for row in made], schema=schema)


def _write(url: str, spec: DatasetSpec, tables: list[pa.Table]) -> CompleteDataset:
    dataset = create_dataset(url, spec)
    for part, table in enumerate(tables):
        commit_part(dataset, part, table)
    finalize(dataset)
    return open_dataset(url)


@pytest.fixture
def store_run(tmp_path) -> Callable[..., StoredRun]:
    """store_run(part, part, ...): each part a list of `rollout(...)` rows.

    options: ShapeOptions; sampling, carried: changes to what the rollouts carry.
    """

    def make(
        *parts: list[dict[str, Any]],
        options: ShapeOptions = STEPS,
        sampling: dict[str, Any] | None = None,
        carried: dict[str, Any] | None = None,
    ) -> StoredRun:
        url = str(tmp_path / "run")
        base = f"{url}/round-000"
        source = _rollouts(f"{base}/rollouts", parts, {"sampling": SAMPLING | (sampling or {}), **(carried or {})})
        kinds = {"steps": "process_tokens" if options.signal == "kl" else "process_steps"}
        kinds |= {"verifier": "outcome", "format": "format"}
        signals = {
            name: _signal(f"{base}/signals/{name}", parts, source=source, kind=kind) for name, kind in kinds.items()
        }
        options = resolve_signal(options, kinds)
        scored = {name: signals[name] for name in options.roles}
        spec = shape_spec(source, scored, out=f"{base}/shaped", options=options)
        recorded = streams.recorded(options.config, lambda: joined_parts(source, scored, options), spec)
        spec = replace(spec, carried={**spec.carried, **recorded})
        statistics = streams.statistics_of(spec, options.config)
        shaped = [
            shape_part(
                source.read_part(part),
                {name: dataset.read_part(part) for name, dataset in scored.items()},
                options=options,
                policy_digest="p",
                round=0,
                statistics=statistics,
            )
            for part in range(len(parts))
        ]
        return StoredRun(url, _write(f"{base}/shaped", spec, shaped))

    return make


def _rollouts(url: str, parts: Sequence[list[dict[str, Any]]], changes: dict[str, Any]) -> CompleteDataset:
    carried = {"tokenizer_digest": "t", "vocabulary": "v", "round": 0, "policy_digest": "p", **changes}
    spec = DatasetSpec(stage="generate", stage_version=1, options={}, parts=len(parts), seed=1, carried=carried)
    columns = [[{name: row[name] for name in ROLLOUTS.names} for row in rows] for rows in parts]
    return _write(url, spec, [pa.Table.from_pylist(rows, schema=ROLLOUTS) for rows in columns])


def _signal(url: str, parts: Sequence[list[dict[str, Any]]], *, source: CompleteDataset, kind: str) -> CompleteDataset:
    inputs = {"rollouts": source.ref(url)}
    spec = DatasetSpec(stage="score", stage_version=1, options={"kind": kind}, parts=len(parts), inputs=inputs)
    return _write(url, spec, [_signal_table(rows, kind) for rows in parts])


@pytest.fixture
def row() -> Callable[..., dict[str, Any]]:
    """row("a/0", 3, outcome_reward=0.0): a rollout of three tokens and its signals."""
    return rollout


CONFIG = """
[prompts]
source = "prompts.jsonl"
[policy]
model = "model"
[shape]
process = "steps"
outcome = "verifier"
standardize = "none"
k = 0.0
weights = { process = 1.0, outcome = 0.0, format = 0.0 }
"""


@pytest.fixture
def raw_config(tmp_path) -> str:
    """A configuration over the signals of `store_run` by which credits are the scores themselves."""
    config = tmp_path / "run.toml"
    config.write_text(CONFIG)
    return str(config)
