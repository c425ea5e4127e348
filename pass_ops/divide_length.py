"""Divide-Length, DL (paper Eq. 7, Alg. 3): from chunk credits a_1..a_K to chunk advantages and a path score.

    G_j = a_j + ... + a_K        A_DL(j) = G_j / (K - j + 1)^k        S(o) = G_1 / K^k

k = 0 is the plain return-to-go, k = 1 the average of what is still to come. The other way to credit chunks,
`grpo_process` (Eq. 1-3), is the return-to-go of standardized scores itself.
"""

from __future__ import annotations

import numpy as np

from pass_ops.fusion import Fusion
from pass_ops.jit import kernel
from pass_ops.ragged import Array

# The least double that float32 rounds to infinity: halfway from its largest value to the next power of two.
BEYOND_FLOAT32 = 3.4028235677973366e38


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
    counts_R: Array,
    working: Array,
    scores_K: Array,
    credits_K: Array,
    advantages_K: Array,
    path_R: Array,
) -> int:
    """Fill credits_K, advantages_K and path_R from the raw scores of the chunks of a block of groups.

    `powers` are `inverse_powers`; `working` is room for one row.

    Returns:
        -1, or the first row with a value beyond float32.
    """
    cursor = 0
    for g in range(first_G, last_G):
        inverse_scale = 1.0 / scale_G[g]
        for r in range(starts_G1[g], starts_G1[g + 1]):
            count = counts_R[r]
            scores = scores_K[cursor : cursor + count]
            credits = credits_K[cursor : cursor + count]
            advantages = advantages_K[cursor : cursor + count]
            cursor += count
            if not trainable_R[r]:
                credits[:] = 0.0
                advantages[:] = 0.0
                continue
            slope = fusion.slope_R[r] * inverse_scale
            beyond = _credit(
                scores, fusion.weight, fusion.add_R[r], center_G[g], slope, fusion.base_R[r], working, credits
            )
            beyond |= _divide(working, powers[len(powers) - count :], advantages)
            if beyond:
                return r
            path_R[r] = advantages[0]
    return -1


@kernel
def _credit(
    scores: Array, weight: float, add: float, center: float, slope: float, base: float, working: Array, credits: Array
) -> bool:
    beyond = False
    for j in range(len(scores)):
        credit = slope * (weight * scores[j] + add - center) + base
        working[j] = credit
        credits[j] = credit
        beyond |= not abs(credit) < BEYOND_FLOAT32
    return beyond


@kernel
def _divide(working: Array, powers: Array, advantages: Array) -> bool:
    beyond = False
    total = 0.0
    for j in range(len(advantages) - 1, -1, -1):
        total += working[j]
        working[j] = total
    for j in range(len(advantages)):
        advantage = working[j] * powers[j]
        advantages[j] = advantage
        beyond |= not abs(advantage) < BEYOND_FLOAT32
    return beyond


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
    counts_R: Array,
    working: Array,
    scores_K: Array,
    ends_K: Array,
    credits_K: Array,
    advantages_K: Array,
) -> tuple[int, int]:
    """`grpo_process`: A = what lies at or after a token. tail_R (shape [streams, R]: outcome, format) lies at the last.

    Takes one chunk per live element, with its raw score, and merges neighbours of equal advantage: ends_K and counts_R
    shrink in place. `working` is room for one row.

    Returns:
        (number of merged chunks, -1 or the first row with a value beyond float32).
    """
    cursor = written = 0
    for g in range(first_G, last_G):
        for r in range(starts_G1[g], starts_G1[g + 1]):
            count = counts_R[r]
            if trainable_R[r]:
                total = 0.0
                for stream in range(len(tail_weights)):
                    total += tail_weights[stream] * ((tail_R[stream, r] - center_G[g]) / scale_G[g])
                for j in range(count - 1, -1, -1):
                    total += weight * ((scores_K[cursor + j] - center_G[g]) / scale_G[g])
                    working[j] = total
                    if not abs(total) < BEYOND_FLOAT32:
                        return written, r
            else:
                working[:count] = 0.0
            begin = written
            for j in range(count):
                if j > 0 and working[j] == working[j - 1]:
                    written -= 1
                ends_K[written] = ends_K[cursor + j]
                credits_K[written] = working[j]
                advantages_K[written] = working[j]
                written += 1
            counts_R[r] = written - begin
            cursor += count
    return written, -1
