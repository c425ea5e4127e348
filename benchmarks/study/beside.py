"""PASS beside GRPO(outcome): what the stored cells, rollouts and gradients say of the distance between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.study import tables
from benchmarks.study.arms import ARMS, NONE, TASTES
from benchmarks.study.claims import at_level
from benchmarks.study.forecast import correlation, points
from benchmarks.study.measures import Run, Runs, values
from benchmarks.study.probe import PROBED
from benchmarks.study.statistics import mean_estimate, paired
from benchmarks.study.stored import Stored

PASS, GRPO, WITHOUT = "pass_k07", "grpo_outcome", "pass_no_format"
#: the level of the table, which every arm with a reward model has
LEVEL = next(iter(TASTES))


def in_short(stored: Stored) -> Iterator[str]:
    """What the first page says of it; nothing without cells of both arms."""
    of_pass = _of_pass(stored.runs)
    if not of_pass or not at_level(stored.runs, GRPO, NONE):
        return
    yield "## PASS beside GRPO(outcome)"
    said = [f"In pass@1 PASS less GRPO(outcome) is {_distances(stored.runs, of_pass)}."]
    start = _start(stored)
    own, its = (_at(start, arm, LEVEL).get("failed_share") for arm in (PASS, GRPO))
    if own is not None and its is not None:
        said.append(
            f"Of the start policy's rollouts {100 * _failed(start):.1f} % fail the format; they carry "
            f"{100 * own:.0f} % of PASS's squared advantages at {LEVEL}, and {100 * its:.0f} % of "
            "GRPO(outcome)'s."
        )
    without = [f"{found} at {level}" for level in TASTES if (found := _without(stored.runs, GRPO, level))]
    if without:
        said.append(
            "PASS without the format stream, an arm that was added when this was known, less GRPO(outcome) is "
            f"{', '.join(without)}."
        )
    yield f"{' '.join(said)} [PASS beside GRPO(outcome)](beside.md) has the whole comparison."


def beside(stored: Stored) -> Iterator[str]:
    """The blocks of the page."""
    yield "# PASS beside GRPO(outcome)"
    of_pass = _of_pass(stored.runs)
    if not of_pass or not at_level(stored.runs, GRPO, NONE):
        yield tables.EMPTY
        return
    yield _pace(stored.runs, of_pass)
    if stored.tuning:
        yield "Pass@1 of the tuning seeds by learning rate, from which each arm's was chosen:"
        yield _rates(stored.tuning)
    if stored.credit:
        yield _format(stored)
        yield _table(stored)
        yield _tested(stored.runs)


def _pace(runs: Runs, of_pass: Mapping[str, Mapping[int, Run]]) -> str:
    grpo = at_level(runs, GRPO, NONE)
    every = [run for of in runs.values() for run in of.values()]
    halves = [_halves([run for of in of_pass.values() for run in of.values()]), _halves(list(grpo.values()))]
    fallen = [
        f"{tables.NAMES[arm]} at {level} {count} of {len(of)}"
        for (arm, level), of in runs.items()
        if (count := sum(_gain(run) < 0 for run in of.values()))
    ]
    lowest = min((run for of in of_pass.values() for run in of.values()), key=_gain)
    clipped = max((float(row["clip_share"] or 0.0) for run in every for row in run.rows), default=0.0)
    return (
        f"In pass@1 PASS less GRPO(outcome) is {_distances(runs, of_pass)}. *Does PASS "
        f"break?* Its lowest cell goes from {lowest.start['pass1']:.3f} to {lowest.measures['pass1']:.3f}; cells that "
        f"end below their start: {'; '.join(fallen) or 'none of any arm'}. *Is it done?* It gains {halves[0][0]:.3f} "
        f"in the first half of the rounds and {halves[0][1]:.3f} in the second, GRPO(outcome) {halves[1][0]:.3f} and "
        f"{halves[1][1]:.3f}. *Are its ratios clipped?* At most {100 * clipped:.2f} % of a round's tokens in any "
        f"arm, PASS among them. *Is it sharper?* {_entropies(of_pass, grpo)}"
    )


def _of_pass(runs: Runs) -> dict[str, Mapping[int, Run]]:
    """Level -> PASS's runs, where it has any."""
    return {level: of for level in TASTES if (of := at_level(runs, PASS, level))}


