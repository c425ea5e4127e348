"""One full offline epoch over 5,000 stored rollouts of the demo's policy, through the pipeline that users run.

    python benchmarks/offline_epoch.py --out runs/offline-epoch

Prompts, rollouts (vLLM), the signals outcome, format, execution and the policy's own log-probabilities as reference,
shaping, one epoch of updates with the old policy recomputed and truncated importance weights. Prints one JSON object;
writes OUT/training.svg and its table OUT/page.md. What is done already is not repeated.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pass_ops.shards import open_dataset
from pipelines.demo.run import demo_config
from pipelines.inspect.views.training import read_trainings, training_picture, training_rows
from pipelines.runs.config import RunConfig
from pipelines.runs.progress import Reporter
from pipelines.runs.rounds import make_rollouts, score_rollouts, shape_rollouts, update_policy
from pipelines.runs.run import Run
from trainer import TrainOptions

PROMPTS, GROUP = 625, 8
TRAIN = TrainOptions(
    batch_size=16, lr=2e-4, warmup_steps=4, kl_coef=0.01, old_policy="recompute", importance="token",
    importance_cap=2.0, max_mismatch=1.05,
)  # fmt: skip


def epoch_config(out: str) -> RunConfig:
    """The demo's configuration with 625 prompts x 8, a reference, and one epoch in steps of 128 rollouts."""
    config = demo_config(out, seed=0)
    signals = dict(config.signals) | {
        "reference": {"signal": "logprobs", "model": config.policy.model, "engine": asdict(config.engine)}
    }
    return replace(
        config,
        run=replace(config.run, rounds=1, prompts_per_round=PROMPTS),
        generate=replace(config.generate, group_size=GROUP),
        signals=signals,
        shape=replace(config.shape, reference="reference"),
        train=TRAIN,
    )


def measure(out: str) -> dict[str, Any]:
    """The whole epoch; its numbers."""
    run = Run(config=epoch_config(out), url=out, reporter=Reporter())
    make_rollouts(run, 0)
    score_rollouts(run, 0)
    shape_rollouts(run, 0)
    update_policy(run, 0)
    trainings = read_trainings(out)
    (Path(out) / "training.svg").write_bytes(training_picture(trainings))
    (row,) = training_rows(trainings)
    totals = open_dataset(run.folder(0, "shaped")).manifest.totals
    first, last = trainings[0].steps[0], trainings[0].steps[-1]
    return {
        "rollouts": totals["rows"],
        "completion_tokens": totals["tokens"],
        "steps": row["steps"],
        "seconds": row["seconds"],
        "tokens_per_second": row["tokens_per_second"],
        "data_wait_share": row["data_wait_share"],
        "mismatch": first["mismatch"],
        "kl": {"first": first["kl"], "last": last["kl"]},
        "entropy": {"first": first["entropy"], "last": last["entropy"]},
        "clipped": row["clip_low"] + row["clip_high"],
    }


def page(found: dict[str, Any]) -> str:
    """The numbers as a table."""
    rows = {
        "rollouts, completion tokens": f"{found['rollouts']:,}, {found['completion_tokens']:,}",
        "optimizer steps": found["steps"],
        "seconds of training": f"{found['seconds']:.1f}",
        "tokens a second (prompts too)": f"{found['tokens_per_second']:,.0f}",
        "waiting for data": f"{found['data_wait_share']:.2%} of the time",
        "mismatch of sampler and trainer": f"{found['mismatch']:.5f}",
        "clipped tokens": f"{found['clipped']:.2%}",
        "KL to the reference, first and last step": f"{found['kl']['first']:.4f}, {found['kl']['last']:.4f}",
        "entropy, first and last step": f"{found['entropy']['first']:.3f}, {found['entropy']['last']:.3f}",
    }
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items())]) + "\n"


def main() -> None:
    """Reads the folder and prints the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/offline-epoch", help="run folder")
    out = parser.parse_args().out
    found = measure(out)
    (Path(out) / "page.md").write_text(page(found), encoding="utf-8")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
