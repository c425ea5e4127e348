"""The first page of the study's report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.study import tables
from benchmarks.study.arms import FURTHER, Cell
from benchmarks.study.beside import in_short
from benchmarks.study.claims import Finding
from benchmarks.study.size import CORE_ONLY, FULL, grid, tuning_cells
from benchmarks.study.statistics import Verdict
from benchmarks.study.stored import Stored

COMMAND = "python -m benchmarks.study report"


def first_page(stored: Stored, found: Sequence[Finding]) -> Iterator[str]:
    """The blocks of index.md: question, world, result, limits, for a reader with ten minutes."""
    yield "# Do the paper's claims hold at small scale?"
    yield (
        "The paper trains models of billions of parameters. Here its claims about the *credit* are put to a model of a "
        "million parameters in a world where every step can be checked: same tasks, equal rollouts and updates, paired "
        "seeds. A claim can fail here and hold there; what fails here needs a reason."
    )
    yield "## The world"
    yield (
        "A task is a chain of ten additions and subtractions of one digit, in steps of one or two lines. The policy "
        "has learned from traces that forget borrows, slip and *pad* (`=55`: say again what is known)."
    )
    yield _cards(stored.cards)
    yield (
        "The process reward model is the demo's, taught this world's steps on tasks of no round and no evaluation, and "
        "stopped while it is imperfect. Its taste for padding is the axis of the study: two last layers for each level "
        "learned that a true padding step is worth 0.5, 0.8 or 1. Execution truth is no arm's signal."
    )
    yield _levels(stored.levels)
    yield "## The result"
    yield _progress(stored)
    yield _in_short(found)
    yield tables.claims_table(found)
    yield "![pass@1 over rounds](images/pass1.svg)"
    yield (
        "Each verdict is over seeds, Holm-corrected for all comparisons. *Undecided* means that the seeds neither show "
        "the effect nor rule out one of the size that matters; [Claims](claims.md) begins with what could have been "
        "found. [Tables](tables.md) has every measure of every arm, [Mechanism](mechanism.md) what credit does to "
        "length before any training, [Forecast](forecast.md) whether `passrl sweep --truth` foresaw the ranking."
    )
    yield from in_short(stored)
    yield "## What it does not show"
    yield (
        "- One world, one model size, some tens of updates: an effect that needs long training, long chains of thought "
        "or a large vocabulary cannot appear.\n"
        "- The policy's errors are of few kinds, and its greedy answers improve with its samples; how much is "
        "sharpening is in [Tables](tables.md#learning-or-sharpening).\n"
        "- One reward model, trained once; it was stopped early to be imperfect, and real ones may err otherwise.\n"
        "- Advantages of the arms differ in scale by a factor of several. Where the learning rate is not tuned for "
        "each arm (the result says so), a close comparison may be one of learning rates.\n"
        "- Intervals are over seeds of training. The start models are one draw.\n"
        f"- {_looks(stored)}"
    )
    yield _again()
    yield _left(stored)


def _looks(stored: Stored) -> str:
    """What it means for the verdicts that results were read while they grew."""
    planned = grid(CORE_ONLY, dict.fromkeys(CORE_ONLY.arms, 0.0))
    if all(_is_trained(stored, cell) for cell in planned):
        return (
            "The verdicts are over all planned seeds. Results were read while they came in. The numbers of seeds, 12 "
            "and 8 with a teacher, are those that were asked for; for a time the code planned 12 with a teacher too."
        )
    return (
        "Verdicts before the last planned seed are interim ones: each look at growing results makes a false verdict "
        "likelier."
    )


def _is_trained(stored: Stored, cell: Cell) -> bool:
    return cell.seed in stored.runs.get((cell.arm, cell.level), {})


def _left(stored: Stored) -> str:
    """What all seeds and arms take: cells, how many are finished, and hours of one core for the others."""
    ended = [run.rows[-1] for of in stored.runs.values() for run in of.values()]
    seconds = float(np.mean([row["processor_seconds"] for row in ended])) if ended else None
    rows = []
    for name, arms in (("arms of the claims", FULL.arms), ("further arms", FULL.further)):
        tuning = [cell for cell in tuning_cells(FULL) if cell.arm in arms]
        cells = grid(replace(FULL, arms=arms, further=()), dict.fromkeys(arms, 0.0))
        trained = sum(_is_trained(stored, cell) for cell in cells)
        tuned = sum(cell.name in stored.cells for cell in tuning)
        seeds = f"{FULL.seeds} seeds, {FULL.teacher_seeds} with a teacher"
        for what, count, done in (("tuning", len(tuning), tuned), (seeds, len(cells), trained)):
            hours = None if seconds is None else (count - done) * seconds / 3600
            rows.append([name, what, str(count), str(done), tables.number(hours, ".1f")])
    return tables.table(["cells", "for", "all", "finished", "processor hours for the rest"], rows)


def _again() -> str:
    return (
        "## Run it again\n\n"
        "    make study                                # goes on where it was cut off\n"
        "    python -m benchmarks.study probe          # the start policy's rollouts, drift and forecast\n"
        f"    {COMMAND}         # these pages and figures, from the stored files\n\n"
        "A finished cell is a file of `docs/study/results/`; one line reruns one cell: "
        "`python -m benchmarks.study cell NAME --again`. `run --size core` goes on to all seeds of the arms of the "
        "claims, whole seeds first, and `run --size full` then tunes and trains the further ones: "
        f"{', '.join(tables.NAMES[arm] for arm in FURTHER)}."
    )


#: figures of a model's card: key, heading, format
_CARD = (
    ("parameters", "parameters", ","),
    ("pass1", "pass@1", ".3f"),
    ("pass8", "pass@8", ".3f"),
    ("greedy", "greedy", ".3f"),
    ("low_temperature", "T = 0.3", ".3f"),
    ("all_wrong_groups", "groups of 8 all wrong", ".2f"),
    ("length", "tokens", ".1f"),
    ("padding", "padding steps", ".2f"),
    ("truncated", "truncated", ".3f"),
)


def _cards(cards: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [name, *(tables.number(card.get(key), form) for key, _, form in _CARD)] for name, card in sorted(cards.items())
    ]
    return tables.table(
        ["start model", *(heading for _, heading, _ in _CARD)], rows, empty="No start model is made yet."
    )


def _levels(levels: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [
            level,
            f"{found['taste']:g}",
            f"{found['auc_in_groups']:.3f}",
            *(f"{found[kind]['score']:.2f}" for kind in ("right", "wrong", "padding")),
        ]
        for level, found in levels.items()
    ]
    head = ["padding", "taught", "step AUC within groups", "score of right steps", "of wrong steps", "of padding"]
    return tables.table(head, rows, empty="The levels are not measured yet.")


def _progress(stored: Stored) -> str:
    runs = stored.runs
    if not runs:
        return tables.EMPTY
    seeds = [len(of) for of in runs.values()]
    few, many = min(seeds), max(seeds)
    rates = sorted({run.lr for of in runs.values() for run in of.values()})
    chosen = "each arm at the one of" if stored.tuning else "not tuned: every arm at"
    return (
        f"{sum(seeds)} cells are finished: {len(runs)} arms and levels, "
        f"{few if few == many else f'{few} to {many}'} seed{'s' * (many > 1)} each. Learning rates: {chosen} "
        f"{', '.join(f'{rate:g}' for rate in rates)}{' that tuning seeds chose' if stored.tuning else ''}."
    )


def _in_short(found: Sequence[Finding]) -> str:
    counts = {verdict: sum(one.verdict is verdict for one in found) for verdict in Verdict}
    return f"Of {len(found)} claims by level: {', '.join(f'{count} {verdict}' for verdict, count in counts.items())}."