def _distances(runs: Runs, of_pass: Mapping[str, Mapping[int, Run]]) -> str:
    """PASS less GRPO(outcome) in pass@1 at each level."""
    grpo = values(at_level(runs, GRPO, NONE), "pass1")
    found = {level: paired(values(of, "pass1"), grpo) for level, of in of_pass.items()}
    said = [f"{np.mean(differences):+.3f} ({level})" for level, differences in found.items() if differences]
    return ", ".join(said) or "not measured on common seeds"


def _entropies(of_pass: Mapping[str, Mapping[int, Run]], grpo: Mapping[int, Run]) -> str:
    ends = [*((f"PASS at {level}", of) for level, of in of_pass.items()), ("GRPO(outcome)", grpo)]
    said = ", ".join(f"{tables.cell(values(of, 'entropy'), 'entropy')} for {name}" for name, of in ends)
    start = next(iter(grpo.values())).start["entropy"]
    return f"Entropy, nats a token, goes from {tables.number(start, '.3f')} to {said}."


def _halves(runs: Sequence[Run]) -> tuple[float, float]:
    """Mean gain in pass@1 up to the middle of the rounds, and after it."""
    found = []
    for run in runs:
        rounds, heights = ([float(row[name]) for row in run.rows] for name in ("round", "pass1"))
        middle = float(np.interp(rounds[-1] / 2, rounds, heights))
        found.append((middle - heights[0], heights[-1] - middle))
    first, second = np.mean(found, axis=0)
    return float(first), float(second)


def _gain(run: Run) -> float:
    return float(run.measures["gain"] or 0.0)


def _rates(tuning: Sequence[Run]) -> str:
    rates = sorted({run.lr for run in tuning})
    found: dict[str, dict[float, list[float]]] = {}
    for run in tuning:
        found.setdefault(run.arm, {}).setdefault(run.lr, []).append(float(run.measures["pass1"] or 0.0))
    rows = [
        [tables.NAMES[arm], *(f"{np.mean(found[arm][rate]):.3f}" if rate in found[arm] else "–" for rate in rates)]
        for arm in ARMS
        if arm in found
    ]
    return tables.table(["arm", *(f"{rate:g}" for rate in rates)], rows)


def _format(stored: Stored) -> str:
    start = _start(stored)
    shares = {arm: _at(start, arm, LEVEL).get("failed_share") for arm in (PASS, "reward_shaping", GRPO)}
    said = ", ".join(
        f"{100 * share:.0f} % in {tables.NAMES[arm]}" for arm, share in shares.items() if share is not None
    )
    return (
        f"*How much of the credit is about format?* Of the start policy's rollouts {100 * _failed(start):.1f} % fail "
        f"it, and they carry {said} of an update's squared "
        f"advantages (padding {LEVEL}). The gate gives each of their chunks three times the standardized format "
        "reward, Divide-Length sums it, and a failure that is rare in its group is many deviations from the mean; "
        f"GRPO(outcome) adds format to the outcome before it standardizes. {_correlated(start, stored.runs)}"
        "RMS is that of the advantages, and a point of pass@1 a hundredth; the last column is what one Adam update "
        "would move at PASS's learning rate, from exact gradients of the start policy "
        "([Mechanism](mechanism.md)), with its 95 % interval."
    )


Start = Mapping[tuple[str, str], Mapping[str, Any]]


def _start(stored: Stored) -> Start:
    """(arm, level) -> what carries its credit over the start policy's rollouts."""
    return {(row["arm"], row["level"]): row for row in stored.credit if row["round"] is None}


def _failed(start: Start) -> float:
    """The share of the start policy's rollouts that fail the format: the same rollouts for every arm."""
    return float(next(iter(start.values()))["failed"])


def _correlated(start: Start, runs: Runs) -> str:
    """How the share goes with the gain, over arms that read the reward model."""
    shares = [
        {"arm": arm, "level": level, "alignment": row["failed_share"]}
        for (arm, level), row in start.items()
        if ARMS[arm].signal == "prm"
    ]
    both = points(shares, runs)
    found = correlation(both)
    if found is None:
        return ""
    return (
        f"Over the {len(both)} arms and levels with a reward model the rank correlation of that share with the gain is "
        f"{found[0]:+.2f} ({found[1]:+.2f} to {found[2]:+.2f}, drawing the {len({one.arm for one in both})} arms, each "
        f"with all its levels). {_teacher(start, runs)}"
    )


