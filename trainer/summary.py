"""What the metrics of a training's steps come to: the numbers of a round. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainer.options import TrainOptions

#: means over the steps, of those that measured it (`trainer.metrics`)
MEANS = (
    "loss", "policy_loss", "kl", "clip_low", "clip_high", "behavior_kl", "entropy", "advantage_mean", "grad_norm",
)  # fmt: skip
TOTALS = ("rollouts", "tokens", "dropped_tokens", "masked_rollouts", "fed_tokens", "seconds")
RATES = ("tokens_per_second", "data_wait_share")
#: what became of the rows, as `trainer.data.select` counts them; before each name comes "rows_"
ROWS = ("total", "untrainable", "too_old", "zero_advantage", "too_long", "masked_too_long", "left")


def summarize(steps: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means over the steps of the main metrics (where given), and totals of counts and time."""
    summary: dict[str, float] = {}
    for key in MEANS:
        values = [step[key] for step in steps if step[key] is not None]
        if values:
            summary[key] = float(np.mean(values))
    for key in TOTALS:
        summary[key] = float(sum(step[key] for step in steps))
    real = sum(step["tokens_per_second"] * step["seconds"] for step in steps)
    summary["tokens_per_second"] = real / summary["seconds"] if summary["seconds"] else 0.0
    summary["data_wait_share"] = (
        sum(step["data_wait"] for step in steps) / summary["seconds"] if summary["seconds"] else 0.0
    )
    return summary


def metric_names(options: TrainOptions) -> list[str]:
    """The names in `trainer.train`'s result of its metrics, with these options and a token to train on."""
    measured = {
        "kl": options.kl_coef > 0,
        "behavior_kl": options.loss != "next_token",
        "entropy": options.head != "fused",
        "zero_advantage": options.zero_advantage == "drop",
        "too_long": options.too_long == "drop",
    }
    names = [name for name in (*MEANS, *TOTALS, *RATES) if measured.get(name, True)]
    return [*names, *(f"rows_{name}" for name in ROWS if measured.get(name, True))]
