"""The paper's claims as comparisons of arms, and what the stored seeds say of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.study.arms import NONE, TASTES
from benchmarks.study.measures import Run, Runs, values
from benchmarks.study.statistics import (
    ERROR,
    Answer,
    Estimate,
    Question,
    Verdict,
    answers,
    detectable,
    joint,
    mean_estimate,
    paired,
)

#: the smallest difference that matters: 2 points of pass@1, 2 tokens of length
MARGINS = {"pass1": 0.02, "length": 2.0, "length_change": 2.0}


@dataclass(frozen=True)
class Comparison:
    """``measure`` of ``first`` minus that of ``second`` (of 0 where None), said to be positive, or to be negative.

    at_least: the claim is only that it is no worse, to within the margin.
    """

    measure: str
    first: str
    second: str | None
    sign: int = 1
    at_least: bool = False


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper; it holds where every part does. levels: of the reward model, or "none"."""

    text: str
    parts: tuple[Comparison, ...]
    levels: tuple[str, ...] = tuple(TASTES)


CLAIMS = (
    Claim("PASS beats GRPO(outcome)", (Comparison("pass1", "pass_k07", "grpo_outcome"),)),
    Claim("PASS beats reward shaping", (Comparison("pass1", "pass_k07", "reward_shaping"),)),
    Claim(
        "without Divide-Length (k = 0) length inflates and accuracy falls",
        (Comparison("length", "pass_k0", "pass_k07"), Comparison("pass1", "pass_k0", "pass_k07", -1)),
    ),
    Claim("without Chunk-by-Value accuracy falls", (Comparison("pass1", "pass_no_cv", "pass_k07", -1),)),
    Claim("k = 0.7 is at least as good as k = 1", (Comparison("pass1", "pass_k07", "pass_k1", at_least=True),)),
    Claim(
        "under OPD the baseline shortens and PASS lengthens",
        (Comparison("length_change", "grpo_opd", None, -1), Comparison("length_change", "pass_opd", None)),
        (NONE,),
    ),
    Claim(
        "under G-OPD the baseline shortens and PASS lengthens",
        (Comparison("length_change", "grpo_gopd", None, -1), Comparison("length_change", "pass_gopd", None)),
        (NONE,),
    ),
)


@dataclass(frozen=True)
class Part:
    """One comparison at one level: the differences' mean (None without a common seed), tests, what could be found.

    p-values and ``detectable`` are corrected for all comparisons of the family.
    """

    comparison: Comparison
    estimate: Estimate | None
    answer: Answer
    detectable: float | None


@dataclass(frozen=True)
class Finding:
    """What is found of one claim at one level."""

    claim: Claim
    level: str
    parts: tuple[Part, ...]
    verdict: Verdict


def findings(runs: Runs, claims: Sequence[Claim] = CLAIMS) -> list[Finding]:
    """Every claim at every level it is made for, corrected as one family."""
    asked = list(_asked(claims))
    differences = [_differences(runs, comparison, level) for _, level, comparison in asked]
    questions = [_question(found, one) for found, (_, _, one) in zip(differences, asked, strict=True)]
    parts = [
        _part(comparison, found, answer, family=len(asked))
        for (_, _, comparison), found, answer in zip(asked, differences, answers(questions), strict=True)
    ]
    found = []
    for claim in claims:
        for level in claim.levels:
            own = tuple(part for (of, at, _), part in zip(asked, parts, strict=True) if of is claim and at == level)
            found.append(Finding(claim, level, own, _verdict(own)))
    return found


def _verdict(parts: Sequence[Part]) -> Verdict:
    """A claim that lacks the cells of a part was not put to the test."""
    if any(part.estimate is None for part in parts):
        return Verdict.NOT_RUN
    return joint([part.answer.verdict for part in parts])


def _asked(claims: Sequence[Claim]) -> Iterator[tuple[Claim, str, Comparison]]:
    for claim in claims:
        for level in claim.levels:
            for comparison in claim.parts:
                yield claim, level, comparison


def _differences(runs: Runs, one: Comparison, level: str) -> list[float]:
    """By seed, as they are (not turned by the claim's sign)."""
    first = values(at_level(runs, one.first, level), one.measure)
    if one.second is None:
        return [first[seed] for seed in sorted(first)]
    return paired(first, values(at_level(runs, one.second, level), one.measure))


def at_level(runs: Runs, arm: str, level: str) -> dict[int, Run]:
    """An arm's cells at a level; an arm without a reward model stands beside every level."""
    return dict(runs.get((arm, level)) or runs.get((arm, NONE)) or {})


def _question(differences: Sequence[float], one: Comparison) -> Question:
    margin = MARGINS[one.measure]
    turned = [one.sign * difference for difference in differences]
    if one.at_least:
        return Question(turned, threshold=-margin, refuted_below=-margin)
    return Question(turned, threshold=0.0, refuted_below=margin)


def _part(comparison: Comparison, differences: Sequence[float], answer: Answer, *, family: int) -> Part:
    if not differences:
        return Part(comparison, None, answer, None)
    estimate = mean_estimate(differences)
    size = None if estimate.deviation is None else detectable(estimate.deviation, estimate.seeds, error=ERROR / family)
    return Part(comparison, estimate, answer, size)