def _teacher(start: Start, runs: Runs) -> str:
    """The arm with a teacher that has the largest share: what the share alone does not decide."""
    taught = {key: row for key, row in start.items() if ARMS[key[0]].signal in ("opd", "g_opd") and key in runs}
    if not taught:
        return ""
    arm, level = max(taught, key=lambda key: taught[key]["failed_share"] or 0.0)
    share, gain = taught[arm, level]["failed_share"] or 0.0, np.mean(list(values(runs[arm, level], "gain").values()))
    own, its = _at(start, PASS, LEVEL), at_level(runs, PASS, LEVEL)
    more = own and its and share >= (own["failed_share"] or 0.0) and gain > np.mean(list(values(its, "gain").values()))
    said = "The share alone decides nothing: " if more else ""
    return (
        f"{said}{tables.NAMES[arm]}, whose teacher knows every token, has {100 * share:.0f} % and gains {gain:+.3f}. "
    )


def _table(stored: Stored) -> str:
    credit = {(row["arm"], row["level"], row["round"]): row for row in stored.credit}
    start = {(arm, level): row for (arm, level, number), row in credit.items() if number is None}
    later = sorted({number for *_, number in credit if number is not None})
    drift = {(row["arm"], row["level"]): row for row in stored.drift}
    rows = []
    for arm in PROBED:
        level = LEVEL if ARMS[arm].signal == "prm" else NONE
        own, of = start.get((arm, level)), stored.runs.get((arm, level), {})
        if own is None:
            continue
        shares = [_share(credit.get((arm, level, number))) for number in later]
        rows.append([
            tables.NAMES[arm], tables.cell(values(of, "pass1"), "pass1"), tables.number(own["rms"], ".2f"),
            _share(own), *shares,
            _points(drift.get((arm, level), {}), _rate(stored.runs)),
        ])  # fmt: skip
    heads = [f"round {number}, one seed" for number in later]
    return tables.table(
        ["arm", "pass@1", "RMS", "share of failed format: start", *heads, "points per Adam update"], rows
    )


def _share(row: Mapping[str, Any] | None) -> str:
    """Of an update's squared advantages that of rollouts which fail the format; – where it was not measured."""
    if row is None:
        return "–"
    return tables.number(row["failed_share"], ".2f") if row["failed"] else "none fails"


def _points(row: Mapping[str, Any], rate: float) -> str:
    if row.get("adam_pass1") is None:
        return "–"
    value, low, high = (100 * rate * row[name] for name in ("adam_pass1", "adam_pass1_low", "adam_pass1_high"))
    return f"{value:+.2f} ({low:+.2f} to {high:+.2f})"


def _rate(runs: Runs) -> float:
    """PASS's learning rate: one for every arm, since what an update moves is only linear in small ones."""
    return next(run.lr for (arm, _), of in runs.items() if arm == PASS for run in of.values())


def _tested(runs: Runs) -> str:
    """What training without the format stream gave, where it was run."""
    found = {level: [_without(runs, other, level) for other in (PASS, GRPO)] for level in TASTES}
    said = [
        f"{' and '.join(filter(None, both))} at {level} (seeds: {len(at_level(runs, WITHOUT, level))})"
        for level, both in found.items()
        if any(both)
    ]
    if not said:
        return (
            "So much is measured; that it is the *cause* is not: PASS without the format stream and its gate "
            f"(`{WITHOUT}`) is an arm of the study, and no cell of it has been trained yet. The stored rollouts are of "
            "one seed, and of rounds whose policies are not kept, so gradients of later rounds cannot be looked at."
        )
    return (
        "*The test by training.* PASS without the format stream and its gate, at PASS's learning rate, less PASS and "
        f"less GRPO(outcome), in pass@1 of the same seeds: {'; '.join(said)}. These comparisons were made after the "
        "result above was known, and are no claim of the paper."
    )


def _without(runs: Runs, other: str, level: str) -> str | None:
    """PASS without the format stream less another arm in pass@1 of common seeds, with its interval."""
    differences = paired(values(at_level(runs, WITHOUT, level), "pass1"), values(at_level(runs, other, level), "pass1"))
    return tables.interval(mean_estimate(differences), ".3f") if differences else None


def _at(rows: Start, arm: str, level: str) -> Mapping[str, Any]:
    return rows.get((arm, level)) or rows.get((arm, NONE)) or {}
