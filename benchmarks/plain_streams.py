"""The compiled loops of the general form (docs/spec/streams.md) as numpy, for kernel_shares.py to put in their place.

Each has its kernel's name, without the underscore, and arguments.
"""

from __future__ import annotations

import numpy as np

from pass_ops.reading.ragged import Array


def count(mask_R1: Array, mask_N: Array, unmasked_R: Array) -> None:
    before = np.concatenate([[0], np.cumsum(mask_N, dtype=np.int64)])
    unmasked_R[:] = before[mask_R1[1:]] - before[mask_R1[:-1]]


def find_tokens(
    read_R: Array, starts_R1: Array, unmasked_R: Array, mask_R1: Array, mask_N: Array, live_V: Array
) -> None:
    found = 0
    for r in np.flatnonzero(read_R).tolist():
        live = np.arange(mask_R1[r + 1] - mask_R1[r])
        if unmasked_R[r] < len(live):
            live = np.flatnonzero(mask_N[mask_R1[r] : mask_R1[r + 1]])
        live_V[found : found + len(live)] = starts_R1[r] - starts_R1[0] + live
        found += len(live)


def find_steps(
    read_R: Array, starts_R1: Array, end_starts_R1: Array, ends: Array, lengths_R: Array, unmasked_R: Array,
    mask_R1: Array, mask_N: Array, tokens_R1: Array, counted_T: Array, live_V: Array, stops_E: Array,
    found_R1: Array,
) -> None:  # fmt: skip
    found = 0
    for r in range(len(read_R)):
        if read_R[r]:
            first, number = starts_R1[r] - starts_R1[0], starts_R1[r + 1] - starts_R1[r]
            stops = row_ends = ends[end_starts_R1[r] : end_starts_R1[r] + number]
            live = np.arange(number)
            if unmasked_R[r] < lengths_R[r]:
                stops = np.cumsum(mask_N[mask_R1[r] : mask_R1[r + 1]], dtype=np.int64)[row_ends - 1]
                live = np.flatnonzero(np.diff(stops, prepend=0))
            live_V[found : found + len(live)] = first + live
            stops_E[found : found + len(live)] = tokens_R1[r] + stops[live]
            found += len(live)
        found_R1[r + 1] = found


def find_elements(stops_E: Array, stops_C: Array, element_C: Array) -> None:
    element_C[:] = np.searchsorted(stops_E, stops_C)


def add_weighted(
    starts_G1: Array, starts_R1: Array, base_R: Array, weight_R: Array, x_E: Array, center_G: Array, scale_G: Array,
    element_C: Array, a_C: Array,
) -> None:  # fmt: skip
    counts_R, rows_G = np.diff(starts_R1), np.diff(starts_G1)
    if len(base_R):
        a_C[:] = np.repeat(base_R, counts_R)
    x_C = x_E[element_C] if len(element_C) else x_E
    center_C, scale_C = (np.repeat(np.repeat(value_G, rows_G), counts_R) for value_G in (center_G, scale_G))
    a_C += np.repeat(weight_R, counts_R) * ((x_C - center_C) / scale_C)


def _cuts(values: Array, eta: float) -> Array:
    """Where a value lies more than eta from the one at the cut before; the first is a cut."""
    found, last = [], None
    for value in values.tolist():
        found.append(last is None or abs(value - last) > eta)
        last = value if found[-1] else last
    return np.array(found, dtype=np.bool_)


def cut_by_trace(
    starts_G1: Array, used_R: Array, tokens_R1: Array, lengths_R: Array, mask_R1: Array, mask_N: Array, x_U: Array,
    center_G: Array, scale_G: Array, eta: float, trace_T: Array, cut_T: Array, cut_U: Array,
) -> None:  # fmt: skip
    for g in range(len(starts_G1) - 1):
        rows = range(int(starts_G1[g]), int(starts_G1[g + 1]))
        trace_T[:] = 0.0
        places = {}
        for r in rows:
            x = x_U[tokens_R1[r] : tokens_R1[r + 1]]
            full = len(x) == lengths_R[r]
            places[r] = np.arange(len(x)) if full else np.flatnonzero(mask_N[mask_R1[r] : mask_R1[r + 1]])[: len(x)]
            trace_T[places[r]] += (x - center_G[g]) / scale_G[g]
        trace_T /= max(int(used_R[rows.start : rows.stop].sum()), 1)
        shared = None
        for r in rows:
            if len(places[r]) == lengths_R[r]:
                shared = _cuts(trace_T, eta) if shared is None else shared
                cut_U[tokens_R1[r] : tokens_R1[r + 1]] = shared[: len(places[r])]
            else:
                cut_U[tokens_R1[r] : tokens_R1[r + 1]] = _cuts(trace_T[places[r]], eta)


