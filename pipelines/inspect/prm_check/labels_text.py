"""`passrl prm-check --labels` for people."""

from __future__ import annotations

from rich.console import Group
from rich.text import Text

from pipelines.inspect.prm_check.effect import Effect
from pipelines.inspect.prm_check.figures import Calibration, FirstErrors
from pipelines.inspect.prm_check.labels import LabelReport
from pipelines.inspect.prm_check.text import number, plain_table
from pipelines.runs.tables import Sheet

#: mean score minus the share that is right, from which on a score promises noticeably too much
TOO_SURE = 0.1
#: shares of steps that an update would push the wrong way, from which on it is worth a line
MISLED = 0.25


def labels_view(report: LabelReport, *, scores: str) -> Group:
    """The report as tables, and what it means for a training. scores: what made them, in a word."""
    parts = [
        Text(line)
        for line in (
            f"{scores} against {report.labels} (judged by {report.judged_by}): {report.solutions:,} solutions of "
            f"{report.problems:,} problems, {report.alone:,} of them the only one of theirs.",
            f"Steps: {report.right:,} right, {report.wrong:,} wrong, {report.neither:,} without a label. "
            f"AUC {number(report.auc)}, within problems {number(report.auc_in_problem)}.",
            *_left_out(report),
        )
    ]
    return Group(
        *parts,
        _first_errors(report.first_error, report.best_first_error),
        *_calibration(report.calibration),
        *([] if report.advantages is None else [_effects(report.advantages, report.advantages_by_labels)]),
        *(Text(line) for line in label_findings(report)),
    )


def label_findings(report: LabelReport) -> list[str]:
    """What in the report would mislead a training, or is not to be believed; empty where nothing is."""
    lines = []
    if report.auc_in_problem is not None and report.auc_in_problem < 0.55:
        lines.append(
            "It hardly tells right from wrong steps of one problem: PASS has next to nothing to learn from it."
        )
    if (found := report.calibration) is not None:
        steps = sum(one.steps for one in found.bins)
        gap = sum(one.steps * (one.score - one.right) for one in found.bins) / steps
        if abs(gap) > TOO_SURE:
            side = "high" if gap > 0 else "low"
            lines.append(f"Its scores are {abs(gap):.2f} too {side} on average: they are no probabilities.")
    if (effect := report.advantages) is not None and (ideal := report.advantages_by_labels) is not None:
        for name, said in (
            ("first_wrong_rewarded", "first wrong steps are rewarded"),
            ("right_punished", "right steps are punished"),
        ):
            share, least = getattr(effect, name), getattr(ideal, name)
            if share is not None and least is not None and share > least + MISLED:
                lines.append(f"{share:.0%} of the {said} (by the labels themselves {least:.0%}).")
    if report.calibration is None and report.right + report.wrong:
        lines.append("Its scores are not between 0 and 1, so there is no calibration.")
    return lines


def _left_out(report: LabelReport) -> list[str]:
    lines = []
    if report.unscored:
        said = ", ".join(f"{count:,} {status}" for status, count in sorted(report.unscored.items()))
        lines.append(f"Solutions without scores: {said}.")
    if report.rejected:
        said = ", ".join(f"{count:,} {reason}" for reason, count in sorted(report.rejected.items()))
        lines.append(f"Rejected rows: {said}. The first: {'; '.join(report.rejects)}.")
    if report.unplaced:
        lines.append(f"{report.unplaced:,} solutions have no place on the tokenizer's tokens and are in no advantage.")
    return lines


def _first_errors(given: FirstErrors, best: FirstErrors | None) -> Sheet:
    table = plain_table("First wrong step", "threshold", "erroneous", "found", "correct", "passed", "F1")
    for name, one in (("given", given), ("best on these labels", best)):
        if one is not None:
            figures = (number(one.found), f"{one.correct:,}", number(one.passed), number(one.f1))
            table.add_row(name, f"{one.threshold:.4g}", f"{one.erroneous:,}", *figures)
    return table


def _calibration(found: Calibration | None) -> list[Sheet | Text]:
    if found is None:
        return []
    table = plain_table("Calibration", "steps", "mean score", "share right")
    for one in found.bins:
        table.add_row(f"{one.low:.1f} to {one.high:.1f}", f"{one.steps:,}", number(one.score), number(one.right))
    return [table, Text(f"Expected calibration error {found.error:.3f}, Brier score {found.brier:.3f}.\n")]


def _effects(scores: Effect, labels: Effect | None) -> Sheet:
    table = plain_table("What the advantages would be", "by the scores", "by the labels")
    for name, said in (
        ("agreement", "steps whose advantage has the label's sign"),
        ("right_punished", "right steps punished"),
        ("wrong_rewarded", "wrong steps rewarded"),
        ("first_wrong_rewarded", "first wrong steps rewarded"),
        ("right", "mean advantage of right steps"),
        ("wrong", "mean advantage of wrong steps"),
        ("first_wrong", "mean advantage of first wrong steps"),
    ):
        signed = said.startswith("mean")
        table.add_row(said, *(number(getattr(one, name), signed=signed) for one in (scores, labels) if one is not None))
    return table
