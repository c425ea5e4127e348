"""Divide-Length, DL (paper Eq. 7, Alg. 3): from chunk credits a_1..a_K to chunk advantages and a path score.

    G_j = a_j + ... + a_K        A_DL(j) = G_j / (K - j + 1)^k        S(o) = G_1 / K^k

k = 0 is the plain return-to-go, k = 1 the average of what is still to come. The other way to credit chunks,
`grpo_process` (Eq. 1-3), is the return-to-go of standardized scores itself.
"""

from __future__ import annotations

import numpy as np

from pass_ops.fusion import Fusion
from pass_ops.jit import kernel

POWERS = 65536
# The least double that float32 rounds to infinity: halfway from its largest value to the next power of two.
BEYOND_FLOAT32 = 3.4028235677973366e38


def inverse_powers(k: float, *, longest: int) -> np.ndarray:
    """1 / n^k for n = 0..min(longest, POWERS), float64; entry 0 is never used."""
    n = np.arange(min(longest, POWERS) + 1, dtype=np.float64)
    n[0] = 1.0
    return n**-k


@kernel
def divide_length(
    first_G: int,
    last_G: int,
    starts_G1: np.ndarray,
    trainable_R: np.ndarray,
    fusion: Fusion,
    center_G: np.ndarray,
    scale_G: np.ndarray,
    k: float,
    powers: np.ndarray,
    counts_R: np.ndarray,
    cursor: int,
    credits_K: np.ndarray,
    advantages_K: np.ndarray,
    path_R: np.ndarray,
) -> int:
    """Turn the raw scores in credits_K into credits, in place, and fill advantages_K and path_R.

    Returns:
        -1, or the first row with a value beyond float32.
    """
    for g in range(first_G, last_G):
        inverse_scale = 1.0 / scale_G[g]
        for r in range(starts_G1[g], starts_G1[g + 1]):
            count = counts_R[r]
            credits = credits_K[cursor : cursor + count]
            advantages = advantages_K[cursor : cursor + count]
            cursor += count
            if not trainable_R[r]:
                credits[:] = 0.0
                advantages[:] = 0.0
                continue
            add, slope, base = fusion.add_R[r], fusion.slope_R[r] * inverse_scale, fusion.base_R[r]
            total = path = 0.0
            fits = True
            for j in range(count):
                last = count - 1 - j
                credit = slope * (fusion.weight * credits[last] + add - center_G[g]) + base
                total += credit
                inverse = powers[j + 1] if j + 1 < len(powers) else (j + 1.0) ** -k
                path = total * inverse
                fits &= abs(credit) < BEYOND_FLOAT32 and abs(path) < BEYOND_FLOAT32
                credits[last] = credit
                advantages[last] = path
            if not fits:
                return r
            path_R[r] = path
    return -1


@kernel
def return_to_go(
    first_G: int,
    last_G: int,
    starts_G1: np.ndarray,
    trainable_R: np.ndarray,
    weight: float,
    tail_weights: np.ndarray,
    tail_R: np.ndarray,
    center_G: np.ndarray,
    scale_G: np.ndarray,
    counts_R: np.ndarray,
    cursor: int,
    working: np.ndarray,
    ends_K: np.ndarray,
    credits_K: np.ndarray,
    advantages_K: np.ndarray,
) -> tuple[int, int]:
    """`grpo_process`: A = what lies at or after a token. tail_R (shape [streams, R]: outcome, format) lies at the last.

    Takes one chunk per live element, raw scores in credits_K, and merges neighbours of equal advantage; ends_K,
    credits_K and counts_R shrink in place. `working` holds the float64 advantages of one row.

    Returns:
        (cursor behind the merged chunks, -1 or the first row with a value beyond float32).
    """
    written = cursor
    for g in range(first_G, last_G):
        for r in range(starts_G1[g], starts_G1[g + 1]):
            count = counts_R[r]
            if trainable_R[r]:
                total = 0.0
                for stream in range(len(tail_weights)):
                    total += tail_weights[stream] * ((tail_R[stream, r] - center_G[g]) / scale_G[g])
                for j in range(count - 1, -1, -1):
                    total += weight * ((credits_K[cursor + j] - center_G[g]) / scale_G[g])
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
