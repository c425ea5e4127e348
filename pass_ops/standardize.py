"""Group standardization N(x; S) (paper Sec. 3.1 and App. D): S is one pooled set of one group's values.

    masked_norm   (x - mean(S)) / (std(S) + eps); 0 where |S| = 1 or all of S is equal
    abs_max       x / max(abs(S)); 0 where that is 0
    mean_only     x - mean(S)                     (Dr. GRPO)
    none          x

Every operator is (x - center) / scale, so a pool is reduced to (center, scale); an infinite scale says "the result
is 0". Sums run in float64 around the pool's first value, in row order, in eight fixed lanes: a value's place in its
row decides its lane, so the result does not depend on where the row lies in memory.
"""

from __future__ import annotations

import math

import numpy as np

from pass_ops.config import Operator
from pass_ops.jit import kernel
from pass_ops.ragged import Elements

NONE, MEAN_ONLY, MASKED_NORM, ABS_MAX = range(4)
OPERATOR_CODES: dict[Operator, int] = {
    "none": NONE,
    "mean_only": MEAN_ONLY,
    "masked_norm": MASKED_NORM,
    "abs_max": ABS_MAX,
}
FINE = -1  # what a kernel returns where it found nothing wrong


@kernel
def center_and_scale(
    operator: int, count: int, shift: float, moments: tuple[float, float, float], ddof: int, eps: float
):  # type: ignore[no-untyped-def]
    """(center, scale) of a pool of `count` values with moments (sum(d), sum(d * d), max(abs(x))), d = x - shift."""
    total, squares, largest = moments
    if count == 0 or operator == NONE:
        return 0.0, 1.0
    mean = total / count
    if operator == MEAN_ONLY:
        return shift + mean, 1.0
    if operator == ABS_MAX:
        return 0.0, largest if largest > 0.0 else math.inf
    if count == 1 or squares == 0.0:
        return shift + mean, math.inf
    variance = (squares - total * mean) / (count - ddof)
    return shift + mean, math.sqrt(max(variance, 0.0)) + eps


@kernel
def group_statistics(
    first_G: int,
    last_G: int,
    starts_G1: np.ndarray,
    used_R: np.ndarray,
    read_R: np.ndarray,
    pooled: bool,
    elements: Elements,
    weight: float,
    add_R: np.ndarray,
    joined_R: np.ndarray,
    operator: int,
    ddof: int,
    eps: float,
    center_G: np.ndarray,
    scale_G: np.ndarray,
) -> int:
    """Fill center_G and scale_G for the pools { weight * s + add_R[r] : s a live element of a used row r of g }.

    joined_R (shape [streams, R]) holds further values, one a row, that belong to the same pool (`grpo_process`).
    Rows with read_R but not used_R, and all where `pooled` is False, are only searched for NaN and infinity.

    Returns:
        FINE, or the row that has a value or sum that is not finite.
    """
    for g in range(first_G, last_G):
        count = 0
        shift, total, squares, largest = 0.0, 0.0, 0.0, 0.0
        for r in range(starts_G1[g], starts_G1[g + 1]):
            if read_R[r] and elements.count_R[r] > 0:
                add = add_R[r]
                row_shift = shift if count > 0 else weight * _first_live(elements, r) + add
                moments = _row_moments(elements, r, weight, add, row_shift, operator)
                if not (math.isfinite(moments[0]) and math.isfinite(moments[1])):
                    return r
                if pooled and used_R[r]:
                    shift = row_shift
                    count += elements.count_R[r]
                    total += moments[0]
                    squares += moments[1]
                    largest = max(largest, moments[2])
            if used_R[r]:
                for stream in range(joined_R.shape[0]):
                    value = joined_R[stream, r]
                    shift = shift if count > 0 else value
                    count += 1
                    total += value - shift
                    squares += (value - shift) * (value - shift)
                    largest = max(largest, abs(value))
        if not (math.isfinite(total) and math.isfinite(squares)):
            return starts_G1[g]
        center_G[g], scale_G[g] = center_and_scale(operator, count, shift, (total, squares, largest), ddof, eps)
    return FINE


