"""The difference of two means over prompts, paired where the prompts are the same.

Axes: prompts (P), draws of the bootstrap (B).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.inspect.resample import draws, interval

#: prompts from which on a difference is told with an interval
FEWEST = 2
#: signs drawn for a p-value; with fewer prompts than this many bits all of them are gone through
FLIPS, BITS = 10_000, 13
_DRAWN_AT_ONCE = 1 << 20  # bounds memory


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Of two runs, A and B, in one number.

    a, b: the means over prompts. difference: b - a. standard_error, low, high: of the difference, by the bootstrap over
    prompts (low and high enclose 95 % of the draws); None with fewer than two prompts. paired: over the `prompts` that
    both have, each drawn for both at once; otherwise each run's own are drawn apart, and `prompts` counts both. p: of a
    difference as large if the runs were alike, where it is paired (`sign_flip`); of this comparison alone, so that the
    smallest of ten is no evidence by itself.
    """

    a: float
    b: float
    difference: float
    standard_error: float | None
    low: float | None
    high: float | None
    prompts: int
    paired: bool
    p: float | None = None


def difference(a: Mapping[str, float], b: Mapping[str, float], *, same: Collection[str]) -> Difference | None:
    """The difference of the means of two runs' values by prompt id; None where a run has none.

    same: ids of prompts with the same content in both runs; over those with values on both sides the comparison is
    paired, and over nothing else. Without any, it is that of two independent samples.

    >>> found = difference({"p": 0.0, "q": 1.0}, {"p": 0.5, "q": 1.5}, same={"p", "q"})
    >>> found.difference, found.standard_error, found.paired
    (0.5, 0.0, True)
    """
    if not a or not b:
        return None
    shared = sorted(set(same) & a.keys() & b.keys())
    if shared:
        a_P, b_P = (np.array([values[name] for name in shared], np.float64) for values in (a, b))
        drawn_B = _means(b_P - a_P, seed=0)
        fewest = count = len(shared)
    else:
        a_P, b_P = (np.array(list(values.values()), np.float64) for values in (a, b))
        drawn_B = _means(b_P, seed=0) - _means(a_P, seed=1)
        fewest, count = min(len(a_P), len(b_P)), len(a_P) + len(b_P)
    value = float(b_P.mean() - a_P.mean())
    known = fewest >= FEWEST
    estimate = interval(value, drawn_B if known else drawn_B[:0])
    return Difference(
        a=float(a_P.mean()),
        b=float(b_P.mean()),
        difference=value,
        standard_error=float(drawn_B.std(ddof=1)) if known else None,
        low=estimate.low,
        high=estimate.high,
        prompts=count,
        paired=bool(shared),
        p=sign_flip(b_P - a_P) if shared and known else None,
    )


def sign_flip(difference_P: NDArray[np.float64], *, seed: int = 0) -> float:
    """Two-sided p-value of the paired permutation test: how often the mean is as far from 0 with random signs.

    Were the two alike, a prompt's difference could as well have had the other sign (Fisher 1935, section 21). All 2^P
    signs for P < 13 prompts that differ, else 10,000 drawn ones and the one observed. Prompts without a difference
    change nothing and are left out.

    >>> sign_flip(np.array([1.0, 1.0, 1.0, 0.0]))
    0.25
    """
    difference_P = difference_P[difference_P != 0]
    prompts = len(difference_P)
    observed = abs(float(difference_P.sum())) * (1 - 1e-12)  # sums in another order differ in the last bits
    if prompts < BITS:
        bits = np.arange(2**prompts)[:, None] >> np.arange(prompts) & 1
        return float(np.mean(np.abs((2.0 * bits - 1.0) @ difference_P) >= observed))
    generator = np.random.default_rng(seed)
    as_far, at_once = 1, max(1, _DRAWN_AT_ONCE // prompts)
    for first in range(0, FLIPS, at_once):
        bits = generator.integers(2, size=(min(at_once, FLIPS - first), prompts), dtype=np.int8)
        as_far += int(np.count_nonzero(np.abs((2.0 * bits - 1.0) @ difference_P) >= observed))
    return as_far / (FLIPS + 1)


def _means(value_P: NDArray[np.float64], *, seed: int) -> NDArray[np.float64]:
    """The mean of each draw of the prompts [B]."""
    means_B: NDArray[np.float64] = draws(value_P[:, None], seed=seed)[:, 0] / len(value_P)
    return means_B
