"""What is measured of step scores against step labels: the first wrong step, and calibration. Arrays in, figures out.

Legend: _S steps, end to end over solutions; _N solutions; _C candidates for a threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CALIBRATION_BINS = 10


@dataclass(frozen=True, kw_only=True)
class FirstErrors:
    """How often the first step that scores below `threshold` is the first wrong one.

    erroneous, correct: solutions with and without a wrong step. found: the share of the erroneous ones whose first
    wrong step is found; passed: the share of the correct ones with no step below. f1: their harmonic mean,
    2 found passed / (found + passed), which ProcessBench ranks by (Zheng et al., arXiv 2412.06559, section 4.1); None
    without solutions of both kinds.
    """

    threshold: float
    erroneous: int
    correct: int
    found: float | None
    passed: float | None
    f1: float | None


@dataclass(frozen=True, kw_only=True)
class ScoreBin:
    """Steps whose score is in (low, high] (the first bin holds low too): how many, mean score, share that is right."""

    low: float
    high: float
    steps: int
    score: float
    right: float


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Whether a score of 0.8 is right in 80 of 100 steps.

    error: the expected calibration error, the mean over steps of |mean score - share right| of the step's bin (Guo et
    al., arXiv 1706.04599), in CALIBRATION_BINS bins of equal width. brier: the mean of (score - label)^2. bins: those
    that hold steps.
    """

    error: float
    brier: float
    bins: list[ScoreBin]


@dataclass(frozen=True, kw_only=True)
class ErrorCases:
    """What decides about the first error of each solution: it is predicted rightly where at < threshold <= before.

    erroneous_N: whether it has a wrong step. at_N: the score of the first wrong one, -inf where there is none.
    before_N: the least score of the steps before it, inf where there is none.
    """

    erroneous_N: NDArray[np.bool_]
    at_N: NDArray[np.float64]
    before_N: NDArray[np.float64]


def error_cases(score_S: NDArray[Any], starts_N: NDArray[np.int64], first_error_N: NDArray[np.int64]) -> ErrorCases:
    """The cases of solutions that begin at starts_N (each of a step or more); first_error_N: -1 for no wrong step."""
    score_S = np.asarray(score_S, np.float64)
    ends_N = np.append(starts_N[1:], len(score_S)).astype(np.int64)
    erroneous_N = first_error_N >= 0
    wrong_N = np.where(erroneous_N, starts_N + first_error_N, ends_N)  # behind the last step to pass
    padded_S = np.append(score_S, -np.inf)
    least_N = [score_S[start:stop].min(initial=np.inf) for start, stop in zip(starts_N, wrong_N, strict=True)]
    return ErrorCases(
        erroneous_N=erroneous_N,
        at_N=np.where(erroneous_N, padded_S[np.where(erroneous_N, wrong_N, len(score_S))], -np.inf),
        before_N=np.asarray(least_N, np.float64),
    )


def first_errors(cases: ErrorCases, threshold: float) -> FirstErrors:
    """The figures at one threshold: a step that scores below it is called wrong."""
    matched_N = (cases.at_N < threshold) & (threshold <= cases.before_N)
    erroneous, correct = int(cases.erroneous_N.sum()), int((~cases.erroneous_N).sum())
    found = float(matched_N[cases.erroneous_N].mean()) if erroneous else None
    passed = float(matched_N[~cases.erroneous_N].mean()) if correct else None
    f1 = None
    if found is not None and passed is not None:
        f1 = 2 * found * passed / (found + passed) if found + passed > 0 else 0.0
    return FirstErrors(
        threshold=threshold, erroneous=erroneous, correct=correct, found=found, passed=passed, f1=f1
    )  # fmt: skip


def best_first_errors(cases: ErrorCases) -> FirstErrors | None:
    """The figures at the threshold with the highest F1, the lowest such; None without solutions of both kinds.

    Between two neighbouring scores nothing changes, so each score, and what is just above the highest, is tried.
    """
    if cases.erroneous_N.all() or not cases.erroneous_N.any():
        return None
    scores = np.concatenate([cases.at_N, cases.before_N])
    scores = np.unique(scores[np.isfinite(scores)])
    candidates_C = np.append(scores, np.nextafter(scores[-1], np.inf))
    found_C, passed_C = (_matched(cases, candidates_C, kind_N) for kind_N in (cases.erroneous_N, ~cases.erroneous_N))
    total_C = np.maximum(found_C + passed_C, np.finfo(float).tiny)
    best = int(np.argmax(found_C * passed_C / total_C))
    return first_errors(cases, float(candidates_C[best]))


def _matched(cases: ErrorCases, candidates_C: NDArray[np.float64], kind_N: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The share of the solutions of a kind that each threshold predicts rightly."""
    can_N = kind_N & (cases.at_N < cases.before_N)  # of these, whoever has before < threshold has at < threshold
    below_C = np.searchsorted(np.sort(cases.at_N[can_N]), candidates_C, side="left")
    failed_C = np.searchsorted(np.sort(cases.before_N[can_N]), candidates_C, side="left")
    return np.asarray((below_C - failed_C) / max(int(kind_N.sum()), 1), np.float64)


def calibration(score_S: NDArray[Any], right_S: NDArray[np.bool_]) -> Calibration | None:
    """The calibration of scores of steps labelled right or wrong; None without any, or with one outside 0 to 1."""
    score_S = np.asarray(score_S, np.float64)
    if len(score_S) == 0 or score_S.min() < 0.0 or score_S.max() > 1.0:
        return None
    edges = np.linspace(0.0, 1.0, CALIBRATION_BINS + 1)
    bin_S = np.searchsorted(edges[1:-1], score_S, side="left")
    bins = [
        ScoreBin(
            low=float(edges[number]),
            high=float(edges[number + 1]),
            steps=int(mask_S.sum()),
            score=float(score_S[mask_S].mean()),
            right=float(right_S[mask_S].mean()),
        )
        for number in range(CALIBRATION_BINS)
        if (mask_S := bin_S == number).any()
    ]
    return Calibration(
        error=sum(one.steps * abs(one.score - one.right) for one in bins) / len(score_S),
        brier=float(np.mean((score_S - right_S) ** 2)),
        bins=bins,
    )
