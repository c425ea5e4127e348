"""`passrl status` as a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import groupby
from typing import Any

from pass_ops.errors import PassError
from pass_ops.shards import DatasetStatus, RunStatus
from pipelines.runs.folders import round_of
from pipelines.runs.lineage import read_lineage
from pipelines.runs.tables import Sheet, numbers

#: a dataset's stage, in the order in which a round runs them
STAGES = ("prompts", "generate", "score", "shape")


@dataclass(frozen=True, kw_only=True)
class RoundNotes:
    """What the lineage says of a round beside its datasets. schedule: scheduled option -> its value."""

    round: int
    schedule: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Progress(RunStatus):
    """Every dataset at or below a folder, and what the lineage says of its rounds; nothing where it cannot be read."""

    rounds: tuple[RoundNotes, ...] = ()


def run_progress(status: RunStatus) -> Progress:
    """A folder's status, with the notes of its rounds where it is a RUN."""
    try:
        entries = read_lineage(status.url)["rounds"]
    except PassError:
        entries = []
    notes = (RoundNotes(round=entry["round"], schedule=entry.get("schedule", {})) for entry in entries)
    return Progress(url=status.url, datasets=status.datasets, rounds=tuple(notes))


def notes_lines(progress: Progress) -> list[str]:
    """The notes for the terminal, a line each.

    >>> notes_lines(Progress(url="run", datasets=(), rounds=(RoundNotes(round=0, schedule={"shape.k": 0.7}),)))
    ['round 0: shape.k 0.7']
    """
    return [
        f"round {notes.round}: {', '.join(f'{name} {_value(value)}' for name, value in notes.schedule.items())}"
        for notes in progress.rounds
        if notes.schedule
    ]


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def status_sheet(status: RunStatus) -> Sheet:
    """One row a dataset, by rounds and in the order of the stages; "~" marks counts scaled up from some markers."""
    columns = ("parts", "rate", "left", "rows", "tokens", "rejected")
    sheet = Sheet("dataset", "state", *map(numbers, columns), title=status.url)
    placed = sorted((_place(dataset, status.url) for dataset in status.datasets), key=_order)
    for round_name, found in groupby(placed, key=lambda one: one[0]):
        if round_name:
            sheet.add_row(round_name)
        for _, name, dataset in found:
            sheet.add_row(f"  {name}" if round_name else name, *_cells(dataset))
    return sheet


def _place(dataset: DatasetStatus, top: str) -> tuple[str, str, DatasetStatus]:
    """The round that a dataset belongs to ("" for none), its name there, and itself."""
    path = dataset.url.removeprefix(top).strip("/")
    first, _, rest = path.partition("/")
    return (first, rest, dataset) if rest else ("", path or ".", dataset)


def _order(placed: tuple[str, str, DatasetStatus]) -> tuple[object, ...]:
    """The start, then the rounds; in each its own stages, then its evaluations."""
    round_name, name, dataset = placed
    evaluation = name.rpartition("/rollouts")[0] or name.rpartition("/prompts")[0] or name.rpartition("/signals")[0]
    stage = STAGES.index(dataset.stage) if dataset.stage in STAGES else len(STAGES)
    return (round_name != "start", round_of(round_name) or 0, round_name, evaluation, stage, name)


def _cells(dataset: DatasetStatus) -> Sequence[str]:
    about = "" if dataset.exact else "~"
    return (
        _state(dataset),
        f"{dataset.done}/{dataset.parts}",
        _rate(dataset),
        "" if not dataset.eta_seconds else str(timedelta(seconds=round(dataset.eta_seconds))),
        f"{about}{dataset.rows:,}",
        f"{about}{dataset.tokens:,}" if dataset.tokens else "",
        f"{100 * dataset.reject_rate:.1f} %" if dataset.reject_rate else "",
    )


def _rate(dataset: DatasetStatus) -> str:
    """Tokens a second; rows where the stage counts no tokens."""
    if dataset.tokens_per_second:
        return f"{dataset.tokens_per_second:,.0f} tok/s"
    if not dataset.parts_per_second or not dataset.done:
        return ""
    rate = dataset.parts_per_second * dataset.rows / dataset.done
    return f"{rate:,.0f} rows/s" if rate >= 10 else f"{rate:.2g} rows/s"


def _state(dataset: DatasetStatus) -> str:
    if dataset.deleted is not None:
        return "deleted by rule"
    if dataset.complete:
        return "complete"
    if dataset.failed:
        return f"{dataset.failed} failed"
    return "not finalized" if not dataset.missing else "under way"
