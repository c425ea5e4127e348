"""The trainings of a RUN from their metrics.jsonl: one row a round for the terminal, one picture of every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pass_ops.errors import PassError
from pass_ops.shards import open_dataset
from pipelines.inspect.pictures import BLUE, GREY, ORANGE, picture_bytes
from pipelines.runs.folders import round_folder, rounds_among
from pipelines.runs.lineage import read_lineage, read_rounds
from pipelines.runs.summary import ShapedSummary, summarize_shaped
from pipelines.runs.tables import Sheet, numbers
from trainer.records import read_metrics

Line = dict[str, Any]


class NoTrainingError(PassError, FileNotFoundError):
    """The folder holds no training yet."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """One round's training: its steps so far, and of its round what is known.

    pass_at_1: of the policy it made, by benchmark. rollouts: what it was trained on, None where that is not there.
    """

    name: str
    steps: list[Line]
    pass_at_1: Mapping[str, float] = field(default_factory=dict)
    rollouts: ShapedSummary | None = None


def is_training(url: str) -> bool:
    """Whether a folder is a RUN or a train folder on this machine, rather than a dataset."""
    folder = Path(url)
    return (folder / "metrics.jsonl").exists() or any(folder.glob("round-*/train/metrics.jsonl"))


def read_trainings(url: str) -> list[Training]:
    """The rounds of a RUN, or the one training of a train folder. Raises NoTrainingError where no step is done."""
    folder = Path(url)
    if (folder / "metrics.jsonl").exists():
        found = [Training(name=folder.name, steps=read_metrics(folder))]
    else:
        rounds = read_rounds(url)
        trained = rounds_among(train.parent.name for train in folder.glob("round-*/train"))
        found = [
            Training(
                name=round_folder("", index),
                steps=read_metrics(folder / round_folder("", index, "train")),
                pass_at_1=_pass_at_1(rounds.get(index, {})),
                rollouts=_rollouts(folder / round_folder("", index, "shaped")),
            )
            for index in trained
        ]
    found = [training for training in found if training.steps]
    if not found:
        raise NoTrainingError(f"{url} holds no training with a finished step; train it first, or name another folder.")
    return found


def start_pass_at_1(url: str) -> dict[str, float]:
    """pass@1 of a RUN's policy before round 0, by benchmark; empty where it was not evaluated."""
    return _pass_at_1(read_lineage(url).get("start", {}))


def _pass_at_1(entry: Mapping[str, Any]) -> dict[str, float]:
    evaluated = entry.get("metrics", {}).get("eval", {})
    return {name: figures["pass@1"] for name, figures in evaluated.items() if "pass@1" in figures}


def _rollouts(shaped: Path) -> ShapedSummary | None:
    try:
        return summarize_shaped(open_dataset(str(shaped)))
    except PassError:  # none there, or not whole yet
        return None


def training_rows(trainings: Sequence[Training]) -> list[dict[str, Any]]:
    """One row a round: means over its steps and totals (`trainer.summary.summarize`), reward, length, and pass@1."""
    from trainer.summary import summarize

    return [
        {"round": training.name, "steps": len(training.steps), **summarize(training.steps)}
        | ({} if (of := training.rollouts) is None else {"reward": of.outcome_rate, "length": of.mean_length})
        | {f"pass@1 {name}": value for name, value in training.pass_at_1.items()}
        for training in trainings
    ]


def training_sheet(trainings: Sequence[Training]) -> Sheet:
    """The rows for the terminal; pass@1 of the benchmarks in the order of their names."""
    columns: dict[tuple[str, str], Callable[[dict[str, Any]], str]] = {
        ("steps", ""): lambda row: str(row["steps"]),
        ("pass@1", "%"): lambda row: ", ".join(f"{100 * v:.1f}" for k, v in row.items() if k.startswith("pass@1")),
        ("reward", "mean"): lambda row: f"{row['reward']:.3f}" if row.get("reward") is not None else "",
        ("length", "tokens"): lambda row: f"{row['length']:.1f}" if "length" in row else "",
        ("loss", ""): lambda row: f"{row['loss']:+.4f}",
        ("KL", "nats"): lambda row: f"{row['kl']:.4f}" if "kl" in row else "",
        ("moved", "nats"): lambda row: f"{row['behavior_kl']:.4f}" if "behavior_kl" in row else "",
        ("clipped", "%"): lambda row: f"{100 * (row['clip_low'] + row['clip_high']):.1f}",
        ("entropy", "nats"): lambda row: f"{row['entropy']:.3f}" if "entropy" in row else "",
        ("grad", "norm"): lambda row: f"{row['grad_norm']:.3f}",
        ("speed", "tokens/s"): lambda row: f"{row['tokens_per_second']:,.0f}",
        ("waited", "%"): lambda row: f"{100 * row['data_wait_share']:.1f}",
    }
    sheet = Sheet("round", *(numbers(name, unit) for name, unit in columns))
    for row in training_rows(trainings):
        sheet.add_row(row["round"], *(cell(row) for cell in columns.values()))
    return sheet


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
    "tokens per second": [("fed, no padding", BLUE, "tokens_per_second")],
}  # fmt: skip

