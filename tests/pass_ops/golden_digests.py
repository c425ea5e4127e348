"""Digests of what every old option makes of a fixed table: the bits, and the options as a dataset describes them.

python tests/pass_ops/golden_digests.py prints them; golden_digests.json holds those of the commit before streams
"""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import asdict

import numpy as np
import pyarrow as pa

from pass_ops import ShapingConfig, Standardizers, Weights, shape
from pass_ops.shards.fingerprint import canonical_json

MADE = ("chunk_ends", "chunk_credits", "chunk_advantages", "path_score", "trainable")
GROUPS = 40


def table(signal: str) -> pa.Table:
    """Rollouts with masks, nulls and scores on a grid; from whole numbers alone, so that no release draws others."""
    draw = np.random.Generator(np.random.PCG64(7))
    rows = []
    for group in range(GROUPS):
        for sample in range(int(draw.integers(1, 9))):
            length = int(draw.integers(0, 40))
            hidden = int(draw.integers(0, 4))
            cuts = sorted({*draw.integers(1, length + 1, 5).tolist(), length}) if length else []
            many = len(cuts) if signal == "prm" else length
            row = {
                "group_id": f"g{group}",
                "rollout_id": f"g{group}/{sample}",
                "loss_mask": [hidden == 0 or bool(x) for x in draw.integers(0, hidden + 1, length)],
                "process_scores": (draw.integers(-64, 64, many) / 16).tolist(),
                "process_ends": cuts,
                "outcome_reward": float(draw.integers(0, 2)),
                "format_reward": float(draw.integers(0, 5) / 4),
                "format_ok": bool(draw.integers(0, 4)),
            }
            missing = int(draw.integers(0, 24))
            name = ("process_scores", "outcome_reward", "format_reward", "format_ok")[missing % 4]
            rows.append({**row, name: None} if missing < 4 else row)
    kinds = {
        "group_id": pa.string(), "rollout_id": pa.string(), "loss_mask": pa.list_(pa.bool_()),
        "process_scores": pa.list_(pa.float32()), "process_ends": pa.list_(pa.int32()),
        "outcome_reward": pa.float32(), "format_reward": pa.float32(), "format_ok": pa.bool_(),
    }  # fmt: skip
    if signal == "kl":
        del kinds["process_ends"]
    return pa.table({name: pa.array([row[name] for row in rows], kind) for name, kind in kinds.items()})


def configurations() -> dict[str, ShapingConfig]:
    """Every estimator with every operator and signal, and the further options one at a time."""
    found = {}
    estimators = ("pass", "reward_shaping", "grpo_process", "grpo_outcome", "rloo", "dr_grpo", "gdpo", "prime")
    operators = ("masked_norm", "abs_max", "mean_only", "leave_one_out", "none")
    for estimator, operator, signal in itertools.product(estimators, operators, ("prm", "kl")):
        config = ShapingConfig(estimator=estimator, standardize=operator, signal=signal)
        found[f"{estimator} {operator} {signal}"] = config
    for estimator, signal in itertools.product(("pass", "reward_shaping"), ("prm", "kl")):
        for name, options in {
            "k=0": {"k": 0.0}, "k=1": {"k": 1.0}, "without CV": {"chunk": False}, "eta": {"eta": 0.3},
            "population": {"std_ddof": 0, "std_eps": 0.0}, "weights": {"weights": Weights(process=0.5, format=-2.0)},
            "without format": {"weights": Weights(format=0.0)}, "without process": {"weights": Weights(process=0.0)},
        }.items():  # fmt: skip
            found[f"{estimator} {name} {signal}"] = ShapingConfig(estimator=estimator, signal=signal, **options)
    found["each"] = ShapingConfig(standardize=Standardizers(process="abs_max", outcome="mean_only"))
    return found


def digest(config: ShapingConfig) -> dict[str, str]:
    """sha256 of the bits of the made columns, and of the options in canonical JSON."""
    shaped = shape(table(config.signal), config)
    bits = hashlib.sha256()
    for name in MADE:
        column = shaped[name].combine_chunks()
        values = column.flatten() if pa.types.is_list(column.type) else column.drop_null()
        bits.update(np.asarray(column.is_valid()).tobytes())
        bits.update(np.ascontiguousarray(values.to_numpy(zero_copy_only=False)).tobytes())
        if pa.types.is_list(column.type):
            bits.update(np.diff(np.asarray(column.offsets)).astype(np.int64).tobytes())
    plain = config.plain() if hasattr(config, "plain") else asdict(config)
    options = hashlib.sha256(canonical_json(plain).encode())
    return {"bits": bits.hexdigest()[:32], "options": options.hexdigest()[:32]}


if __name__ == "__main__":
    print(json.dumps({name: digest(config) for name, config in configurations().items()}, indent=1))
