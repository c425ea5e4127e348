"""Group standardization N(x; S) (paper Sec. 3.1 and App. D): S is one pooled set of one group's values.

    masked_norm   (x - mean(S)) / (std(S) + eps); 0 where |S| = 1 or all of S is equal
    abs_max       x / max(abs(S)); 0 where that is 0
    mean_only     x - mean(S)                     (Dr. GRPO)
    leave_one_out n / (n - 1) * (x - m); 0 where n = 1      (RLOO, PRIME)
    none          x

leave_one_out is what a rollout's value has above the others' average: n rollouts have values in S, and m is the mean
of their means (a rollout may have many values, the scores of its steps).

Every operator is (x - center) / scale, so a pool is reduced to (center, scale); an infinite scale says "the result
is 0". Sums run in float64 around the pool's first value. Value n of a pool is added to lane n % LANES, and the lanes
are added up once a group: the compiler can work on many lanes at a time, and the order of additions is fixed by the
group alone, wherever it lies in memory.
"""

from __future__ import annotations

import math

import numpy as np

from pass_ops.config import Operator
from pass_ops.jit import kernel
from pass_ops.ragged import Array, Elements

NONE, MEAN_ONLY, MASKED_NORM, ABS_MAX, LEAVE_ONE_OUT = range(5)
OPERATOR_CODES: dict[Operator, int] = {
    "none": NONE,
    "mean_only": MEAN_ONLY,
    "masked_norm": MASKED_NORM,
    "abs_max": ABS_MAX,
    "leave_one_out": LEAVE_ONE_OUT,
}
LANES = 128
SUM, SQUARES, LARGEST = range(3)  # what a lane holds: sum(d), sum(d * d), max(abs(x)), d = x - the pool's first value
FINE = -1  # what a kernel returns where it found nothing wrong


@kernel
def group_statistics(
    first_G: int,
    last_G: int,
    starts_G1: Array,
    used_R: Array,
    read_R: Array,
    pooled: bool,
    elements: Elements,
    weight: float,
    add_R: Array,
    joined_R: Array,
    operator: int,
    ddof: int,
    eps: float,
    center_G: Array,
    scale_G: Array,
) -> int:
    """Fill center_G and scale_G for the pools { weight * s + add_R[r] : s a live element of a used row r of g }.

    joined_R (shape [streams, R]) holds further values, one a row, that belong to the same pool (`grpo_process`).
    Rows with read_R but not used_R, and all where `pooled` is False, are only searched for NaN and infinity.

    Returns:
        FINE, or a group that has a value or a sum that is not finite.
    """
    lanes = np.zeros((3, LANES + 1))
    for g in range(first_G, last_G):
        count = position = start = stop = 0  # start..stop: values in memory that are still to be added
        shift = checked = add = 0.0
        for r in range(starts_G1[g], starts_G1[g + 1]):
            if read_R[r] and elements.count_R[r] > 0:
                if not (pooled and used_R[r]):
                    checked += _sum_of_row(elements, r, 1.0, 0.0, 0.0)
                    continue
                if count == 0:
                    shift = weight * _first_live(elements, r) + add_R[r]
                count += elements.count_R[r]
                first = elements.starts_R1[r]
                length = elements.live_starts_R1[r + 1] - elements.live_starts_R1[r]
                full = elements.count_R[r] == length
                if not (full and first == stop and add_R[r] == add):
                    _add_values(elements.values[start:stop], weight, add, shift, operator, position, lanes)
                    position += stop - start
                    start, add = first, add_R[r]
                    stop = first + length if full else first
                    if not full:
                        _add_live(elements, r, weight, add, shift, operator, position, lanes)
                        position += length
                else:
                    stop += length
        for r in range(starts_G1[g], starts_G1[g + 1]):
            for stream in range(joined_R.shape[0] if used_R[r] else 0):
                value = joined_R[stream, r]
                shift = shift if count > 0 else value
                count += 1
                _add(lanes, value, shift)
        _add_values(elements.values[start:stop], weight, add, shift, operator, position, lanes)
        moments = _drain(lanes, min(position + stop - start, LANES))
        if not (math.isfinite(moments[0]) and math.isfinite(moments[1]) and math.isfinite(checked)):
            return g
        center_G[g], scale_G[g] = _center_and_scale(operator, count, shift, moments, ddof, eps)
    return FINE


@kernel
def leave_one_out_statistics(
    first_G: int,
    last_G: int,
    starts_G1: Array,
    used_R: Array,
    read_R: Array,
    pooled: bool,
    elements: Elements,
    weight: float,
    add_R: Array,
    joined_R: Array,
    center_G: Array,
    scale_G: Array,
) -> int:
    """`group_statistics` for the operator leave_one_out, whose pool is one of rollouts: of the mean of each."""
    for g in range(first_G, last_G):
        rollouts = 0
        shift = total = checked = 0.0
        for r in range(starts_G1[g], starts_G1[g + 1]):
            count = elements.count_R[r] if read_R[r] else 0
            if count > 0 and not (pooled and used_R[r]):
                checked += _sum_of_row(elements, r, 1.0, 0.0, 0.0)
                count = 0
            values = count + joined_R.shape[0]
            if not used_R[r] or values == 0:
                continue
            if rollouts == 0:
                shift = weight * _first_live(elements, r) + add_R[r] if count > 0 else joined_R[0, r]
            mean = _sum_of_row(elements, r, weight, add_R[r], shift) / values if count > 0 else 0.0
            for stream in range(joined_R.shape[0]):
                mean += (joined_R[stream, r] - shift) / values
            rollouts += 1
            total += mean
        if not (math.isfinite(total) and math.isfinite(checked)):
            return g
        center_G[g], scale_G[g] = _center_and_scale(LEAVE_ONE_OUT, rollouts, shift, (total, 0.0, 0.0), 0, 0.0)
    return FINE


