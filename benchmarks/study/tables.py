"""The report's tables in Markdown, in the paper's order: results, ablations beside them, lengths, entropy and teacher.

A cell is a mean over seeds and half its 95 % interval; without an interval (one seed) the mean alone; "–" where nothing
was measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from benchmarks.study.arms import ARMS, NONE, TASTES
from benchmarks.study.claims import MARGINS, Finding, Part
from benchmarks.study.measures import Run, Runs, values
from benchmarks.study.statistics import Estimate, Verdict, mean_estimate, paired

NAMES = {
    "grpo_outcome": "GRPO(outcome)",
    "pass_k07": "PASS",
    "grpo_process": "GRPO(process)",
    "reward_shaping": "reward shaping",
    "pass_k0": "PASS, k = 0",
    "pass_k1": "PASS, k = 1",
    "pass_no_cv": "PASS without CV",
    "grpo_opd": "GRPO(+OPD)",
    "pass_opd": "PASS+OPD",
    "grpo_gopd": "GRPO(+G-OPD)",
    "pass_gopd": "PASS+G-OPD",
    "pass_no_format": "PASS without format",
    "pass_k03": "PASS, k = 0.3",
    "pass_k05": "PASS, k = 0.5",
    "pass_absmax": "PASS+OPD, abs_max",
    "prime": "PRIME",
    "pure": "PURE",
    "papo": "PAPO",
    "verigate": "VeriGate",
    "gdpo": "GDPO",
}
#: measures that may be shown: heading and format
MEASURES = {
    "pass1": ("pass@1", ".3f"),
    "pass8": ("pass@8", ".3f"),
    "area": ("mean pass@1 over the run", ".3f"),
    "area_tokens": ("the same over equal tokens", ".3f"),
    "gain_per_token": ("pass@1 gained a million tokens", "+.3f"),
    "length": ("tokens", ".1f"),
    "truncated": ("truncated", ".3f"),
    "steps": ("steps", ".1f"),
    "padding": ("padding steps", ".2f"),
    "chunks": ("chunks", ".1f"),
    "entropy": ("entropy, nats a token", ".3f"),
    "teacher_kl": ("KL to the teacher, nats a token", ".3f"),
    "kl_rollout": ("nats a rollout", ".2f"),
    "greedy": ("greedy", ".3f"),
    "low_temperature": ("T = 0.3", ".3f"),
    "tokens": ("tokens generated", ",.0f"),
    "length_change": ("length less the start's", "+.1f"),
}
RESULTS = ("pass1", "pass8", "area", "length", "truncated")
CREDIT = ("chunks", "steps", "padding", "entropy", "teacher_kl", "kl_rollout")
TOKENS = ("tokens", "area_tokens", "gain_per_token")
SHARPENING = ("pass1", "low_temperature", "greedy")
EMPTY = "No cell is finished yet."
#: arms without a reward model that stand beside every level
BESIDE = tuple(name for name, arm in ARMS.items() if arm.signal == "none")


def arms_at(runs: Runs, level: str) -> dict[str, Mapping[int, Run]]:
    """The arms that have cells at a level, in the study's order; with a reward model's levels those without one too."""
    found = {}
    for arm in ARMS:
        own = runs.get((arm, level)) or (runs.get((arm, NONE)) if level in TASTES and arm in BESIDE else None)
        if own:
            found[arm] = own
    return found


def measures_table(runs: Runs, level: str, measures: Sequence[str]) -> str:
    """One row an arm, the start policy's first."""
    arms = arms_at(runs, level)
    rows = [
        [NAMES[arm], str(len(of)), *(cell(values(of, name), name) for name in measures)] for arm, of in arms.items()
    ]
    start = next((run for of in arms.values() for run in of.values()), None)
    if start is not None:
        rows.insert(0, ["start", "", *(number(start.start.get(name), MEASURES[name][1]) for name in measures)])
    return table(["arm", "seeds", *(MEASURES[name][0] for name in measures)], rows)