def credit(
    starts_R1: Array, stops_K: Array, a_K: Array, tokens_R1: Array, lengths_R: Array, mask_R1: Array, mask_N: Array,
    divide: bool, powers: Array, working: Array, places: Array, chunks_R1: Array, ends_K: Array, credits_K: Array,
    advantages_K: Array, path_R: Array,
) -> None:  # fmt: skip
    for r in range(len(lengths_R)):
        cells = slice(starts_R1[r], starts_R1[r + 1])
        a, begin, length = a_K[cells], chunks_R1[r], lengths_R[r]
        chunks = slice(begin, begin + (len(a) or int(length > 0)))
        chunks_R1[r + 1] = chunks.stop
        if not len(a):
            ends_K[chunks], credits_K[chunks], advantages_K[chunks] = length, 0.0, 0.0
            continue
        ends = stops_K[cells] - tokens_R1[r] if len(stops_K) else np.arange(1, len(a) + 1)
        if tokens_R1[r + 1] - tokens_R1[r] < length:
            at = np.flatnonzero(mask_N[mask_R1[r] : mask_R1[r + 1]])
            ends = np.append(at, length)[np.append(ends[:-1], len(at))]
        ends_K[chunks], credits_K[chunks] = ends, a
        advantages_K[chunks] = a[::-1].cumsum()[::-1] * powers[len(a) : 0 : -1] if divide else a
        if divide:
            path_R[r] = advantages_K[begin]


def add_rows(
    x_E: Array, starts_R1: Array, starts_G1: Array, member_R: Array, number: Array, first: Array, total: Array,
    squares: Array, largest: Array, rollouts: Array, rollout_total: Array,
) -> None:  # fmt: skip
    for g in range(len(starts_G1) - 1):
        rows = [x_E[starts_R1[r] : starts_R1[r + 1]] for r in range(int(starts_G1[g]), int(starts_G1[g + 1]))]
        counts = member_R[starts_G1[g] : starts_G1[g + 1]] if len(member_R) else [True] * len(rows)
        rows = [x.astype(np.float64) for x, counted in zip(rows, counts, strict=True) if counted and len(x)]
        x = np.concatenate([np.zeros(0), *rows])
        shift = x[0] if len(x) else 0.0
        d = x - shift
        number[g], first[g], total[g], squares[g] = len(x), shift, d.sum(), (d * d).sum()
        largest[g], rollouts[g] = np.abs(x).max(initial=0.0), len(rows)
        rollout_total[g] = sum((row - shift).mean() for row in rows)


def scale_runs(x_E: Array, starts_P1: Array, center_P: Array, scale_P: Array, y_E: Array) -> None:
    counts_P = np.diff(starts_P1)
    y_E[:] = (x_E - np.repeat(center_P, counts_P)) / np.repeat(scale_P, counts_P)


def add(
    x_E: Array, pool_E: Array, member_E: Array, counts_E: Array, count: Array, first: Array, total: Array,
    squares: Array, largest: Array,
) -> None:  # fmt: skip
    number_E = np.ones(len(x_E)) if len(counts_E) == 0 else counts_E
    counts = (number_E != 0.0) & (member_E if len(member_E) else True)
    x, pool, number = x_E[counts], pool_E[counts], number_E[counts]
    first[pool[::-1]] = x[::-1]  # the last assignment stays
    d = x - first[pool]
    count[:] = np.bincount(pool, number, len(count))
    total[:] = np.bincount(pool, number * d, len(count))
    squares[:] = np.bincount(pool, number * d * d, len(count))
    np.maximum.at(largest, pool, np.abs(x))


def scale(x_E: Array, pool_E: Array, center_P: Array, scale_P: Array, y_E: Array) -> None:
    y_E[:] = (x_E - center_P[pool_E]) / scale_P[pool_E]


def rank(x_E: Array, pool_E: Array, x_S: Array, starts_P1: Array, y_E: Array) -> None:
    order_E = np.argsort(pool_E, kind="stable")
    bounds = np.searchsorted(pool_E[order_E], np.arange(len(starts_P1)))
    for p in range(len(starts_P1) - 1):
        of_pool = order_E[bounds[p] : bounds[p + 1]]
        values = x_S[starts_P1[p] : starts_P1[p + 1]]
        if len(values) < 2:
            y_E[of_pool] = 0.0
            continue
        below = np.searchsorted(values, x_E[of_pool])
        equal = np.searchsorted(values, x_E[of_pool], side="right") - below
        y = 2.0 * (below + (equal + 1) / 2 - 1.0) / (len(values) - 1.0) - 1.0
        y_E[of_pool] = np.clip(y, -1.0, 1.0)


def accumulate(x_E: Array, starts_R1: Array, discount: float, y_E: Array) -> None:
    for r in range(len(starts_R1) - 1):
        row = slice(starts_R1[r], starts_R1[r + 1])
        if discount == 1.0:
            y_E[row] = x_E[row][::-1].cumsum()[::-1]
            continue
        rest, found = 0.0, []
        for x in x_E[row][::-1].tolist():
            rest = x + discount * rest
            found.append(rest)
        y_E[row] = found[::-1]
