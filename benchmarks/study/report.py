"""The study's report: `python -m benchmarks.study report` writes its pages and figures from the stored Parquet files.

docs/study/results/*.parquet         the cells
docs/study/probe/rollouts.parquet    rollouts of the start policy; drift, forecast and credit.parquet made of them

docs/study/index.md                  the first page; beside, tables, claims, mechanism and forecast behind it
docs/study/images/*.svg
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.study import figures, tables
from benchmarks.study.arms import NONE, TASTES
from benchmarks.study.beside import beside
from benchmarks.study.claims import Finding, findings
from benchmarks.study.explain import explanation
from benchmarks.study.first_page import first_page
from benchmarks.study.forecast import Point, correlations, points
from benchmarks.study.measures import Run, Runs
from benchmarks.study.padding_pay import pay
from benchmarks.study.store import HOME
from benchmarks.study.stored import Stored, read_stored

#: the cells that the report was made of: results may be added before it is written again
MADE_OF = "made-of.txt"
#: where the padding step of the mechanism's table is put, of the rollout's ten steps, and what the ten are credited
STEPS, PLACES, CREDIT, SCORE = 10, (1, 6, 11), 0.3, 0.1
#: the learning rate at which the mechanism's table gives what Adam moves: one for all arms
ADAM_RATE = 3e-4
POWERS = (0.0, 0.3, 0.5, 0.7, 1.0)


def report(stored: Stored) -> dict[str, bytes]:
    """Every file of the report by its path below the study's folder; equal input gives equal bytes."""
    found, held = findings(stored.runs), points(stored.forecast, stored.runs)
    pages = {
        "index.md": first_page(stored, found),
        "beside.md": beside(stored),
        "tables.md": _tables(stored),
        "claims.md": _claims(found),
        "mechanism.md": _mechanism(stored.drift),
        "forecast.md": _forecast(stored, held),
    }
    pictures: dict[str, Callable[[], bytes]] = {
        "pass1.svg": lambda: figures.curves(stored.runs, "pass1", "pass@1"),
        "length.svg": lambda: figures.curves(stored.runs, "length", "tokens"),
        "claims.svg": lambda: figures.forest(found),
        "drift.svg": lambda: figures.drift_picture(stored.drift),
        "forecast.svg": lambda: figures.forecast_picture([(p.arm, p.level, p.forecast, p.gain) for p in held]),
    }
    made = {name: "\n\n".join(blocks).encode() + b"\n" for name, blocks in pages.items()}
    made |= {f"images/{name}": draw() for name, draw in pictures.items()}
    return made | {MADE_OF: "".join(f"{name}\n" for name in stored.cells).encode()}


def write_report(home: Path = HOME) -> None:
    """Writes every file of the report below ``home``."""
    for name, content in report(read_stored(home)).items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _tables(stored: Stored) -> Iterator[str]:
    runs = stored.runs
    yield "# Tables"
    yield (
        "Means over seeds ± half the 95 % interval (Student), after the last round, on the same evaluation tasks in "
        "every cell. Arms without a reward model stand beside each level. Differences are paired by seed, and not "
        "corrected for their number: [Claims](claims.md) are."
    )
    for title, measures in (("Results", tables.RESULTS), ("Credit, entropy and teacher", tables.CREDIT)):
        yield from _by_level(runs, title, lambda level, m=measures: tables.measures_table(runs, level, m))  # type: ignore[misc]
    yield from _by_level(
        runs,
        "Differences from PASS",
        lambda level: tables.differences_table(
            runs,
            level,
            reference="pass_opd" if level == NONE else "pass_k07",
            measures=("pass1", "area", "length", "padding", "teacher_kl"),
        ),
    )
    yield from _by_level(runs, "By generated token", lambda level: tables.measures_table(runs, level, tables.TOKENS))
    yield "“The same over equal tokens” is the mean of pass@1 up to the fewest tokens that any cell generated."
    yield "## Learning or sharpening"
    yield (
        "A policy that only sharpens moves its samples towards what it decodes greedily anyway; one that learns moves "
        "its greedy answers too."
    )
    for level in (*TASTES, NONE):
        yield f"### {_level(level)}"
        yield tables.measures_table(runs, level, tables.SHARPENING)
    yield "![length over rounds](images/length.svg)"
    yield from _pilots(stored.pilots)


def _pilots(pilots: Sequence[Run]) -> Iterator[str]:
    """What the runs before the study gave: too few to judge a claim, and nothing is left out."""
    if not pilots:
        return
    yield "## Pilots"
    yield (
        "Pilots were run before the grid of learning rates was set, and the grid was moved down after them; their seed "
        "is in no table. Their reward model was a simulated one. One seed each, so no claim is judged by them, but "
        "they are results, and none is left out:"
    )
    names = ("pass1", "pass8", "greedy", "length", "padding", "teacher_kl")
    rows = [
        [
            tables.NAMES[run.arm],
            run.level,
            f"{run.lr:g}",
            tables.number(run.start.get("pass1"), ".3f"),
            *(tables.number(run.measures[name], tables.MEASURES[name][1]) for name in names),
        ]
        for run in pilots
    ]
    head = ["pilot", "padding", "learning rate", "pass@1 at the start"]
    yield tables.table([*head, *(tables.MEASURES[name][0] for name in names)], rows)


def _by_level(runs: Runs, title: str, of: Callable[[str], str]) -> Iterator[str]:
    yield f"## {title}"
    for level in (*TASTES, NONE):
        if tables.arms_at(runs, level):
            yield f"### {title}: {_level(level)}"
            yield of(level)
    if not runs:
        yield tables.EMPTY


