"""Why the forecast misses where it does: other quantities known before training, put in its place.

An explanation is a quantity that the alignment leaves out. It covers a miss where ranking by it is at most half as far
off the rank of the gain; and it is worth something only where it does not miss elsewhere instead, which its
correlation over all arms and levels tells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks.study import tables
from benchmarks.study.arms import ARMS
from benchmarks.study.forecast import Point, correlation, misses, ranks
from benchmarks.study.measures import values
from benchmarks.study.statistics import mean_estimate
from benchmarks.study.stored import Stored

_KL = ("opd", "g_opd")


@dataclass(frozen=True)
class Candidate:
    """A quantity by (arm, level) that might rank better than the alignment; higher is to be better."""

    name: str
    of: Mapping[tuple[str, str], float]


def candidates(stored: Stored, held: Sequence[Point]) -> list[Candidate]:
    """What is stored of every point that was measured before training: the alignment itself first."""
    keys = [(point.arm, point.level) for point in held]
    start = {(row["arm"], row["level"]): row for row in stored.credit if row["round"] is None}
    drift = {(row["arm"], row["level"]): row for row in stored.drift}
    rates = {key: next(iter(stored.runs[key].values())).lr for key in keys}
    found = [Candidate("alignment (the forecast)", {(one.arm, one.level): one.forecast for one in held})]
    if all(key in start for key in keys):
        found += [
            Candidate("RMS of advantages times the learning rate", {k: start[k]["rms"] * rates[k] for k in keys}),
            Candidate(
                "small weight of failed format", {key: -float(start[key]["failed_share"] or 0.0) for key in keys}
            ),
        ]
    if all(key in drift for key in keys):
        found += [
            Candidate("tokens that a step of norm 1 takes off", {key: -drift[key]["length"] for key in keys}),
            Candidate("pass@1 that a step of norm 1 moves", {key: drift[key]["pass1"] for key in keys}),
        ]
        if all(drift[key].get("adam_pass1") is not None for key in keys):
            moved = {key: drift[key]["adam_pass1"] for key in keys}
            found += [
                Candidate("pass@1 that one Adam update moves at equal rates", moved),
                Candidate("the same at the arm's rate", {key: rates[key] * moved[key] for key in keys}),
            ]
    return found


def explanation(stored: Stored, held: Sequence[Point]) -> Iterator[str]:
    """The blocks of the page: what the worst misses are like, and which quantity would not have missed."""
    found = candidates(stored, held)
    yield "## Where it misses most"
    yield _misses(stored, held)
    yield "## What would have been a better forecast"
    yield (
        "Quantities that are known before training too, each in the alignment's place: Spearman's correlation with the "
        "gain, and 95 % intervals (arms are drawn, each with all its levels), over all points and without those that "
        "follow another truth. Arms with a teacher are judged here by the checker's verdict on steps, and trained on "
        "the teacher's log-probabilities."
    )
    parts = _parts(held)
    rows = []
    for one in found:
        cells = [correlation([replace(point, forecast=one.of[point.arm, point.level]) for point in own])
                 for own in parts.values()]  # fmt: skip
        rows.append([one.name, *("–" if c is None else f"{c[0]:+.2f} ({c[1]:+.2f} to {c[2]:+.2f})" for c in cells)])
    yield tables.table(["ranked by", *(f"{name}: {len(own)}" for name, own in parts.items())], rows)
    yield "\n".join(f"- {line}" for line in _verdicts(found, held))


def _parts(held: Sequence[Point]) -> dict[str, list[Point]]:
    no_teacher = [point for point in held if ARMS[point.arm].signal not in _KL]
    found = {
        "all": list(held),
        "without teacher arms": no_teacher,
        "without padding high": [point for point in held if point.level != "high"],
        "without both": [point for point in no_teacher if point.level != "high"],
    }
    return {name: own for name, own in found.items() if own}


def _misses(stored: Stored, held: Sequence[Point]) -> str:
    start = {(row["arm"], row["level"]): row for row in stored.credit if row["round"] is None}
    drift = {(row["arm"], row["level"]): row for row in stored.drift}
    rows = []
    for one, before, after in misses(held):
        key = (one.arm, one.level)
        runs = stored.runs[key]
        padding = values(runs, "padding")
        rows.append([
            tables.NAMES[one.arm], one.level, f"{one.forecast:.3f}", str(before), f"{one.gain:+.3f}", str(after),
            f"{next(iter(runs.values())).lr:g}", tables.number(start.get(key, {}).get("rms"), ".2f"),
            tables.number(start.get(key, {}).get("failed_share"), ".2f"),
            tables.number(drift.get(key, {}).get("length"), "+.1f"),
            tables.number(mean_estimate(list(padding.values())).value if padding else None, ".2f"),
        ])  # fmt: skip
    head = ["arm", "level", "forecast", "rank", "gain", "rank of the gain", "learning rate", "RMS of advantages",
            "share of failed format", "tokens a step of norm 1 moves", "padding steps at the end"]  # fmt: skip
    return tables.table(head, rows)


def _verdicts(found: Sequence[Candidate], held: Sequence[Point]) -> Iterator[str]:
    """For each of the worst misses, which quantities rank it at least twice as near."""
    after = ranks([one.gain for one in held])
    by = {one.name: ranks([one.of[point.arm, point.level] for point in held]) for one in found}
    forecast = by[found[0].name]
    for point, _, _ in misses(held):
        at = held.index(point)
        off = abs(forecast[at] - after[at])
        near = [f"{name} (rank {own[at]})" for name, own in by.items() if 2 * abs(own[at] - after[at]) <= off]
        if off:
            yield (
                f"{tables.NAMES[point.arm]} at {point.level}, forecast as {forecast[at]} and found {after[at]} of "
                f"{len(held)}: {'covered by ' + ', '.join(near) if near else 'covered by none of these'}."
            )
    every = {one.name: correlation([replace(p, forecast=one.of[p.arm, p.level]) for p in held]) for one in found}
    known = {name: value[0] for name, value in every.items() if value is not None}
    if known:
        best, own = max(known, key=known.__getitem__), known.get(found[0].name)
        if best == found[0].name:
            yield f"Over all {len(held)} points none of the {len(found)} ranks better than the alignment ({own:+.2f})."
        else:
            beside = "the alignment ranks all alike" if own is None else f"the alignment {own:+.2f}"
            yield (
                f"Over all {len(held)} points {best} ranks best ({known[best]:+.2f}; {beside}). It was picked among "
                f"{len(found)} after the fact, so it is a suggestion and no test."
            )
    shifts = {name: correlation(own) for name, own in _parts(held).items()}
    told = {name: value[0] for name, value in shifts.items() if value is not None}
    if len(told) > 1:
        yield (
            "The alignment's own correlation is "
            + ", ".join(f"{value:+.2f} {'over all' if name == 'all' else name}" for name, value in told.items())
            + "."
        )
