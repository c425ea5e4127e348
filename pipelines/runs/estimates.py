"""What an evaluation reports of samples that were judged: pass@k, maj@k, and means over prompts with their intervals.

A prompt's samples share its difficulty, so prompts are what is drawn independently: every error here is over prompts
(clustered by prompt), each with the mean of its samples.

Axes: prompts (P), draws of the bootstrap (B), answers of one prompt (A), drawn subsets of its samples (D).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

BOOTSTRAP_RESAMPLES = 2000
COVERED = 0.95
#: of majority_at_k: about half a second's work for a prompt, and the subsets that stand for all where it is more
EXACT_PRODUCTS, DRAWN_SUBSETS = 2**22, 10_000
#: votes held at a time while subsets are drawn
_VOTES_HELD = 2**20


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over prompts, its standard error (bootstrap over prompts), and an interval that holds it in 95 of 100.

    low, high: None in results that were stored before there were intervals, and with fewer than two prompts.
    """

    value: float
    standard_error: float
    low: float | None = None
    high: float | None = None


def pass_at_k(correct_P: NDArray[np.int64], samples: int, k: int) -> NDArray[np.float64]:
    """Unbiased pass@k per prompt: 1 - C(n - c, k) / C(n, k), n samples of which c are correct.

    Chen et al. 2021, "Evaluating Large Language Models Trained on Code" (arXiv 2107.03374), Eq. 1, in its product form,
    which does not overflow.

    >>> pass_at_k(np.array([0, 1, 2]), 2, 1)
    array([0. , 0.5, 1. ])
    """
    i_k = np.arange(k)
    factors_P_k = 1.0 - correct_P[:, None] / (samples - i_k)[None, :]
    missed_P: NDArray[np.float64] = np.prod(np.clip(factors_P_k, 0.0, None), axis=1)
    return 1.0 - missed_P


def majority_at_k(votes_A: Sequence[int], right_A: Sequence[bool], silent: int, k: int) -> float:
    """maj@k of one prompt: the probability that the answer given most often among k of its n samples is right.

    Over all C(n, k) subsets of the n = sum(votes_A) + silent samples: exact where counting them is at most
    EXACT_PRODUCTS multiplications, else the mean of DRAWN_SUBSETS drawn ones, with a standard error of at most 0.005.
    Of answers that are given equally often one is drawn, each alike. A sample without an answer does not vote; a subset
    in which none votes is wrong.

    Answer a wins with v votes, tied with t others, in as many subsets as the coefficient of x^(k-v) y^t says of

        C(votes_a, v) (1 + x)^silent * prod_{b != a} (sum_{i < v} C(votes_b, i) x^i + y C(votes_b, v) x^v)

    and counts 1 / (t + 1) there.

    Args:
        votes_A: samples that gave each answer, at least 1.
        right_A: whether it is right.
        silent: samples without an answer.
        k: samples drawn, at most n.

    >>> majority_at_k([2, 1], [True, False], 0, 3), majority_at_k([1, 1], [True, False], 0, 2)
    (1.0, 0.5)
    """
    if not any(right_A):
        return 0.0
    if all(right_A) and not silent:
        return 1.0
    if k == sum(votes_A) + silent:  # one subset: all samples
        most = max(votes_A)
        tied = [right for votes, right in zip(votes_A, right_A, strict=True) if votes == most]
        return sum(tied) / len(tied)
    if _products(votes_A, right_A, k) > EXACT_PRODUCTS:
        return _drawn_majority(votes_A, right_A, silent, k)
    won = Fraction(0)  # these counts are beyond floats
    for a in (a for a, right in enumerate(right_A) if right):
        others = [votes for b, votes in enumerate(votes_A) if b != a]
        for v in range(1, min(votes_A[a], k) + 1):
            subsets_T = _subsets(others, silent, most=v, size=k - v)
            shares = sum(Fraction(count, tied + 1) for tied, count in enumerate(subsets_T))
            won += math.comb(votes_A[a], v) * shares
    return float(won / math.comb(sum(votes_A) + silent, k))


