"""Checks of who holds the device when: hand over hand, and in whole rounds with a reward model."""

from __future__ import annotations

import json
import shutil
import time
import weakref
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pass_ops import shards
from pipelines.engines import acquire, device_lent, release
from pipelines.engines.machine import GIB
from pipelines.gpu_check.base import CheckOptions, Limit, Machine, Result, judged
from pipelines.gpu_check.engine import SAME, drawn, engine_options, largest, random_prompts, score_plain
from pipelines.gpu_check.machine import used_bytes
from pipelines.gpu_check.models import SHAPES, model_folder, sizes
from pipelines.gpu_check.training import measure_update, train_options, write_rollouts
from pipelines.options import build
from pipelines.runs.config import RunConfig
from pipelines.runs.progress import Reporter
from pipelines.runs.rounds import run_rounds
from pipelines.runs.run import Run
from trainer import TrainOptions, load_policy, make_optimizer

ROUNDS = 2
PRM_POOLING = {"pooling_type": "ALL", "use_activation": False}
NONE = Limit(high=0)


def check_ledger(machine: Machine, options: CheckOptions) -> Result:
    """One device from the sampling engine to a PRM to the trainer and back, as a round hands it on.

    The ledger refuses a hand-over that leaves too much behind; what is measured here is that it did not need to.
    """
    name, trained = sizes(machine).small, train_options(machine)
    policy, updated = (model_folder(machine, options, name, seed=seed) for seed in (0, 1))
    shaped, figures = write_rollouts(machine, options, name), dict[str, float | int | str]()
    at_first = used_bytes()

    def note(step: str) -> None:
        if machine.device == "cuda":
            figures[f"held_gib_{step}"] = round((used_bytes() - at_first) / GIB, 2)

    prompts = random_prompts(SHAPES[name]["vocab_size"], count=4, longest=24)
    sampling = engine_options(machine, dtype="float32")
    drawn(acquire(policy, sampling), prompts, tokens=4)
    note("sampling")
    prm = acquire(model_folder(machine, options, name, prm=True), replace(sampling, pooling=PRM_POOLING))
    prm.pool(prompts[0]).result()
    note("prm")
    engine = acquire(policy, sampling)
    drawn(engine, prompts, tokens=4)
    with device_lent("the trainer"):
        figures["awake_in_update"] = sum(not (held.asleep or held.dead) for held in (engine, prm))
        note("lent")
        model = _train(policy, shaped, trained)
        note("trained")
    figures["models_left"] = int(model() is not None)
    woken = acquire(updated, sampling)
    texts = drawn(woken, prompts, tokens=4)
    note("woken")
    release()
    figures["woken_difference"] = largest((text.logprobs_T for text in texts), score_plain(updated, texts))
    limits = {"awake_in_update": NONE, "models_left": NONE, "woken_difference": SAME[machine.device]}
    return judged(machine, figures, limits)


def _train(folder: str, shaped: str, options: TrainOptions) -> weakref.ref[Any]:
    """An update; a weak reference to the model that was trained."""
    policy = load_policy(folder, options)
    measure_update(policy, make_optimizer(policy.model, options), shaped, options)
    return weakref.ref(policy.model)


def check_rounds(machine: Machine, options: CheckOptions) -> Result:
    """Two rounds of policy, PRM, update and evaluation; every promise of the contract is checked afterwards."""
    run = rounds_run(machine, options, Path(options.out) / "rounds")
    begun = time.perf_counter()
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
    machine: Machine,
    options: CheckOptions,
    folder: Path,
    *,
    runner: Mapping[str, Any] | None = None,
    dtype: str = "auto",
) -> Run:
    """A run over made-up sums with a random policy and PRM, its files in `folder`, which is emptied."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    few = machine.device == "cpu"
    source = folder / "prompts.jsonl"
    count = 4 if few else 64
    source.write_text("\n".join(json.dumps({"prompt": f"{i} + {i} = ?", "answer": str(2 * i)}) for i in range(count)))
    name = sizes(machine).rounds
    engine = {"dtype": dtype, "max_model_len": 1024, "max_num_seqs": 8 if few else 256, "kv_cache_gib": 0.25}
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
