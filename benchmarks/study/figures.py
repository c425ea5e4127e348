"""The report's figures: SVG, the same bytes for the same results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from benchmarks.study.arms import NONE, TASTES
from benchmarks.study.claims import Finding
from benchmarks.study.measures import Run, Runs
from benchmarks.study.statistics import Verdict, mean_estimate
from benchmarks.study.tables import NAMES, arms_at
from pipelines.inspect.pictures import BLUE, GREY, ORANGE, picture_bytes

#: arms of the main figure; the colours keep apart for all common kinds of colour vision
COLOURS = {
    "grpo_outcome": GREY,
    "grpo_process": "#e69f00",
    "reward_shaping": "#cc79a7",
    "pass_k0": "#56b4e9",
    "pass_k07": BLUE,
    "pass_k1": "#009e73",
    "pass_no_cv": "#f0e442",
    "grpo_opd": ORANGE,
    "pass_opd": BLUE,
    "grpo_gopd": "#e69f00",
    "pass_gopd": "#009e73",
}
_OF_VERDICT = {Verdict.REPRODUCED: BLUE, Verdict.NOT_REPRODUCED: ORANGE, Verdict.UNDECIDED: GREY}
_STYLE = {"svg.hashsalt": "study", "svg.fonttype": "none", "font.size": 8.0}


def curves(runs: Runs, measure: str, label: str) -> bytes:
    """``measure`` over the rounds, the mean over seeds, one panel a level; bands are 95 % intervals."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(11.0, 3.2), layout="tight")
        axes = figure.subplots(1, len(TASTES) + 1, sharey=True)
        for ax, level in zip(axes, (*TASTES, NONE), strict=True):
            ax.set_title("no reward model" if level == NONE else f"padding: {level}")
            ax.set_xlabel("round")
            ax.grid(linewidth=0.4, alpha=0.5)
            for arm, of in arms_at(runs, level).items():
                if arm in COLOURS:
                    _curve(ax, of, measure, label=NAMES[arm], colour=COLOURS[arm])
            if ax.lines:
                ax.legend(frameon=False, fontsize=6)
        axes[0].set_ylabel(label)
        return picture_bytes(figure, ".svg")


def _curve(ax: Any, of: Mapping[int, Run], measure: str, *, label: str, colour: str) -> None:
    at: dict[int, list[float]] = {}
    for run in of.values():
        for row in run.rows:
            at.setdefault(int(row["round"]), []).append(float(row[measure]))
    estimates = {number: mean_estimate(found) for number, found in sorted(at.items())}
    ax.plot(list(estimates), [one.value for one in estimates.values()], color=colour, linewidth=1.2, label=label)
    wide = {number: one for number, one in estimates.items() if one.low is not None}
    if wide:
        low, high = ([getattr(one, side) for one in wide.values()] for side in ("low", "high"))
        ax.fill_between(list(wide), low, high, color=colour, alpha=0.12, linewidth=0)


def forest(findings: Sequence[Finding]) -> bytes:
    """The difference of every pass@1 comparison with its interval; colours are verdicts."""
    rows = [
        (f"{one.claim.text} ({one.level})", part)
        for one in findings
        for part in one.parts
        if part.comparison.measure == "pass1" and part.estimate is not None
    ]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8.0, 1.0 + 0.25 * len(rows)), layout="tight")
        ax = figure.subplots()
        ax.axvline(0.0, color="black", linewidth=0.6)
        ax.grid(axis="x", linewidth=0.4, alpha=0.5)
        for at, (_, part) in enumerate(rows):
            colour, estimate = _OF_VERDICT[part.answer.verdict], part.estimate
            assert estimate is not None
            if estimate.low is not None and estimate.high is not None:
                ax.plot([estimate.low, estimate.high], [at, at], color=colour, linewidth=1.2)
            ax.plot([estimate.value], [at], "o", color=colour, markersize=4)
        ax.set_yticks(range(len(rows)), [name for name, _ in rows])
        ax.invert_yaxis()
        ax.set_xlabel("difference in pass@1: the first arm of the comparison less the second")
        return picture_bytes(figure, ".svg")


def drift_picture(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Tokens that the expected length moves for a step of norm 1, one row an estimator, one panel a level."""
    levels = list(dict.fromkeys(row["level"] for row in rows))
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(2.6 * max(1, len(levels)) + 1.5, 1.2 + 0.28 * len(arms)), layout="tight")
        axes = np.atleast_1d(figure.subplots(1, max(1, len(levels)), sharey=True))
        for ax, level in zip(axes, levels, strict=False):
            ax.set_title("no reward model" if level == NONE else f"padding: {level}")
            ax.axvline(0.0, color="black", linewidth=0.6)
            ax.grid(axis="x", linewidth=0.4, alpha=0.5)
            for row in (row for row in rows if row["level"] == level):
                at = arms.index(row["arm"])
                ax.plot([row["length_low"], row["length_high"]], [at, at], color=BLUE, linewidth=1.2)
                ax.plot([row["length"]], [at], "o", color=BLUE, markersize=4)
            ax.set_xlabel("tokens for a step of norm 1")
        axes[0].set_yticks(range(len(arms)), [NAMES[arm] for arm in arms])
        axes[0].invert_yaxis()
        return picture_bytes(figure, ".svg")


def forecast_picture(points: Sequence[tuple[str, str, float, float]]) -> bytes:
    """Points (arm, level, forecast, gain): what the sweep gave before training against what training gave."""
    colours = dict(zip((*TASTES, NONE), (BLUE, "#009e73", ORANGE, GREY), strict=True))
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.5, 4.0), layout="tight")
        ax = figure.subplots()
        ax.grid(linewidth=0.4, alpha=0.5)
        for level, colour in colours.items():
            own = [point for point in points if point[1] == level]
            if own:
                ax.plot([x for *_, x, _ in own], [y for *_, y in own], "o", color=colour, markersize=4, label=level)
        for arm, _, x, y in points:
            ax.annotate(NAMES[arm], (x, y), fontsize=5, xytext=(3, 2), textcoords="offset points")
        if points:
            ax.legend(frameon=False, title="padding")
        ax.set_xlabel("alignment with the truth before training")
        ax.set_ylabel("gain in pass@1")
        return picture_bytes(figure, ".svg")
