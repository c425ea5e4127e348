"""Group standardization N(x; S) (paper Sec. 3.1 and App. D): S is one pooled set of one group's values.

    masked_norm   (x - mean(S)) / (std(S) + eps); 0 where |S| = 1 or all of S is equal
    abs_max       x / max(abs(S)); 0 where that is 0
    mean_only     x - mean(S)                     (Dr. GRPO)
    leave_one_out n / (n - 1) * (x - m); 0 where n = 1      (RLOO, PRIME)
    none          x

leave_one_out is how far a rollout's value exceeds the mean of the others: n rollouts have values in S, and m is the
mean of their means (a rollout may have many values, the scores of its steps).

Every operator is (x - center) / scale, so a pool is reduced to (center, scale); an infinite scale says "the result
is 0". Sums run in float64 around the pool's first value. Value n of a pool is added to lane n % LANES, and the lanes
are added up in halves once a group: the compiler can work on many lanes at a time, and the order of additions is fixed
by the group alone, wherever it lies in memory.
"""

from __future__ import annotations

import math

import numpy as np

from pass_ops.options.config import Operator
from pass_ops.reading.ragged import Array, Elements, Tokens
from pass_ops.support.jit import kernel, part

NONE, MEAN_ONLY, MASKED_NORM, ABS_MAX, LEAVE_ONE_OUT = range(5)
OPERATOR_CODES: dict[Operator, int] = {
    "none": NONE,
    "mean_only": MEAN_ONLY,
    "masked_norm": MASKED_NORM,
    "abs_max": ABS_MAX,
    "leave_one_out": LEAVE_ONE_OUT,
}
LANES = 32
SUM, SQUARES, LARGEST = range(3)  # what a lane holds: sum(d), sum(d * d), max(abs(x)), d = x - the pool's first value
FINE = -1  # what a kernel returns where it found nothing wrong


@kernel
def group_statistics(
    first_G: int,
    last_G: int,
    starts_G1: Array,
    trainable_R: Array,
    pooled: bool,
    elements: Elements,
    weight: float,
    add_R: Array,
    used_R: Array,
    joined_R: Array,
    operator: int,
    ddof: int,
    eps: float,
    center_G: Array,
    scale_G: Array,
) -> int:
    """Fill center_G and scale_G for the pools { weight * s + add_R[r] : s an element of a trainable row r of g }.

    joined_R (shape [streams, R]) holds further values, one a used row, that belong to the same pool (`grpo_process`).
    Where `pooled` is False the elements are only searched for NaN and infinity.

    Returns:
        FINE, or a group that has a value or a sum that is not finite.
    """
    lanes = np.zeros((3, LANES))
    for g in range(first_G, last_G):
        first_R, last_R = starts_G1[g], starts_G1[g + 1]
        first = first_R
        while first < last_R and not trainable_R[first]:
            first += 1
        shift = weight * _first_live(elements, first) + add_R[first] if first < last_R else 0.0
        count = _add_elements(first, last_R, trainable_R, elements, weight, add_R, shift, lanes)
        total, squares, largest = _drain(lanes)
        fine = _are_finite(operator, total, squares)
        if not pooled:
            count = 0
            total = squares = largest = 0.0
        for stream in range(joined_R.shape[0]):
            for r in range(first_R, last_R):
                if used_R[r]:
                    value = joined_R[stream, r]
                    shift = value if count == 0 else shift
                    count += 1
                    total += value - shift
                    squares += (value - shift) * (value - shift)
                    largest = max(largest, abs(value))
        if not (fine and _are_finite(operator, total, squares)):
            return g
        center_G[g], scale_G[g] = _center_and_scale(operator, count, shift, (total, squares, largest), ddof, eps)
    return FINE


