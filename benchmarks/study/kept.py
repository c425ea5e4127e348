"""The published rollouts of one seed, read again, and what each arm's credit was made of in them.

A token weighs in an update as the trainer weighs it: by its advantage, divided by the tokens of its rollout
(aggregation rollout_mean). So the weight of a rollout is the mean square of its advantages,

    e_i = mean over t of A_it^2

and the share of some rollouts is their part of the sum of all e_i.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.study.arms import ARMS, Cell, cell_of
from benchmarks.study.probe import shaped_arms
from benchmarks.study.publish import KEPT_ROUNDS
from benchmarks.study.sample import Completion
from benchmarks.study.signals import Batch, Models, judged_batch, table
from benchmarks.study.size import STUDY
from benchmarks.study.store import HOME
from pass_ops import shape, shards, token_advantages

PUBLISHED = HOME / "rollouts"


def kept_cells(home: Path = PUBLISHED) -> list[Cell]:
    """The cells whose rollouts are published, in order of their names."""
    return [cell_of(folder.name) for folder in sorted(home.iterdir()) if folder.is_dir()]


def kept_batch(cell: Cell, number: int, home: Path = PUBLISHED) -> Batch:
    """A round's rollouts, judged again; entropies are not published and read as NaN."""
    columns = ["group_id", "sample_index", "prompt_token_ids", "token_ids", "behavior_logprobs"]
    stored = _part(home, cell, "rollouts", columns)
    stored = stored.filter(_of_round(stored["group_id"], number))
    copies = STUDY.copies
    if stored["sample_index"].to_pylist() != list(range(copies)) * (len(stored) // copies):
        raise ValueError(
            f"{home / cell.name}: round {number} does not hold {copies} rollouts a group in order, so its groups "
            "cannot be told apart; publish them again"
        )
    completions = [
        Completion(tuple(ids), np.array(logprobs, np.float32), np.full(len(ids), np.nan, np.float32))
        for ids, logprobs in zip(stored["token_ids"].to_pylist(), stored["behavior_logprobs"].to_pylist(), strict=True)
    ]
    return judged_batch(stored["prompt_token_ids"].to_pylist()[::copies], completions, copies=copies)


def kept_scores(cell: Cell, number: int, home: Path = PUBLISHED) -> list[NDArray[np.float64]]:
    """The process scores that the round was trained on, one a step of each rollout; of arms with a reward model."""
    stored = _part(home, cell, "signals/steps", ["rollout_id", "process_scores"])
    chosen = stored.filter(_of_round(stored["rollout_id"], number))["process_scores"]
    return [np.array(scores, np.float64) for scores in chosen.to_pylist()]


def credit_rows(batch: Batch, models: Models, home: Path = PUBLISHED) -> Iterator[dict[str, Any]]:
    """One row an arm and level on ``batch``, the start policy's rollouts (round None), and one a kept cell and round.

    rollouts, failed (the share of them whose format fails), rms (of advantages, as the trainer weighs tokens),
    failed_share (the part of the squared advantages that rollouts of failed format have; None where none fails).
    """
    for arm, level, shaped in shaped_arms(batch, models):
        yield {"arm": arm, "level": level, "round": None, **_weights(batch, shaped)}
    for cell in kept_cells(home):
        for number in KEPT_ROUNDS:
            own, arm_of = kept_batch(cell, number, home), ARMS[cell.arm]
            shaped = shape(table(own, arm_of, cell.level, models), arm_of.shaping, threads=1)
            yield {"arm": cell.arm, "level": cell.level, "round": number, **_weights(own, shaped)}


def _weights(batch: Batch, shaped: pa.Table) -> dict[str, Any]:
    weight = np.array([float(np.mean(row.values.to_numpy() ** 2)) for row in token_advantages(shaped)])
    failed = np.array([not one.format_ok for one in batch.judged])
    return {
        "rollouts": len(weight),
        "failed": float(failed.mean()),
        "rms": float(np.sqrt(weight.mean())),
        "failed_share": float(weight[failed].sum() / weight.sum()) if failed.any() else None,
    }


def _part(home: Path, cell: Cell, dataset: str, columns: Sequence[str]) -> pa.Table:
    return shards.open_dataset(str(home / cell.name / "round-000" / dataset)).read_part(0, columns=columns)


def _of_round(ids: pa.ChunkedArray, number: int) -> pa.ChunkedArray:
    return pa.compute.starts_with(ids, f"round-{number:02d}")