def _level(level: str) -> str:
    return "no reward model" if level == NONE else f"padding {level}"


def _claims(found: Sequence[Finding]) -> Iterator[str]:
    yield "# Claims"
    yield "## What could have been found"
    yield (
        "The smallest true difference that a paired t test over these seeds finds four times in five, after correction "
        "for all comparisons (the first step of Holm). Where it is above the smallest difference that matters, a "
        "verdict of *undecided* is likely whatever the truth is."
    )
    yield tables.detectable_table(found)
    yield "## What was found"
    yield tables.claims_table(found)
    yield "![differences in pass@1](images/claims.svg)"
    yield tables.parts_table(found)
    yield (
        "*Reproduced*: the difference the claim names is shown (one-sided, 2.5 % for the family). *Not reproduced*: it "
        "is shown to be smaller than what matters, or of the other sign. “At least as good” means no worse by the "
        "smallest difference that matters. A claim of two parts needs both."
    )


def _mechanism(drift: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "# Mechanism"
    yield "## What a padding step earns"
    yield (
        f"A rollout of {STEPS} steps, each credited {CREDIT:+g}, and a padding step of credit {SCORE:+g} put at a "
        "place from the start (1) to the end. Its *advantage* is what its tokens are multiplied with, and the part of "
        "it that its own score brings is the same at the end for every k. *Path* is what the path score of the whole "
        "rollout gains; it rises with any score above the break-even. In closed form "
        "(`benchmarks/study/padding_pay.py`), which the tests hold against `pass_ops.shape`."
    )
    yield tables.table(["k", "place", "advantage", "from its score", "path", "break-even score"], list(_pay_rows()))
    yield (
        "At k = 0 every positive score pays, wherever it stands, and a step before it collects it as well: that is the "
        "cumulative trap. At k = 1 only a score above the rollout's mean credit pays. Between them the price of a step "
        "grows with k and with the credit that the rollout already has."
    )
    yield "## Where one step moves length"
    yield (
        "On the same rollouts of the start policy the exact gradient of each estimator, and what a step of norm 1 "
        "along it does to the expected length and to pass@1 (tokens, and points of 0.01; 95 % jackknife over folds of "
        "tasks). Nothing is trained, so no noise of training is in it. The last column is what one Adam update "
        "moves, of as many rollouts as a fold has: it divides each coordinate by the root of its mean square over "
        "updates, so that gradients which vary from update to update move less."
    )
    yield tables.table(
        [
            "arm",
            "level",
            "tokens",
            "points of pass@1",
            "tokens a point",
            f"points per Adam update at {ADAM_RATE:g}",
        ],
        list(_drift_rows(drift)),
        empty="Not measured yet.",
    )
    yield "![drift of the expected length](images/drift.svg)"


def _pay_rows() -> Iterator[list[str]]:
    for k in POWERS:
        for place in PLACES:
            one = pay([CREDIT] * STEPS, place=place, score=SCORE, k=k)
            yield [f"{k:g}", str(place), *(f"{value:+.3f}" for value in (one.own, one.from_score, one.path)),
                   f"{one.break_even:.3f}"]  # fmt: skip


def _drift_rows(drift: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    for row in drift:
        yield [
            tables.NAMES[row["arm"]],
            row["level"],
            f"{row['length']:+.2f} ({row['length_low']:+.2f} to {row['length_high']:+.2f})",
            f"{100 * row['pass1']:+.2f} ({100 * row['pass1_low']:+.2f} to {100 * row['pass1_high']:+.2f})",
            tables.number(row["tokens_a_point"], "+.2f"),
            _adam(row),
        ]


def _adam(row: Mapping[str, Any]) -> str:
    if row.get("adam_pass1") is None:
        return "–"
    value, low, high = (ADAM_RATE * 100 * row[name] for name in ("adam_pass1", "adam_pass1_low", "adam_pass1_high"))
    return f"{value:+.2f} ({low:+.2f} to {high:+.2f})"


def _forecast(stored: Stored, held: Sequence[Point]) -> Iterator[str]:
    yield "# Does the forecast hold?"
    yield (
        "`passrl sweep --truth` ranks settings by how well their token advantages agree with a truer signal, before "
        "anything is trained. Here the truth is the checker's verdict on every step, the rollouts are the start "
        "policy's, and the ranking is held against what each arm gained. Spearman's correlation; the 95 % interval "
        "draws arms again, each with all its levels (they are near each other, and no further arms), and the seeds "
        "that all share."
    )
    rows = [
        [
            name,
            str(count),
            *(("–", "–") if found is None else (f"{found[0]:+.2f}", f"{found[1]:+.2f} to {found[2]:+.2f}")),
        ]
        for name, count, found in correlations(held)
    ]
    yield tables.table(["level", "points", "correlation", "95 % interval"], rows if held else [])
    yield "![forecast and gain](images/forecast.svg)"
    if held:
        yield from explanation(stored, held)
    yield "## What was forecast"
    yield tables.table(
        ["arm", "level", "alignment with the truth", "95 % over prompts"],
        [
            [tables.NAMES[row["arm"]], row["level"], f"{row['alignment']:.3f}",
             f"{row['alignment_low']:.3f} to {row['alignment_high']:.3f}"]
            for row in sorted(stored.forecast, key=lambda row: -(row["alignment"] or 0.0))
            if row["alignment"] is not None
        ],
        empty="No forecast is made yet.",
    )  # fmt: skip
