"""`passrl diff` for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise

from rich.console import Group
from rich.text import Text

from pipelines.inspect.diff.runs import Counts, DataChange, ResultChange, RunDiff
from pipelines.runs.tables import Sheet, numbers, texts

#: characters of a digest that are shown
DIGEST = 8


def diff_view(diff: RunDiff) -> Group:
    """What differs in options and data; every result that both have."""
    if not diff.rounds_of_a and not diff.data and diff.results:  # two evaluations
        return Group(Text(f"A: {diff.a}"), Text(f"B: {diff.b}"), _results(diff.results))
    head = [f"A: {diff.a}, {_count(diff.rounds_of_a)}", f"B: {diff.b}, {_count(diff.rounds_of_b)}"]
    changed = [one for one in diff.data if not one.same]
    same = f"{len(diff.data) - len(changed)} of {len(diff.data)} datasets and starting policies are the same."
    return Group(
        *map(Text, head),
        *([_options(diff)] if diff.options else [Text("\nOptions: the same in every round that both have.")]),
        *([_data(changed)] if changed else []),
        Text(f"Data: {same}"),
        *([_results(diff.results)] if diff.results else [Text("Results: none that both have.")]),
    )


def spans(rounds: Sequence[int]) -> str:
    """Numbers in order, neighbours as a range.

    >>> spans([0, 1, 2, 5])
    '0-2, 5'
    """
    starts = [rounds[0], *(after for before, after in pairwise(rounds) if after != before + 1)]
    ends = [*(before for before, after in pairwise(rounds) if after != before + 1), rounds[-1]]
    return ", ".join(f"{start}-{end}" if end > start else f"{start}" for start, end in zip(starts, ends, strict=True))


def _count(rounds: int) -> str:
    return f"{rounds} round{'s' * (rounds != 1)}"


def _options(diff: RunDiff) -> Sheet:
    sheet = Sheet("rounds", "option", texts("A"), texts("B"), title="Options that differ")
    for change in diff.options:
        sheet.add_row(spans(change.rounds), change.option, json.dumps(change.a), json.dumps(change.b))
    return sheet


def _data(changed: Sequence[DataChange]) -> Sheet:
    columns = [numbers(name, side) for name in ("rows", "tokens", "rejected") for side in "AB"]
    sheet = Sheet("round", "dataset", "digest A", "digest B", *columns, title="Data that differ")
    for one in changed:
        counts = [_number(getattr(side, name)) for name in ("rows", "tokens", "rejected") for side in (one.a, one.b)]
        sheet.add_row(str(one.round), one.dataset, _digest(one.a), _digest(one.b), *counts)
    return sheet


def _digest(counts: Counts) -> str:
    return "-" if counts.digest is None else counts.digest[:DIGEST]


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _results(results: Sequence[ResultChange]) -> Sheet:
    sheet = Sheet(
        *("round", "result", numbers("A"), numbers("B"), numbers("B - A", "± std. err."), numbers("95 %", "interval")),
        numbers("p"),
        numbers("prompts"),
        title="Results",
        caption="pass@k in %; reward and length (tokens) of the round's own rollouts. Means over the prompts that are "
        "the same in both, compared prompt by prompt; * none is, so each run's own, as independent samples. p: paired "
        "permutation test of this row alone.",
    )
    for one in results:
        sheet.add_row(*_result_row(one))
    return sheet


def _result_row(one: ResultChange) -> list[str]:
    found = one.difference
    is_share = one.what.startswith(("pass@", "maj@", "reward "))
    scale, digits = (100, 1) if is_share else (1, 1 if one.what == "length" else 3)
    error = "" if found.standard_error is None else f" ± {scale * found.standard_error:.{digits}f}"
    ends = "" if found.low is None or found.high is None else " to ".join(
        f"{scale * end:+.{digits}f}" for end in (found.low, found.high)
    )  # fmt: skip
    return [
        "start" if one.round is None else str(one.round),
        one.what if found.paired else f"{one.what} *",
        f"{scale * found.a:.{digits}f}",
        f"{scale * found.b:.{digits}f}",
        f"{scale * found.difference:+.{digits}f}{error}",
        ends,
        "" if found.p is None else f"{found.p:.2g}",
        f"{found.prompts:,}",
    ]
