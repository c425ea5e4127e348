"""`passrl top`: one screen that follows a run from its store alone; the job itself is not asked."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from pass_ops.errors import PassError
from pass_ops.shards import DatasetStatus, Store, status
from pipelines.runs.folders import round_folder, rounds_among
from pipelines.runs.tables import Sheet, numbers, texts

_METRICS = "metrics.jsonl"
COMPLETE_SHOWN = 8
METRICS_SHOWN = ("loss", "kl", "behavior_kl", "entropy", "grad_norm", "tokens_per_second")


@dataclass(frozen=True, kw_only=True)
class LatestStep:
    """The last whole line of a training's metrics. folder: of the training, below the run's."""

    folder: str
    metrics: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A run at one time: its datasets, and the latest optimizer step of its last training, None before the first."""

    url: str
    datasets: tuple[DatasetStatus, ...]
    training: LatestStep | None


def snapshot(url: str) -> Snapshot:
    """What is stored now. Raises NotADatasetError where nothing is, and what `shards.status` raises."""
    return Snapshot(url=url, datasets=status(url).datasets, training=_latest_step(Store(url)))


def _latest_step(run: Store) -> LatestStep | None:
    for index in reversed(rounds_among(run.folders())):
        folder = round_folder("", index, "train")
        try:
            whole, _, _ = run.read(f"{folder}/{_METRICS}").rpartition(b"\n")  # behind it a line is being written
            return LatestStep(folder=folder, metrics=dict(json.loads(whole.rpartition(b"\n")[2])))
        except (FileNotFoundError, ValueError, TypeError):  # not begun, or no step yet
            continue
    return None


def snapshot_view(found: Snapshot) -> RenderableType:
    """The screen: datasets under way, the last ones that are complete, the latest step."""
    amounts = numbers("parts"), numbers("rows"), numbers("tokens"), numbers("rate", "tokens/s"), numbers("left")
    table = Sheet("dataset", *amounts, texts("rejected"), title=found.url)
    under_way = [dataset for dataset in found.datasets if not dataset.complete]
    complete = [dataset for dataset in found.datasets if dataset.complete]
    for dataset in (*complete[-COMPLETE_SHOWN:], *under_way):
        table.add_row(*_cells(dataset, found.url), style="dim" if dataset.complete else "")
    lines: list[RenderableType] = [table]
    if len(complete) > COMPLETE_SHOWN:
        lines.append(Text(f"{len(complete) - COMPLETE_SHOWN} more datasets are complete"))
    if found.training is not None:
        lines.append(Text(_step_line(found.training)))
    return Group(*lines)


def _cells(dataset: DatasetStatus, url: str) -> tuple[str, ...]:
    about = "" if dataset.exact else "~"
    failed = f", {dataset.failed} failed" if dataset.failed else ""
    return (
        dataset.url.removeprefix(url).strip("/") or ".",
        f"{dataset.done}/{dataset.parts}{failed}",
        f"{about}{dataset.rows:,}",
        f"{about}{dataset.tokens:,}",
        "" if dataset.tokens_per_second is None else f"{dataset.tokens_per_second:,.0f}",
        "" if not dataset.eta_seconds else str(timedelta(seconds=round(dataset.eta_seconds))),
        ", ".join(f"{about}{count:,} {reason}" for reason, count in sorted(dataset.rejected.items())),
    )


def _step_line(step: LatestStep) -> str:
    shown = {name: step.metrics[name] for name in METRICS_SHOWN if isinstance(step.metrics.get(name), (int, float))}
    numbers = ", ".join(f"{name} {value:,.4g}" for name, value in shown.items())
    return f"{step.folder}: update {step.metrics.get('update', '?')}, {numbers}"


def follow(url: str, *, console: Console, every: float, look: Callable[[str], Snapshot] = snapshot) -> None:
    """Show the run on a terminal until somebody interrupts; what cannot be read now is said and tried again."""
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            try:
                shown = snapshot_view(look(url))
            except PassError as error:  # nothing there yet, or being replaced
                shown = Text(f"{error}\n(looking again every {every:g} s)")
            live.update(shown, refresh=True)
            time.sleep(every)
