"""Checks of who holds the device when: whole rounds with a reward model on one card."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pass_ops import shards
from pipelines.gpu_check.base import CheckOptions, Limit, Machine, Result, judged
from pipelines.gpu_check.models import model_folder, sizes
from pipelines.options import build
from pipelines.runs.config import RunConfig
from pipelines.runs.progress import Reporter
from pipelines.runs.rounds import run_rounds
from pipelines.runs.run import Run

ROUNDS = 2
NONE = Limit(high=0)


def check_rounds(machine: Machine, options: CheckOptions) -> Result:
    """Two rounds of policy, PRM, update and evaluation; every promise of the contract is checked afterwards."""
    folder = Path(options.out) / "rounds"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    begun = time.perf_counter()
    run = rounds_run(machine, options, folder)
    run_rounds(run, ROUNDS)
    seconds = time.perf_counter() - begun
    errors = [found for found in shards.verify(run.url) if found.severity == "error"]
    rollouts = [shards.open_dataset(run.folder(i, "rollouts")).manifest.totals["rows"] for i in range(ROUNDS)]
    figures: dict[str, Any] = {
        "model": sizes(machine).rounds,
        "seconds": round(seconds, 1),
        "rollouts": sum(rollouts),
        "broken_promises": len(errors),
    }
    told = "; ".join(found.message for found in errors[:3])
    return judged(machine, figures, {"broken_promises": NONE}, note=told)


def rounds_run(
    machine: Machine, options: CheckOptions, folder: Path, *, runner: Mapping[str, Any] | None = None
) -> Run:
    """A run over made-up sums with a random policy and PRM, its files in `folder`."""
    few = machine.device == "cpu"
    source = folder / "prompts.jsonl"
    count = 4 if few else 64
    source.write_text("\n".join(json.dumps({"prompt": f"{i} + {i} = ?", "answer": str(2 * i)}) for i in range(count)))
    name = sizes(machine).rounds
    engine = {"max_model_len": 1024, "max_num_seqs": 8 if few else 256, "kv_cache_gib": 0.25}
    training: dict[str, Any] = {"updates": 2, "warmup_steps": 0, "tensorboard": False}
    training |= {} if few else {"compute_dtype": "bfloat16"}
    config = {
        "prompts": {"source": str(source), "prompts_per_part": count // 2},
        "policy": {"model": model_folder(machine, options, name)},
        "engine": engine,
        "generate": {"group_size": 2 if few else 8, "sampling": {"max_tokens": 16 if few else 128}},
        "signals": {
            "outcome": {"signal": "outcome", "verifier": "exact", "workers": 1},
            "prm": {
                "signal": "prm",
                "model": model_folder(machine, options, name, prm=True),
                "separator": "a",  # as common as a step's end, in words of three letters
                "engine": engine,
            },
        },
        "shape": {"process": "prm", "outcome": "outcome", "weights": {"format": 0.0}},
        "train": training,
        "eval": {"samples": 1, "k": [1], "benchmarks": {"sums": {"source": str(source), "limit": 2}}},
        "runner": dict(runner or {}),
    }
    return Run(
        config=build(RunConfig, config, where="gpu-check"), url=str(folder / "run"), reporter=Reporter(quiet=True)
    )