def differences_table(runs: Runs, level: str, *, reference: str, measures: Sequence[str]) -> str:
    """Each arm less the reference arm, paired by seed, with the 95 % interval; not corrected for their number."""
    arms = arms_at(runs, level)
    rows = [
        [NAMES[arm], *(_difference(of, arms[reference], name) for name in measures)]
        for arm, of in arms.items()
        if reference in arms and arm != reference
    ]
    return table([f"less {NAMES[reference]}", *(MEASURES[name][0] for name in measures)], rows)


def claims_table(findings: Sequence[Finding]) -> str:
    """Claim by level: the verdict."""
    levels = (*TASTES, NONE)
    by_claim: dict[str, dict[str, Verdict]] = {}
    for one in findings:
        by_claim.setdefault(one.claim.text, {})[one.level] = one.verdict
    rows = [[text, *(str(found.get(level, "")) for level in levels)] for text, found in by_claim.items()]
    return table(["claim", *(f"padding: {level}" for level in TASTES), "no reward model"], rows)


def parts_table(findings: Sequence[Finding]) -> str:
    """Every comparison: what was measured, how surely, and what could have been."""
    rows = [
        [
            one.claim.text,
            one.level,
            _comparison(part),
            "0" if part.estimate is None else str(part.estimate.seeds),
            "–" if part.estimate is None else interval(part.estimate, MEASURES[part.comparison.measure][1]),
            number(part.detectable, MEASURES[part.comparison.measure][1].lstrip("+")),
            f"{part.answer.p_for:.2g}",
            f"{part.answer.p_against:.2g}",
            str(Verdict.NOT_RUN if part.estimate is None else part.answer.verdict),
        ]
        for one in findings
        for part in one.parts
    ]
    head = ["claim", "level", "comparison", "seeds", "difference", "detectable", "p for", "p against", "verdict"]
    return table(head, rows)


def detectable_table(findings: Sequence[Finding]) -> str:
    """What each comparison could have found, before what it found."""
    rows = []
    for one in findings:
        for part in one.parts:
            name, estimate = part.comparison.measure, part.estimate
            form = MEASURES[name][1].lstrip("+")
            deviation = None if estimate is None else estimate.deviation
            seeds = "0" if estimate is None else str(estimate.seeds)
            rows.append([_comparison(part), one.level, seeds, number(deviation, form), number(part.detectable, form),
                         number(MARGINS[name], form)])  # fmt: skip
    head = ["comparison", "level", "seeds", "deviation between seeds", "detectable", "smallest that matters"]
    return table(head, rows)


def cell(found: Mapping[int, float], measure: str) -> str:
    """Mean and half interval over seeds."""
    if not found:
        return "–"
    form = MEASURES[measure][1]
    estimate = mean_estimate(list(found.values()))
    half = "" if estimate.high is None else f" ± {format(estimate.high - estimate.value, form.lstrip('+'))}"
    return format(estimate.value, form) + half


def interval(estimate: Estimate, form: str) -> str:
    """A signed mean with its interval."""
    signed = f"+{form.lstrip('+')}"
    if estimate.low is None or estimate.high is None:
        return format(estimate.value, signed)
    return f"{format(estimate.value, signed)} ({format(estimate.low, signed)} to {format(estimate.high, signed)})"


def number(value: float | None, form: str) -> str:
    """A number, or a dash."""
    return "–" if value is None else format(value, form)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str = EMPTY) -> str:
    """A Markdown table; without rows a sentence."""
    if not rows:
        return empty
    return "\n".join(_lines(head, rows))


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(row)} |"


def _difference(first: Mapping[int, Run], second: Mapping[int, Run], measure: str) -> str:
    found = paired(values(first, measure), values(second, measure))
    return interval(mean_estimate(found), MEASURES[measure][1]) if found else "–"


def _comparison(part: Part) -> str:
    one = part.comparison
    what = "length" if one.measure.startswith("length") else MEASURES[one.measure][0]
    second = "start" if one.second is None else NAMES[one.second]
    return f"{what}: {NAMES[one.first]} less {second}"
