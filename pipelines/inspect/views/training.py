"""The trainings of a RUN from their metrics.jsonl: one row a round for the terminal, one picture of every step."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from pass_ops.errors import PassError
from pipelines.inspect.sweep.report import BLUE, GREY, ORANGE
from pipelines.runs.lineage import read_lineage
from trainer.records import read_metrics

Line = dict[str, Any]


class NoTrainingError(PassError, FileNotFoundError):
    """The folder holds no training yet."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """One round's training: its steps so far, and pass@1 of the policy it made by benchmark, where evaluated."""

    name: str
    steps: list[Line]
    pass_at_1: dict[str, float]


def is_training(url: str) -> bool:
    """Whether a folder is a RUN or a train folder on this machine, rather than a dataset."""
    folder = Path(url)
    return (folder / "metrics.jsonl").exists() or any(folder.glob("round-*/train/metrics.jsonl"))


def read_trainings(url: str) -> list[Training]:
    """The rounds of a RUN, or the one training of a train folder. Raises NoTrainingError where no step is done."""
    folder = Path(url)
    if (folder / "metrics.jsonl").exists():
        found = [Training(name=folder.name, steps=read_metrics(folder), pass_at_1={})]
    else:
        evals = {entry["round"]: entry.get("metrics", {}).get("eval", {}) for entry in read_lineage(url)["rounds"]}
        found = [
            Training(
                name=train.parent.name,
                steps=read_metrics(train),
                pass_at_1={
                    name: estimates["pass@1"]
                    for name, estimates in evals.get(int(train.parent.name.split("-")[1]), {}).items()
                    if "pass@1" in estimates
                },
            )
            for train in sorted(folder.glob("round-*/train"))
        ]
    found = [training for training in found if training.steps]
    if not found:
        raise NoTrainingError(f"{url} holds no training with a finished step; train it first, or name another folder.")
    return found


def training_rows(trainings: Sequence[Training]) -> list[dict[str, Any]]:
    """One row a round: means over its steps and totals (`trainer.metrics.summarize`), and pass@1."""
    from trainer.metrics import summarize

    return [
        {"round": training.name, "steps": len(training.steps), **summarize(training.steps)}
        | {f"pass@1 {name}": value for name, value in training.pass_at_1.items()}
        for training in trainings
    ]


def training_table(trainings: Sequence[Training]) -> Table:
    """The rows for the terminal."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "steps": lambda row: str(row["steps"]),
        "loss": lambda row: f"{row['loss']:+.4f}",
        "kl": lambda row: f"{row['kl']:.4f}" if "kl" in row else "",
        "moved (KL)": lambda row: f"{row['behavior_kl']:.4f}" if "behavior_kl" in row else "",
        "clipped": lambda row: f"{row['clip_low'] + row['clip_high']:.1%}",
        "entropy": lambda row: f"{row['entropy']:.3f}" if "entropy" in row else "",
        "grad": lambda row: f"{row['grad_norm']:.3f}",
        "tokens/s": lambda row: f"{row['tokens_per_second']:,.0f}",
        "waited": lambda row: f"{row['data_wait_share']:.1%}",
        "pass@1": lambda row: ", ".join(f"{100 * v:.1f} %" for k, v in row.items() if k.startswith("pass@1")),
    }
    table.add_column("round")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for row in training_rows(trainings):
        table.add_row(row["round"], *(cell(row) for cell in columns.values()))
    return table


# title -> (label, color, key) of lines; a pair of keys is a band between them.
PANELS: dict[str, list[tuple[str, str, str | tuple[str, str]]]] = {
    "loss": [("loss", BLUE, "loss")],
    "KL": [("to the reference", BLUE, "kl"), ("from the sampler", ORANGE, "behavior_kl")],
    "ratio": [("min to max", GREY, ("ratio_min", "ratio_max")), ("p01 to p99", BLUE, ("ratio_p01", "ratio_p99")),
              ("median", ORANGE, "ratio_p50")],
    "share of tokens": [("clipped, A < 0", ORANGE, "clip_low"), ("clipped, A > 0", BLUE, "clip_high"),
                        ("rejected", GREY, "rejected")],
    "entropy, nats": [("entropy", BLUE, "entropy")],
    "advantage": [("min to max", GREY, ("advantage_min", "advantage_max")),
                  ("p05 to p95", BLUE, ("advantage_p05", "advantage_p95")), ("mean", ORANGE, "advantage_mean")],
    "gradient norm": [("before clipping", BLUE, "grad_norm")],
    "tokens a second": [("fed, no padding", BLUE, "tokens_per_second")],
}  # fmt: skip

LOGARITHMIC = ("ratio", "gradient norm")


def training_svg(trainings: Sequence[Training]) -> bytes:
    """One panel a kind of number over the updates of all rounds, a thin line where a round begins."""
    import matplotlib
    from matplotlib.figure import Figure

    steps = [line for training in trainings for line in training.steps]
    starts = [training.steps[0]["update"] - 0.5 for training in trainings[1:]]
    with matplotlib.rc_context({"svg.hashsalt": "passrl training", "svg.fonttype": "none", "font.size": 8.0}):
        figure = Figure(figsize=(12.0, 5.0), layout="constrained")
        for ax, (title, series) in zip(figure.subplots(2, 4, sharex=True).flat, PANELS.items(), strict=True):
            ax.set_title(title)
            ax.grid(linewidth=0.4, alpha=0.5)
            for start in starts:
                ax.axvline(start, color="black", linewidth=0.5, alpha=0.5)
            for label, color, key in series:
                _draw(ax, steps, label, color, key)
            if title in LOGARITHMIC:
                ax.set_yscale("log")
            if len(series) > 1 and ax.get_legend_handles_labels()[0]:
                ax.legend(frameon=False, fontsize=7)
        figure.supxlabel("update")
        sink = io.BytesIO()
        figure.savefig(sink, format="svg", metadata={"Date": None})
    return sink.getvalue()


def _draw(ax: Any, steps: Sequence[Line], label: str, color: str, key: str | tuple[str, str]) -> None:
    keys = (key,) if isinstance(key, str) else key
    shown = [line for line in steps if all(line.get(name) is not None for name in keys)]
    if not shown or (keys == ("rejected",) and not any(line["rejected"] for line in shown)):
        return
    updates = [line["update"] for line in shown]
    values = [[line[name] for line in shown] for name in keys]
    if len(keys) == 1:
        ax.plot(updates, values[0], color=color, linewidth=1.0, label=label, marker="." if len(shown) < 4 else None)
    else:
        ax.fill_between(updates, *values, color=color, alpha=0.25, linewidth=0.0, label=label)
