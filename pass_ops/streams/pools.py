"""Operators over pools: N(x; S), S any set of a stream's elements (docs/spec/streams.md section 4).

    masked_norm, abs_max, mean_only, leave_one_out, none    as in `pass_ops.standardize`
    mean_normalized   (x - mean(S)) / mean(S); 0 where mean(S) is not above the rounding of its sum
    rank              the middle rank of x in S, mapped to -1 .. 1

All but rank are (x - center) / scale, so a pool is reduced to its moments; an infinite scale says "the result is 0".
Sums run around the pool's first value, one element after the other, so that they depend on the pool alone. Legend of
dimensions: see `pass_ops.reading.stream_rows`; _P pools.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pass_ops.reading.ragged import Array, room
from pass_ops.support.jit import kernel

NO_MEMBERS = np.ones(0, dtype=np.bool_)
MOST_ROUNDINGS = 2.0**20  # that add up; in longer sums they fall on both sides


class Pools(NamedTuple):
    """Which pool each element is measured against, and which elements are in it (empty: all).

    counts_E: how often each element counts (empty: once).
    """

    pool_E: Array
    pools: int
    member_E: Array = NO_MEMBERS
    counts_E: Array = np.zeros(0)


class Moments(NamedTuple):
    """Of each pool: the number of values, their mean, the sum of squared deviations, the largest absolute value, and
    the number and the mean of its rollouts' means. `first` is a value of the pool: sums were taken around it.
    """

    number: Array
    first: Array
    total: Array
    squares: Array
    largest: Array
    rollouts: Array
    rollout_total: Array


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """N(x; S) as (x - center) / scale for each pool."""

    center_P: Array
    scale_P: Array


class Values(NamedTuple):
    """y = (x - center) / scale of an element's group: worked out where a token or a chunk needs it."""

    x_E: Array
    center_G: Array
    scale_G: Array

    @staticmethod
    def of(y_E: Array, groups: int) -> Values:
        """Values that are there already."""
        return Values(y_E, np.zeros(groups), np.ones(groups))

    def array(self, starts_G1: Array) -> Array:
        """Y of each element; starts_G1: the first element of each group."""
        y_E = room(len(self.x_E), np.float64)
        _scale_runs(self.x_E, starts_G1, self.center_G, self.scale_G, y_E)
        return y_E


def moments_by_group(x_E: Array, starts_R1: Array, starts_G1: Array, *, member_R: Array = NO_MEMBERS) -> Moments:
    """The moments of pools that are groups, or their rows of member_R (empty: all); row r's elements lie at
    starts_R1[r]..starts_R1[r + 1]. A number for each element, as `moments` needs, would cost more than the sums.
    """
    found = Moments(*(np.empty(len(starts_G1) - 1) for _ in Moments._fields))
    _add_rows(x_E, starts_R1, starts_G1, member_R, *found)
    return found


@kernel
def _add_rows(
    x_E: Array, starts_R1: Array, starts_G1: Array, member_R: Array,
    number: Array, first: Array, total: Array, squares: Array, largest: Array, rollouts: Array, rollout_total: Array,
) -> None:  # fmt: skip
    all_in = len(member_R) == 0
    for g in range(len(starts_G1) - 1):
        count = rows = 0
        shift = sums = powers = most = means = 0.0
        for r in range(starts_G1[g], starts_G1[g + 1]):
            begin, end = starts_R1[r], starts_R1[r + 1]
            if begin == end or not (all_in or member_R[r]):
                continue
            if count == 0:
                shift = np.float64(x_E[begin])
            row_sum = 0.0
            row = x_E[begin:end]  # an index from 0 on needs no check for a negative one
            for e in range(len(row)):
                x = np.float64(row[e])
                d = x - shift
                row_sum += d
                sums += d
                powers += d * d
                most = max(most, abs(x))
            count += end - begin
            rows += 1
            means += row_sum / (end - begin)
        number[g], first[g], total[g], squares[g], largest[g] = count, shift, sums, powers, most
        rollouts[g], rollout_total[g] = rows, means


def moments(
    x_E: Array, pools: Pools, *, part_E: Array | None = None, parts: int = 0, pool_of: Array | None = None
) -> Moments:
    """The moments of each pool.

    part_E, parts, pool_of: where rollouts' means are wanted, the number of the part (a pool's share in one rollout)
    that each element is in, how many there are, and the pool of each.
    """
    found = Moments(*(np.zeros(pools.pools) for _ in Moments._fields))
    _add(x_E, pools.pool_E, pools.member_E, pools.counts_E, *found[:5])
    if part_E is not None:
        assert pool_of is not None
        some_E = pools.member_E if len(pools.member_E) else np.ones(len(x_E), dtype=np.bool_)
        part_E, d_E = part_E[some_E], x_E[some_E] - found.first[pools.pool_E[some_E]]
        count_D = np.bincount(part_E, minlength=parts)
        sum_D, some_D = np.bincount(part_E, weights=d_E, minlength=parts), count_D > 0
        pool_D, mean_D = pool_of[some_D], sum_D[some_D] / count_D[some_D]
        found.rollouts[:] = np.bincount(pool_D, minlength=pools.pools)
        found.rollout_total[:] = np.bincount(pool_D, weights=mean_D, minlength=pools.pools)
    return found