@kernel
def standardize_rows(
    starts_G1: Array, used_R: Array, x_R: Array, operator: int, ddof: int, eps: float, out_R: Array
) -> int:
    """out_R = N(x_R; x of the used rows of the same group); other rows are left alone.

    Returns:
        FINE, or a group whose sums are not finite.
    """
    lanes = np.zeros((3, LANES + 1))
    for g in range(len(starts_G1) - 1):
        count = 0
        shift = 0.0
        for r in range(starts_G1[g], starts_G1[g + 1]):
            if used_R[r]:
                shift = shift if count > 0 else x_R[r]
                count += 1
                _add(lanes, x_R[r], shift)
        moments = _drain(lanes, 0)
        if not (math.isfinite(moments[0]) and math.isfinite(moments[1])):
            return g
        center, scale = _center_and_scale(operator, count, shift, moments, ddof, eps)
        for r in range(starts_G1[g], starts_G1[g + 1]):
            if used_R[r]:
                out_R[r] = (x_R[r] - center) / scale + 0.0
    return FINE


@kernel
def _center_and_scale(
    operator: int, count: int, shift: float, moments: tuple[float, float, float], ddof: int, eps: float
) -> tuple[float, float]:
    """(center, scale) of a pool of `count` values with these moments around `shift`, one of the values."""
    total, squares, largest = moments
    if count == 0 or operator == NONE:
        return 0.0, 1.0
    mean = total / count
    if operator == MEAN_ONLY:
        return shift + mean, 1.0
    if operator == LEAVE_ONE_OUT:
        return shift + mean, (count - 1) / count if count > 1 else math.inf
    if operator == ABS_MAX:
        return 0.0, largest if largest > 0.0 else math.inf
    if count == 1 or squares == 0.0:
        return shift + mean, math.inf
    variance = (squares - total * mean) / (count - ddof)
    return shift + mean, math.sqrt(max(variance, 0.0)) + eps


@kernel
def _add(lanes: Array, value: float, shift: float) -> None:
    """Add one value to the lane that is left free for single ones."""
    lanes[SUM, LANES] += value - shift
    lanes[SQUARES, LANES] += (value - shift) * (value - shift)
    lanes[LARGEST, LANES] = max(lanes[LARGEST, LANES], abs(value))


@kernel
def _drain(lanes: Array, width: int) -> tuple[float, float, float]:
    """Add up the first `width` lanes and the one of single values, and clear them."""
    total, squares, largest = lanes[SUM, LANES], lanes[SQUARES, LANES], lanes[LARGEST, LANES]
    lanes[:, LANES] = 0.0
    for lane in range(width):
        total += lanes[SUM, lane]
        squares += lanes[SQUARES, lane]
        largest = max(largest, lanes[LARGEST, lane])
    lanes[:, :width] = 0.0
    return total, squares, largest


@kernel
def _first_live(elements: Elements, r: int) -> float:
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
def _sum_of_row(elements: Elements, r: int, weight: float, add: float, shift: float) -> float:
    """The sum of weight * s + add - shift over the live elements of row r."""
    start = elements.starts_R1[r]
    length = elements.live_starts_R1[r + 1] - elements.live_starts_R1[r]
    live_start = elements.live_starts_R1[r] - elements.live_base
    full = elements.count_R[r] == length
    total = 0.0
    for e in range(length):
        if full or elements.live_E[live_start + e] != 0:
            total += weight * elements.values[start + e] + add - shift
    return total


@kernel
def _add_values(
    values: Array, weight: float, add: float, shift: float, operator: int, position: int, lanes: Array
) -> None:
    """Add values number position, position + 1, ... of the pool to their lanes."""
    done = 0
    while done < len(values):
        lane = (position + done) % LANES
        width = min(LANES - lane, len(values) - done)
        x = values[done : done + width]
        sums, squares = lanes[SUM, lane : lane + width], lanes[SQUARES, lane : lane + width]
        if operator == ABS_MAX:
            largest = lanes[LARGEST, lane : lane + width]
            for n in range(width):
                y = weight * x[n] + add
                sums[n] += y - shift
                largest[n] = max(largest[n], abs(y))
        else:
            for n in range(width):
                d = weight * x[n] + add - shift
                sums[n] += d
                squares[n] += d * d
        done += width


@kernel
def _add_live(
    elements: Elements, r: int, weight: float, add: float, shift: float, operator: int, position: int, lanes: Array
) -> None:
    """The same for the live ones of row r; the others add nothing to their lane."""
    start = elements.starts_R1[r]
    length = elements.live_starts_R1[r + 1] - elements.live_starts_R1[r]
    live_start = elements.live_starts_R1[r] - elements.live_base
    done = 0
    while done < length:
        lane = (position + done) % LANES
        width = min(LANES - lane, length - done)
        x = elements.values[start + done : start + done + width]
        live = elements.live_E[live_start + done : live_start + done + width]
        sums, squares = lanes[SUM, lane : lane + width], lanes[SQUARES, lane : lane + width]
        for n in range(width):
            y = weight * x[n] + add
            d = y - shift if live[n] != 0 else 0.0
            sums[n] += d
            squares[n] += d * d
        if operator == ABS_MAX:
            largest = lanes[LARGEST, lane : lane + width]
            for n in range(width):
                y = abs(weight * x[n] + add)
                largest[n] = y if live[n] != 0 and y > largest[n] else largest[n]
        done += width