@kernel
def standardize_rows(
    starts_G1: np.ndarray, used_R: np.ndarray, x_R: np.ndarray, operator: int, ddof: int, eps: float, out_R: np.ndarray
) -> int:
    """out_R = N(x_R; x of the used rows of the same group); other rows are left alone.

    Returns:
        FINE, or a row of a group whose sums are not finite.
    """
    for g in range(len(starts_G1) - 1):
        count = 0
        shift, total, squares, largest = 0.0, 0.0, 0.0, 0.0
        for r in range(starts_G1[g], starts_G1[g + 1]):
            if used_R[r]:
                shift = shift if count > 0 else x_R[r]
                count += 1
                total += x_R[r] - shift
                squares += (x_R[r] - shift) * (x_R[r] - shift)
                largest = max(largest, abs(x_R[r]))
        if not (math.isfinite(total) and math.isfinite(squares)):
            return starts_G1[g]
        center, scale = center_and_scale(operator, count, shift, (total, squares, largest), ddof, eps)
        for r in range(starts_G1[g], starts_G1[g + 1]):
            if used_R[r]:
                out_R[r] = (x_R[r] - center) / scale + 0.0
    return FINE


@kernel
def _first_live(elements, r):  # type: ignore[no-untyped-def]
    start = elements.starts_R1[r]
    length = elements.live_starts_R1[r + 1] - elements.live_starts_R1[r]
    if elements.count_R[r] == length:
        return np.float64(elements.values[start])
    live_start = elements.live_starts_R1[r] - elements.live_base
    e = 0
    while elements.live_E[live_start + e] == 0:
        e += 1
    return np.float64(elements.values[start + e])


@kernel
def _row_moments(elements, r, weight, add, shift, operator):  # type: ignore[no-untyped-def]
    start = elements.starts_R1[r]
    length = elements.live_starts_R1[r + 1] - elements.live_starts_R1[r]
    values = elements.values[start : start + length]
    if elements.count_R[r] == length:
        if operator == MASKED_NORM or operator == MEAN_ONLY:
            return _moments(values, weight, add, shift)
        return _extremes(values, weight, add)
    live_start = elements.live_starts_R1[r] - elements.live_base
    live = elements.live_E[live_start : live_start + length]
    if operator == MASKED_NORM or operator == MEAN_ONLY:
        return _masked_moments(values, live, weight, add, shift)
    return _masked_extremes(values, live, weight, add)


@kernel
def _moments(values, weight, add, shift):  # type: ignore[no-untyped-def]
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = 0.0
    q0 = q1 = q2 = q3 = q4 = q5 = q6 = q7 = 0.0
    whole = len(values) // 8
    for i in range(whole):
        v = values[8 * i : 8 * i + 8]
        d0, d1 = weight * v[0] + add - shift, weight * v[1] + add - shift
        d2, d3 = weight * v[2] + add - shift, weight * v[3] + add - shift
        d4, d5 = weight * v[4] + add - shift, weight * v[5] + add - shift
        d6, d7 = weight * v[6] + add - shift, weight * v[7] + add - shift
        s0, s1, s2, s3 = s0 + d0, s1 + d1, s2 + d2, s3 + d3
        s4, s5, s6, s7 = s4 + d4, s5 + d5, s6 + d6, s7 + d7
        q0, q1, q2, q3 = q0 + d0 * d0, q1 + d1 * d1, q2 + d2 * d2, q3 + d3 * d3
        q4, q5, q6, q7 = q4 + d4 * d4, q5 + d5 * d5, q6 + d6 * d6, q7 + d7 * d7
    total = ((s0 + s4) + (s2 + s6)) + ((s1 + s5) + (s3 + s7))
    squares = ((q0 + q4) + (q2 + q6)) + ((q1 + q5) + (q3 + q7))
    for i in range(8 * whole, len(values)):
        d = weight * values[i] + add - shift
        total += d
        squares += d * d
    return total, squares, 0.0


@kernel
def _masked_moments(values, live, weight, add, shift):  # type: ignore[no-untyped-def]
    total = squares = 0.0
    for i in range(len(values)):
        if live[i] != 0:
            d = weight * values[i] + add - shift
            total += d
            squares += d * d
    return total, squares, 0.0


@kernel
def _extremes(values, weight, add):  # type: ignore[no-untyped-def]
    total = largest = 0.0
    for i in range(len(values)):
        x = weight * values[i] + add
        total += x
        largest = max(largest, abs(x))
    return total, 0.0, largest


@kernel
def _masked_extremes(values, live, weight, add):  # type: ignore[no-untyped-def]
    total = largest = 0.0
    for i in range(len(values)):
        if live[i] != 0:
            x = weight * values[i] + add
            total += x
            largest = max(largest, abs(x))
    return total, 0.0, largest
