"""Divide-Length, DL (paper Eq. 7, Alg. 3): from chunk credits a_1..a_K to chunk advantages and a path score.

    G_j = a_j + ... + a_K        A_DL(j) = G_j / (K - j + 1)^k        S(o) = G_1 / K^k

k = 0 is the plain return-to-go, k = 1 the average of what is still to come. The other way to credit chunks,
`grpo_process` (Eq. 1-3), is the return-to-go of standardized scores itself.
"""

from __future__ import annotations

import numpy as np

from pass_ops.fusion import Fusion
from pass_ops.reading.ragged import Array
from pass_ops.support.jit import kernel, part


def inverse_powers(k: float, *, longest: int) -> Array:
    """1 / n^k for n = longest, ..., 2, 1 (float64): a row of K chunks reads the last K values."""
    return np.arange(longest, 0, -1, dtype=np.float64) ** -k


@kernel
def divide_length(
    first_G: int,
    last_G: int,
    starts_G1: Array,
    trainable_R: Array,
    fusion: Fusion,
    center_G: Array,
    scale_G: Array,
    powers: Array,
    chunks_R1: Array,
    working: Array,
    scores_K: Array,
    credits_K: Array,
    advantages_K: Array,
    path_R: Array,
) -> None:
    """Fill credits_K, advantages_K and path_R from the raw scores of the chunks of a block of groups.

    `powers` are `inverse_powers`; `working` is room for one row. scores_K and advantages_K may be the same memory.
    """
    for g in range(first_G, last_G):
        inverse_scale = 1.0 / scale_G[g]
        for r in range(starts_G1[g], starts_G1[g + 1]):
            start, stop = chunks_R1[r], chunks_R1[r + 1]
            if not trainable_R[r]:
                credits_K[start:stop] = 0.0
                advantages_K[start:stop] = 0.0
                path_R[r] = np.nan
                continue
            slope = fusion.slope_R[r] * inverse_scale
            _credit(
                scores_K[start:stop], fusion.weight, fusion.add_R[r], center_G[g], slope, fusion.base_R[r], working,
                credits_K[start:stop],
            )  # fmt: skip
            _divide(working, powers[len(powers) - (stop - start) :], advantages_K[start:stop])
            path_R[r] = advantages_K[start]


@part
def _credit(
    scores: Array, weight: float, add: float, center: float, slope: float, base: float, working: Array, credits: Array
) -> None:
    for j in range(len(scores)):
        credit = slope * (weight * scores[j] + add - center) + base
        working[j] = credit
        credits[j] = credit


@part
def _divide(working: Array, powers: Array, advantages: Array) -> None:
    total = 0.0
    for j in range(len(advantages) - 1, -1, -1):
        total += working[j]
        working[j] = total
    for j in range(len(advantages)):
        advantages[j] = working[j] * powers[j]


@kernel
def first_beyond_float32(first_R: int, last_R: int, chunks_R1: Array, credits_K: Array, advantages_K: Array) -> int:
    """The first row with a value that float32 cannot hold, or -1: such a value was stored as infinity or NaN."""
    within = 0
    start, stop = chunks_R1[first_R], chunks_R1[last_R]
    for values in (credits_K[start:stop], advantages_K[start:stop]):
        for n in range(len(values)):
            within += abs(values[n]) < np.inf
    if within == 2 * (stop - start):
        return -1
    for r in range(first_R, last_R):
        for n in range(chunks_R1[r], chunks_R1[r + 1]):
            if not (abs(credits_K[n]) < np.inf and abs(advantages_K[n]) < np.inf):
                return r
    return -1


@kernel
def return_to_go(
    first_G: int,
    last_G: int,
    starts_G1: Array,
    trainable_R: Array,
    weight: float,
    tail_weights: Array,
    tail_R: Array,
    center_G: Array,
    scale_G: Array,
    chunks_R1: Array,
    working: Array,
    scores_K: Array,
    ends_K: Array,
    credits_K: Array,
    advantages_K: Array,
) -> None:
    """`grpo_process`: A = the sum of all scores at or after a token.

    tail_R (shape [streams, R]: outcome, format) stands at the last token.

    Takes one chunk per live element, with its raw score, and merges neighbours of equal advantage: ends_K shrinks in
    place and chunks_R1 with it. `working` is room for one row. scores_K and advantages_K may be the same memory.
    """
    written = chunks_R1[starts_G1[first_G]]
    stop = written
    for g in range(first_G, last_G):
        for r in range(starts_G1[g], starts_G1[g + 1]):
            start, stop = stop, chunks_R1[r + 1]
            count = stop - start
            if trainable_R[r]:
                total = 0.0
                for stream in range(len(tail_weights)):
                    total += tail_weights[stream] * ((tail_R[stream, r] - center_G[g]) / scale_G[g])
                for j in range(count - 1, -1, -1):
                    total += weight * ((scores_K[start + j] - center_G[g]) / scale_G[g])
                    working[j] = total
            else:
                working[:count] = 0.0
            for j in range(count):
                if j > 0 and working[j] == working[j - 1]:
                    written -= 1
                ends_K[written] = ends_K[start + j]
                credits_K[written] = working[j]
                advantages_K[written] = working[j]
                written += 1
            chunks_R1[r + 1] = written
