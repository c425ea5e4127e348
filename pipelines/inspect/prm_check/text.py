"""`passrl prm-check` for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.text import Text

from pipelines.inspect.prm_check.check import SignalReport, StepBin
from pipelines.runs.tables import Sheet, numbers, texts

#: a mean standardized score of padding or repetition from which on PASS would pay for it noticeably
PAID = 0.1


def report_view(report: SignalReport, *, signal: str, truth: str) -> Group:
    """The report as tables, and what it means for a training."""
    head = (
        f"{signal} against {truth}: {report.steps:,} steps of {report.rollouts:,} rollouts"
        f"{f' ({report.skipped:,} without a value of both)' if report.skipped else ''}. "
        f"AUC {number(report.auc)}, within groups {number(report.auc_in_groups)}."
    )
    kinds = plain_table("Steps by kind", "steps", "mean score", "standardized")
    for name, kind in report.kinds.items():
        kinds.add_row(name, f"{kind.steps:,}", number(kind.score), number(kind.standardized, signed=True))
    return Group(
        Text(head),
        kinds,
        _bin_table("By position in the rollout (0 first, 1 last)", report.by_position),
        _bin_table("By length in tokens", report.by_length),
        *(Text(line) for line in findings(report)),
    )


def findings(report: SignalReport) -> list[str]:
    """What in the report would mislead a training; empty where nothing does."""
    lines = []
    if report.auc_in_groups is not None and report.auc_in_groups < 0.55:
        lines.append("It hardly tells right from wrong steps of one group: PASS has next to nothing to learn from it.")
    for name in ("padding", "repeated"):
        kind = report.kinds[name]
        if kind.standardized is not None and kind.standardized > PAID:
            lines.append(
                f"{name.capitalize()} steps score {kind.standardized:+.2f} standard deviations above their group: "
                "a policy trained on it will write more of them."
            )
    for name in ("position", "length"):
        value, true = report.correlation[name], report.correlation["truth"]
        if value is not None and abs(value) > max(0.3, abs(true or 0.0)):
            lines.append(f"Its scores follow {name} ({value:+.2f}) more than the truth ({number(true, signed=True)}).")
    return lines


def _bin_table(title: str, bins: Sequence[StepBin]) -> Sheet:
    table = plain_table(title, "steps", "mean score", "mean truth", "AUC")
    for one in bins:
        span = f"{one.low:.3g}" if one.low == one.high else f"{one.low:.3g} to {one.high:.3g}"
        table.add_row(span, f"{one.steps:,}", number(one.score), number(one.truth), number(one.auc))
    return table


def plain_table(title: str, *columns: str) -> Sheet:
    """A table with a first column without a head and numbers in the others."""
    return Sheet(texts(""), *map(numbers, columns), title=title)


def number(value: float | None, *, signed: bool = False) -> str:
    """Three digits, or a dash for None."""
    return "-" if value is None else f"{value:+.3f}" if signed else f"{value:.3f}"
