"""`passrl status` as a table for people."""

from __future__ import annotations

from datetime import timedelta

from rich.table import Table

from pass_ops.shards import DatasetStatus, RunStatus


def status_table(status: RunStatus) -> Table:
    """One row a dataset of a run; "~" marks counts scaled up from a sample of the markers."""
    table = Table(
        "dataset",
        "stage",
        "state",
        "done",
        "failed",
        "missing",
        "rows",
        "tokens",
        "rejected",
        "tokens/s",
        "left",
        title=status.url,
    )
    for dataset in status.datasets:
        about = "" if dataset.exact else "~"
        table.add_row(
            dataset.url.removeprefix(status.url).strip("/") or ".",
            dataset.stage,
            _state(dataset),
            f"{dataset.done}/{dataset.parts}",
            str(dataset.failed or ""),
            str(dataset.missing or ""),
            f"{about}{dataset.rows:,}",
            f"{about}{dataset.tokens:,}",
            f"{100 * dataset.reject_rate:.1f} %" if dataset.reject_rate else "",
            "" if dataset.tokens_per_second is None else f"{dataset.tokens_per_second:,.0f}",
            "" if not dataset.eta_seconds else str(timedelta(seconds=round(dataset.eta_seconds))),
        )
    return table


def _state(dataset: DatasetStatus) -> str:
    if dataset.complete:
        return "complete"
    if dataset.failed:
        return "failed parts"
    return "not finalized" if not dataset.missing else "under way"