@kernel
def leave_one_out_statistics(
    first_G: int,
    last_G: int,
    starts_G1: Array,
    trainable_R: Array,
    pooled: bool,
    elements: Elements,
    weight: float,
    add_R: Array,
    used_R: Array,
    joined_R: Array,
    center_G: Array,
    scale_G: Array,
) -> int:
    """`group_statistics` for the operator leave_one_out, whose pool is one of rollouts: of the mean of each."""
    for g in range(first_G, last_G):
        rollouts = 0
        shift = total = checked = 0.0
        for r in range(starts_G1[g], starts_G1[g + 1]):
            count = _live(elements, r) if trainable_R[r] else 0
            if count > 0 and not pooled:
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
        center_G[g], scale_G[g] = _leave_one_out(rollouts, shift, total)
    return FINE


@kernel
def standardize_rows(
    starts_G1: Array, used_R: Array, x_R: Array, operator: int, ddof: int, eps: float, out_R: Array
) -> int:
    """out_R = N(x_R; x of the used rows of the same group); other rows are left alone.

    Returns:
        FINE, or a group whose sums are not finite.
    """
    for g in range(len(starts_G1) - 1):
        first_R, last_R = starts_G1[g], starts_G1[g + 1]
        used, x, out = used_R[first_R:last_R], x_R[first_R:last_R], out_R[first_R:last_R]
        count = 0
        shift = total = squares = largest = 0.0
        for r in range(len(x)):
            if used[r]:
                shift = x[r] if count == 0 else shift
                count += 1
                total += x[r] - shift
                squares += (x[r] - shift) * (x[r] - shift)
                largest = max(largest, abs(x[r]))
        if not _are_finite(operator, total, squares):
            return g
        center, scale = _center_and_scale(operator, count, shift, (total, squares, largest), ddof, eps)
        for r in range(len(x)):
            out[r] = (x[r] - center) / scale + 0.0 if used[r] else out[r]
    return FINE


@part
def _are_finite(operator: int, total: float, squares: float) -> bool:
    """Whether the sums that the operator looks at are: any NaN or infinity among the values is in the first."""
    return math.isfinite(total) and (operator != MASKED_NORM or math.isfinite(squares))


@part
def _center_and_scale(
    operator: int, count: int, shift: float, moments: tuple[float, float, float], ddof: int, eps: float
) -> tuple[float, float]:
    """(center, scale) of a pool of `count` values with these moments around `shift`, one of the values."""
    total, squares, largest = moments
    if operator == LEAVE_ONE_OUT:
        return _leave_one_out(count, shift, total)
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


@part
def _leave_one_out(count: int, shift: float, total: float) -> tuple[float, float]:
    """(center, scale) that make of x its distance from the mean of the others: n / (n - 1) * (x - mean)."""
    if count == 0:
        return 0.0, 1.0
    return shift + total / count, (count - 1) / count if count > 1 else math.inf


@part
def _drain(lanes: Array) -> tuple[float, float, float]:
    """Add up the lanes and clear them."""
    half = LANES // 2
    while half > 0:
        for lane in range(half):
            lanes[SUM, lane] += lanes[SUM, lane + half]
            lanes[SQUARES, lane] += lanes[SQUARES, lane + half]
            lanes[LARGEST, lane] = max(lanes[LARGEST, lane], lanes[LARGEST, lane + half])
        half //= 2
    moments = lanes[SUM, 0], lanes[SQUARES, 0], lanes[LARGEST, 0]
    lanes[:] = 0.0
    return moments


@part
def _live(elements: Elements, r: int) -> int:
    """How many elements of row r count."""
    if elements.per_token:
        return int(elements.tokens.unmasked_R[r])
    return int(elements.starts_R1[r + 1] - elements.starts_R1[r])


@part
def _mask(tokens: Tokens, r: int) -> Array:
    return tokens.mask_N[tokens.starts_R1[r] - tokens.base : tokens.starts_R1[r + 1] - tokens.base]


