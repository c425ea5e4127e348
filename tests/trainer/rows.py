"""Shaped rollouts as tests write them down, the datasets and steps made of them, and gradients of such steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pass_ops.shards import DatasetSpec, commit_part, create_dataset, finalize, shaped_schema
from trainer.batching import StepBatch, build_step
from trainer.metrics import read_metrics
from trainer.options import TrainOptions
from trainer.policy import Policy
from trainer.rollouts import Rollout
from trainer.update import backward

VOCABULARY = 32
TIMES = {"seconds", "data_wait", "tokens_per_second", "mfu"}
SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "logprobs_mode": "raw_logprobs"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One shaped rollout as a test writes it down; everything not given follows from token_ids."""

    rollout_id: str
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    ends: tuple[int, ...]
    advantages: tuple[float, ...]
    behavior: tuple[float, ...]
    mask: tuple[bool, ...]
    reference: tuple[float, ...] | None = None
    old: tuple[float, ...] | None = None  # what the trainer would recompute; not stored
    trainable: bool = True
    round: int = 0

    @property
    def group(self) -> str:
        return self.rollout_id.split("/")[0]


def random_rows(*, groups: int, size: int, seed: int = 0, longest: int = 12) -> list[Row]:
    """Rollouts of random tokens: two chunks each, a masked token in the middle of the longer ones."""
    rng = np.random.default_rng(seed)
    rows = []
    for g in range(groups):
        prompt = tuple(int(x) for x in rng.integers(1, VOCABULARY, rng.integers(1, 5)))
        for i in range(size):
            length = int(rng.integers(2, longest))
            mask = [True] * length
            if length > 4:
                mask[length // 2] = False
            behavior = rng.normal(-3.4, 0.4, length)
            reference = rng.normal(-3.4, 0.4, length)
            behavior[~np.array(mask)] = reference[~np.array(mask)] = 0.0
            rows.append(
                Row(
                    rollout_id=f"g{g:03d}/{i}",
                    prompt=prompt,
                    tokens=tuple(int(x) for x in rng.integers(0, VOCABULARY, length)),
                    ends=(length // 2, length),
                    advantages=tuple(float(np.float32(x)) for x in rng.normal(0, 1, 2)),
                    behavior=tuple(float(np.float32(x)) for x in behavior),
                    reference=tuple(float(np.float32(x)) for x in reference),
                    mask=tuple(mask),
                )
            )
    return rows


def shaped_table(rows: Sequence[Row]) -> pa.Table:
    """The contract's shaped columns for these rows."""
    reference = any(row.reference is not None for row in rows)
    schema = shaped_schema({"ref": "logprobs"} if reference else {}, reference="ref" if reference else None)
    columns: dict[str, list[Any]] = {
        "group_id": [row.group for row in rows],
        "sample_index": [int(row.rollout_id.split("/")[1]) for row in rows],
        "rollout_id": [row.rollout_id for row in rows],
        "prompt_token_ids": [row.prompt for row in rows],
        "token_ids": [row.tokens for row in rows],
        "text": ["" for _ in rows],
        "behavior_logprobs": [row.behavior for row in rows],
        "loss_mask": [row.mask for row in rows],
        "finish_reason": ["stop" for _ in rows],
        "seed": [0 for _ in rows],
        "answer": [None for _ in rows],
        "reference_logprobs": [row.reference for row in rows],
        "status_ref": ["ok" if row.reference is not None else "error" for row in rows],
        "detail_ref": [None for _ in rows],
        "chunk_ends": [row.ends for row in rows],
        "chunk_credits": [row.advantages for row in rows],
        "chunk_advantages": [row.advantages for row in rows],
        "path_score": [None if not row.trainable else 0.0 for row in rows],
        "trainable": [row.trainable for row in rows],
        "policy_digest": ["p" * 64 for _ in rows],
        "round": [row.round for row in rows],
    }
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def write_shaped(
    url: str,
    parts: Sequence[Sequence[Row]],
    *,
    sampling: dict[str, Any] | None = None,
    carried: dict[str, Any] | None = None,
    seed: int = 0,
) -> str:
    """A finalized shaped dataset of these parts."""
    spec = DatasetSpec(
        stage="shape",
        stage_version=1,
        options={"k": 0.7},
        parts=len(parts),
        seed=seed,
        carried={"sampling": SAMPLING | (sampling or {}), "policy_digest": "p" * 64, "round": 0, **(carried or {})},
    )
    dataset = create_dataset(url, spec)
    for i, rows in enumerate(parts):
        commit_part(dataset, i, shaped_table(rows))
    finalize(dataset)
    return url


def split_groups(rows: Sequence[Row], parts: int) -> list[list[Row]]:
    """Whole groups dealt to parts."""
    groups = sorted({row.group for row in rows})
    return [
        [row for row in rows if row.group in set(chunk)] for chunk in (list(c) for c in np.array_split(groups, parts))
    ]


def changed(rows: Sequence[Row], number: int, **values: Any) -> list[Row]:
    """The rows with one of them changed."""
    return [replace(row, **values) if i == number else row for i, row in enumerate(rows)]


def as_rollout(row: Row, *, reference: bool = True) -> Rollout:
    """The row as the trainer's stream would give it."""
    return Rollout(
        rollout_id=row.rollout_id,
        prompt_ids=np.array(row.prompt, np.int32),
        token_ids_T=np.array(row.tokens, np.int32),
        mask_T=np.array(row.mask),
        behavior_T=np.array(row.behavior, np.float32),
        old_T=None if row.old is None else np.array(row.old, np.float32),
        advantages_T=np.repeat(np.array(row.advantages, np.float32), np.diff((0, *row.ends))),
        reference_T=np.array(row.reference, np.float32) if reference and row.reference is not None else None,
    )


def step_of(rows: Sequence[Row], *, budget: int = 10_000, pack: bool = False, **changes: Any) -> StepBatch:
    """One step's batch of these rows."""
    arguments: dict[str, Any] = {
        "masked": [False] * len(rows), "aggregation": "rollout_mean", "constant": None, "vocabulary_size": VOCABULARY,
    }  # fmt: skip
    reference = changes.pop("reference", True)
    rollouts = [as_rollout(row, reference=reference) for row in rows]
    return build_step(rollouts, budget=budget, pack=pack, **(arguments | changes))


def gradient_of(policy: Policy, step: StepBatch, options: TrainOptions) -> dict[str, Any]:
    """The gradient of one step's loss by parameter, as the trainer gathers it; and the loss under the name "loss"."""
    policy.model.zero_grad(set_to_none=True)
    losses = [backward(policy, micro, options=options) for micro in step.micro_batches]
    gradient = {name: p.grad.clone() for name, p in policy.model.named_parameters()}
    policy.model.zero_grad(set_to_none=True)
    return gradient | {"loss": sum(values["loss"] for values in losses if values)}


def largest_difference(a: dict[str, Any], b: dict[str, Any]) -> float:
    """max |a - b| over max |b|, over all parameters."""
    names = [name for name in b if name != "loss"]
    difference = max(float((a[name].double() - b[name].double()).abs().max()) for name in names)
    return difference / max(float(b[name].abs().max()) for name in names)


def untrainable(row: Row, **values: Any) -> Row:
    """The row as shape leaves one with a missing value: one chunk of no credit."""
    return replace(row, trainable=False, ends=(len(row.tokens),), advantages=(0.0,), **values)


def fully_masked(row: Row) -> Row:
    """The row with no token that counts."""
    zeros = (0.0,) * len(row.tokens)
    return untrainable(row, mask=(False,) * len(row.tokens), behavior=zeros, reference=zeros)


def without_times(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what differs from run to run."""
    return [{k: v for k, v in line.items() if k not in TIMES} for line in read_metrics(folder)]
