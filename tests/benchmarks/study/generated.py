"""Generated results with known effects, in the study's schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.study.arms import ARMS, CORE
from benchmarks.study.store import SCHEMA
from benchmarks.study.tables import BESIDE

#: last pass@1 and length of each arm; what a level takes off arms with a reward model, and adds to their length
EFFECTS: Mapping[str, tuple[float, float]] = {
    "grpo_outcome": (0.60, 85.0),
    "pass_k07": (0.70, 86.0),
    "grpo_process": (0.55, 95.0),
    "reward_shaping": (0.62, 90.0),
    "pass_k0": (0.60, 99.0),
    "pass_k1": (0.70, 85.0),
    "pass_no_cv": (0.60, 87.0),
    "grpo_opd": (0.60, 75.0),
    "pass_opd": (0.68, 95.0),
    "grpo_gopd": (0.60, 95.0),
    "pass_gopd": (0.68, 95.0),
}
TOLL = {"low": 0.0, "slight": 0.0, "high": 0.2, "none": 0.0}
START = (0.30, 85.0)
ROUNDS = (0, 5, 10, 15, 20)


def row(arm: str, level: str, seed: int, number: int, *, pass1: float, length: float, **other: Any) -> dict[str, Any]:
    """One row of a cell."""
    return {
        "arm": arm, "level": level, "lr": 1e-3, "seed": seed, "tuning": False, "round": number,
        "updates": 2 * number, "rollouts": 128 * number, "tokens": int(128 * 85 * number),
        "pass1": pass1, "pass8": min(1.0, pass1 + 0.2), "correct": [3, 4], "samples": 8, "greedy": pass1,
        "low_temperature": pass1, "length": length, "truncated": 0.0, "steps": 10.0, "padding": 1.0,
        "chunks": None if arm in BESIDE else 9.0, "entropy": 0.1, "teacher_kl": 0.2, "advantage_mean": 0.0,
        "advantage_std": 1.0, "clip_share": 0.0, "grad_norm": 1.0, "seconds": 1.0, "processor_seconds": 1.0,
        "world": "w", "commit": "c",
    } | other  # fmt: skip


def results(*, seeds: int = 12, spread: float = 0.01) -> pa.Table:
    """All arms of the claims at all their levels; a seed's luck is shared by the arms, its noise is not."""
    generator = np.random.default_rng(0)
    luck = generator.normal(0, 0.05, seeds)
    rows = []
    for arm in CORE:
        for level in ARMS[arm].levels:
            pass1, length = EFFECTS[arm]
            for seed in range(seeds):
                end = pass1 - TOLL[level] * (arm == "pass_k07") + luck[seed] + generator.normal(0, spread)
                long = length + generator.normal(0, 0.5)
                for number in ROUNDS:
                    share = number / ROUNDS[-1]
                    at = START[0] + share * (end - START[0]), START[1] + share * (long - START[1])
                    rows.append(row(arm, level, seed, number, pass1=at[0], length=at[1]))
    return pa.Table.from_pylist(rows, schema=SCHEMA)