@part
def _first_live(elements: Elements, r: int) -> float:
    values = elements.values[elements.starts_R1[r] : elements.starts_R1[r + 1]]
    e = 0
    if _live(elements, r) < len(values):
        mask = _mask(elements.tokens, r)
        while mask[e] == 0:
            e += 1
    return np.float64(values[e])


@part
def _sum_of_row(elements: Elements, r: int, weight: float, add: float, shift: float) -> float:
    """The sum of weight * s + add - shift over the elements of row r."""
    values = elements.values[elements.starts_R1[r] : elements.starts_R1[r + 1]]
    full = _live(elements, r) == len(values)
    mask = _mask(elements.tokens, r)
    total = 0.0
    for e in range(len(values)):
        if full or mask[e] != 0:
            total += weight * values[e] + add - shift
    return total


@part
def _add_elements(
    first_R: int,
    last_R: int,
    trainable_R: Array,
    elements: Elements,
    weight: float,
    add_R: Array,
    shift: float,
    lanes: Array,
) -> int:
    """Add the elements of the trainable rows, those of rows that lie next to each other in memory in one go.

    Returns:
        How many there are.
    """
    count = position = start = stop = 0  # start..stop: values in memory that are still to be added
    add = 0.0
    for r in range(first_R, last_R):
        if not trainable_R[r]:
            continue
        first, last = elements.starts_R1[r], elements.starts_R1[r + 1]
        live = _live(elements, r)
        full = live == last - first
        count += live
        if full and first == stop and add_R[r] == add:
            stop = last
            continue
        _add_values(elements.values[start:stop], weight, add, shift, position, lanes)
        position += stop - start
        start, stop, add = first, last, add_R[r]
        if not full:
            _add_live(elements.values[first:last], _mask(elements.tokens, r), weight, add, shift, position, lanes)
            position += last - first
            start = last
    _add_values(elements.values[start:stop], weight, add, shift, position, lanes)
    return count


@part
def _add_values(values: Array, weight: float, add: float, shift: float, position: int, lanes: Array) -> None:
    """Add values number position, position + 1, ... of the pool to their lanes."""
    head = min(-position % LANES, len(values))
    whole = (len(values) - head) // LANES
    _add_few(values[:head], weight, add, shift, position % LANES, lanes)
    sums, squares, largest = lanes[SUM], lanes[SQUARES], lanes[LARGEST]
    for n in range(whole):
        x = values[head + n * LANES : head + (n + 1) * LANES]
        for lane in range(LANES):
            y = weight * x[lane] + add
            sums[lane] += y - shift
            squares[lane] += (y - shift) * (y - shift)
            largest[lane] = _larger(largest[lane], abs(y))
    _add_few(values[head + whole * LANES :], weight, add, shift, 0, lanes)


@part
def _add_few(values: Array, weight: float, add: float, shift: float, lane: int, lanes: Array) -> None:
    """The same for values that fit into the lanes from `lane` on."""
    for n in range(len(values)):
        y = weight * values[n] + add
        lanes[SUM, lane + n] += y - shift
        lanes[SQUARES, lane + n] += (y - shift) * (y - shift)
        lanes[LARGEST, lane + n] = max(lanes[LARGEST, lane + n], abs(y))


@part
def _add_live(values: Array, live: Array, weight: float, add: float, shift: float, position: int, lanes: Array) -> None:
    """The same for the live ones of a row; the others add nothing to their lane."""
    done = 0
    while done < len(values):
        lane = (position + done) % LANES
        width = min(LANES - lane, len(values) - done)
        x, counts = values[done : done + width], live[done : done + width]
        sums, squares, largest = lanes[SUM, lane:], lanes[SQUARES, lane:], lanes[LARGEST, lane:]
        for n in range(width):
            y = weight * x[n] + add if counts[n] != 0 else 0.0
            d = y - shift if counts[n] != 0 else 0.0
            sums[n] += d
            squares[n] += d * d
            largest[n] = max(largest[n], abs(y))
        done += width


@part
def _larger(a: float, b: float) -> float:
    return b if b > a else a