def _products(votes_A: Sequence[int], right_A: Sequence[bool], k: int) -> int:
    """At most so many multiplications are made by the exact maj@k."""
    work, most_right = 0, max(votes for votes, right in zip(votes_A, right_A, strict=True) if right)
    for v in range(1, min(most_right, k) + 1):
        winners = sum(right and votes >= v for votes, right in zip(votes_A, right_A, strict=True))
        tall = sum(votes >= v for votes in votes_A)
        work += winners * tall * min(tall, (k - v) // v + 1) * (k - v + 1) * v
    return work


def _drawn_majority(votes_A: Sequence[int], right_A: Sequence[bool], silent: int, k: int) -> float:
    """maj@k over drawn subsets; the same ones for the same votes."""
    rng, right = np.random.default_rng(0), np.array(right_A)
    held, won = max(1, _VOTES_HELD // (len(votes_A) + 1)), 0.0
    for start in range(0, DRAWN_SUBSETS, held):
        size = min(held, DRAWN_SUBSETS - start)
        drawn_DA = rng.multivariate_hypergeometric([*votes_A, silent], k, size=size)[:, :-1]
        most_D1 = drawn_DA.max(axis=1, keepdims=True)
        tied_DA = (drawn_DA == most_D1) & (most_D1 > 0)
        won += float(((tied_DA & right).sum(axis=1) / np.maximum(tied_DA.sum(axis=1), 1)).sum())
    return won / DRAWN_SUBSETS


def _subsets(votes_B: Sequence[int], silent: int, *, most: int, size: int) -> list[int]:
    """Subsets of `size` samples in which no answer has more than `most` votes, by how many have exactly that."""
    free = silent + sum(votes for votes in votes_B if votes < most)  # those answers cannot have so many: any samples do
    many = [votes for votes in votes_B if votes >= most]
    if free + most * len(many) < size:
        return []
    counts: list[list[int]] = [[math.comb(free, i) for i in range(size + 1)]]  # [answers tied][samples]
    for votes in many:
        below = [math.comb(votes, i) for i in range(min(most, size + 1))]
        tying = math.comb(votes, most) if most <= size else 0
        after = [_product(row, below, size) for row in counts]
        if tying:
            after.append([0] * (size + 1))
            for tied, row in enumerate(counts):
                for i, count in enumerate(row[: size + 1 - most]):
                    after[tied + 1][i + most] += count * tying
        counts = after
    return [row[size] for row in counts]


def _product(row: Sequence[int], factor: Sequence[int], size: int) -> list[int]:
    """The product of two polynomials, without powers above `size`."""
    product = [0] * (size + 1)
    for i, count in enumerate(row):
        if count:
            for j, times in enumerate(factor[: size + 1 - i]):
                product[i + j] += count * times
    return product


def bootstrap(values_P: NDArray[np.float64], *, seed: int = 0) -> Estimate:
    """The mean over prompts, its bootstrap standard error and percentile interval, resampling whole prompts."""
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(values_P), size=(BOOTSTRAP_RESAMPLES, len(values_P)))
    drawn_B = values_P[picks].mean(axis=1)
    low, high = np.quantile(drawn_B, [(1 - COVERED) / 2, (1 + COVERED) / 2]) if len(values_P) > 1 else (None, None)
    return Estimate(
        value=float(values_P.mean()),
        standard_error=float(drawn_B.std(ddof=1)),
        low=None if low is None else float(low),
        high=None if high is None else float(high),
    )


def estimate(values_P: NDArray[np.float64]) -> Estimate:
    """The mean over prompts of values from 0 to 1, its bootstrap standard error, and Wilson's interval over prompts.

    The interval is Wilson's for a share of n trials, with n = p (1 - p) / s2 and s2 the variance of the mean over
    prompts (a prompt's samples are one cluster), and Student's t of P - 1 in place of the normal quantile. It stays
    within 0 and 1, and is not empty where every prompt failed, as a bootstrap's is. Values beyond 0 and 1 get the
    bootstrap's. Coverage by simulation: docs/how-to/evaluate.md.

    Sources: Wilson 1927; Korn and Graubard 1998 for the effective number of trials of a clustered sample.
    """
    found = bootstrap(values_P)
    if len(values_P) < 2 or not 0 <= values_P.min() <= values_P.max() <= 1:
        return found
    low, high = share_interval(values_P)
    return replace(found, low=low, high=high)


def share_interval(values_P: NDArray[np.float64]) -> tuple[float, float]:
    """Wilson's interval of `estimate`, for at least two prompts."""
    prompts, p = len(values_P), float(values_P.mean())
    variance = float(values_P.var(ddof=1)) / prompts
    trials = p * (1 - p) / variance if variance > 0 else float(prompts)
    quantile = student_t((1 + COVERED) / 2, prompts - 1)
    shrunk = quantile**2 / trials
    middle = (p + shrunk / 2) / (1 + shrunk)
    half = quantile / (1 + shrunk) * math.sqrt(p * (1 - p) / trials + shrunk / (4 * trials))
    return max(0.0, middle - half), min(1.0, middle + half)


def student_t(share: float, freedom: int) -> float:
    """Student's t quantile, by its expansion about the normal one (Abramowitz and Stegun 26.7.5).

    Off by 0.3 % at the 97.5 % point of 4 degrees of freedom, by less above; of 1 to 3 it is too small.

    >>> round(student_t(0.975, 29), 3)
    2.045
    """
    z = NormalDist().inv_cdf(share)
    terms: tuple[float, ...] = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / float(freedom**power) for power, term in enumerate(terms, start=1))