@kernel
def _add(
    x_E: Array, pool_E: Array, member_E: Array, counts_E: Array,
    count: Array, first: Array, total: Array, squares: Array, largest: Array,
) -> None:  # fmt: skip
    all_in, once = len(member_E) == 0, len(counts_E) == 0
    for e in range(len(x_E)):
        if not (all_in or member_E[e]):
            continue
        p, x = pool_E[e], x_E[e]
        n = 1.0 if once else counts_E[e]
        if n == 0.0:
            continue
        if count[p] == 0.0:
            first[p] = x
        d = x - first[p]
        count[p] += n
        total[p] += n * d
        squares[p] += n * d * d
        largest[p] = max(largest[p], abs(x))


def scaling(operator: str, found: Moments, *, ddof: int, eps: float) -> Scaling:
    """(center, scale) of each pool for an operator other than rank; an empty pool gives 0, but for `none`."""
    count, safe = found.number, np.maximum(found.number, 1.0)
    if operator == "none":
        return Scaling(center_P=np.zeros(len(count)), scale_P=np.ones(len(count)))
    mean = found.first + found.total / safe
    if operator == "mean_only":
        scale = np.ones(len(count))
    elif operator == "abs_max":
        mean, scale = np.zeros(len(count)), np.where(found.largest > 0.0, found.largest, np.inf)
    elif operator == "mean_normalized":
        scale = np.where(mean > _rounding(found), mean, np.inf)
    elif operator == "leave_one_out":
        n = found.rollouts
        mean = found.first + found.rollout_total / np.maximum(n, 1.0)
        scale = np.where(n > 1.0, (n - 1.0) / np.maximum(n, 1.0), np.inf)
    else:
        assert operator == "masked_norm"
        variance = (found.squares - found.total * (found.total / safe)) / np.maximum(count - ddof, 1.0)
        scale = np.where((count > 1.0) & (found.squares > 0.0), np.sqrt(np.maximum(variance, 0.0)) + eps, np.inf)
    return Scaling(center_P=mean, scale_P=np.where(count > 0.0, scale, np.inf))


def _rounding(found: Moments) -> Array:
    """What the mean of values that cancel out may come to instead of 0; to divide by that would give anything."""
    return np.finfo(np.float64).eps * np.minimum(found.number, MOST_ROUNDINGS) * found.largest


def standardized(x_E: Array, pool_E: Array, by: Scaling) -> Array:
    """(x - center) / scale of each element's pool."""
    y_E = np.empty(len(x_E))
    _scale(x_E, pool_E, by.center_P, by.scale_P, y_E)
    return y_E


@kernel
def _scale_runs(x_E: Array, starts_P1: Array, center_P: Array, scale_P: Array, y_E: Array) -> None:
    for p in range(len(starts_P1) - 1):
        center, scale = center_P[p], scale_P[p]
        x, y = x_E[starts_P1[p] : starts_P1[p + 1]], y_E[starts_P1[p] : starts_P1[p + 1]]
        for e in range(len(x)):
            y[e] = (x[e] - center) / scale


@kernel
def _scale(x_E: Array, pool_E: Array, center_P: Array, scale_P: Array, y_E: Array) -> None:
    for e in range(len(x_E)):
        p = pool_E[e]
        y_E[e] = (x_E[e] - center_P[p]) / scale_P[p]


def ranked(x_E: Array, pools: Pools) -> Array:
    """The operator rank: 2 (c - 1) / (|S| - 1) - 1 within -1 .. 1, c the middle rank of x among its pool."""
    member_E = pools.member_E if len(pools.member_E) else np.ones(len(x_E), dtype=np.bool_)
    order_S = np.lexsort((x_E[member_E], pools.pool_E[member_E]))
    x_S, pool_S = x_E[member_E][order_S], pools.pool_E[member_E][order_S]
    starts_P1 = np.searchsorted(pool_S, np.arange(pools.pools + 1))
    y_E = np.empty(len(x_E))
    _rank(x_E, pools.pool_E, x_S, starts_P1, y_E)
    return y_E


@kernel
def _rank(x_E: Array, pool_E: Array, x_S: Array, starts_P1: Array, y_E: Array) -> None:
    for e in range(len(x_E)):
        start, stop = starts_P1[pool_E[e]], starts_P1[pool_E[e] + 1]
        size = stop - start
        if size < 2:
            y_E[e] = 0.0
            continue
        below = np.searchsorted(x_S[start:stop], x_E[e])
        equal = np.searchsorted(x_S[start:stop], x_E[e], side="right") - below
        middle = below + (equal + 1) / 2
        y_E[e] = min(max(2.0 * (middle - 1.0) / (size - 1.0) - 1.0, -1.0), 1.0)


def merged(found: Moments) -> Moments:
    """One pool made of all (Chan's formula); it keeps the order of the pools, so it depends on nothing else."""
    filled = found.number > 0.0
    count, rollouts = float(found.number.sum()), float(found.rollouts.sum())
    if count == 0.0:
        return Moments(*(np.zeros(1) for _ in Moments._fields))
    first = float(found.first[np.argmax(filled)])
    shift = np.where(filled, found.first - first, 0.0)
    total = float((found.total + found.number * shift).sum())
    squares = float((found.squares + 2.0 * shift * found.total + found.number * shift * shift).sum())
    rollout_total = float((found.rollout_total + found.rollouts * shift).sum())
    numbers = count, first, total, squares, float(found.largest.max()), rollouts, rollout_total
    return Moments(*(np.array([number]) for number in numbers))