LOGARITHMIC = ("ratio", "gradient norm")


def training_picture(
    trainings: Sequence[Training], *, start: Mapping[str, float] | None = None, suffix: str = ".svg"
) -> bytes:
    """One panel a kind of number over the updates of all rounds, a thin line where a round begins; below, over rounds,
    pass@1, reward and length. start: pass@1 before the first round, by benchmark. suffix: the format.
    """
    import matplotlib
    from matplotlib.figure import Figure

    steps = [line for training in trainings for line in training.steps]
    starts = [training.steps[0]["update"] - 0.5 for training in trainings[1:]]
    with matplotlib.rc_context({"svg.hashsalt": "passrl training", "svg.fonttype": "none", "font.size": 8.0}):
        figure = Figure(figsize=(12.0, 7.2), layout="tight")  # "constrained" differs in the last digit now and then
        grid = figure.add_gridspec(3, 12)
        for i, (title, series) in enumerate(PANELS.items()):
            row, column = divmod(i, 4)
            ax = figure.add_subplot(grid[row, 3 * column : 3 * column + 3], sharex=figure.axes[0] if i else None)
            ax.set_title(title)
            ax.set_xlabel("update" if row else "")
            ax.grid(linewidth=0.4, alpha=0.5)
            for begin in starts:
                ax.axvline(begin, color="black", linewidth=0.5, alpha=0.5)
            for label, color, key in series:
                _draw(ax, steps, label, color, key)
            if title in LOGARITHMIC:
                ax.set_yscale("log")
            if len(series) > 1 and ax.get_legend_handles_labels()[0]:
                ax.legend(frameon=False, fontsize=7)
        over_rounds = [figure.add_subplot(grid[2, 4 * column : 4 * column + 4]) for column in range(3)]
        _draw_rounds(over_rounds, trainings, start or {})
        return picture_bytes(figure, suffix)


def _draw_rounds(axes: Sequence[Any], trainings: Sequence[Training], start: Mapping[str, float]) -> None:
    """pass@1 of the policy that each round made, by benchmark; reward and length of the rollouts it was made from."""
    panels: dict[str, dict[str, list[float | None]]] = {
        "pass@1, %": {},
        "mean outcome reward": {},
        "length, tokens": {},
    }
    for name in {**start, **{name: 0.0 for training in trainings for name in training.pass_at_1}}:
        values = [start.get(name), *(training.pass_at_1.get(name) for training in trainings)]
        panels["pass@1, %"][name] = [None if value is None else 100 * value for value in values]
    known = [training.rollouts for training in trainings]
    panels["mean outcome reward"]["rollouts"] = [None, *(None if one is None else one.outcome_rate for one in known)]
    panels["length, tokens"]["rollouts"] = [None, *(None if one is None else one.mean_length for one in known)]
    names = ["start", *(training.name.removeprefix("round-").lstrip("0") or "0" for training in trainings)]
    for ax, (title, series) in zip(axes, panels.items(), strict=True):
        ax.set_title(title)
        ax.set_xlabel("round")
        ax.grid(linewidth=0.4, alpha=0.5)
        for color, (label, values) in zip((BLUE, ORANGE, GREY) * len(series), series.items(), strict=False):
            shown = [(at, value) for at, value in enumerate(values) if value is not None]
            ax.plot(*zip(*shown, strict=True) if shown else ([], []), color=color, marker=".", label=label)
        ax.set_xticks(range(len(names)), names)
        if len(series) > 1:
            ax.legend(frameon=False, fontsize=7)


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
