"""Chunk-by-Value, CV (paper Eq. 6, Alg. 2): where a completion is cut into runs of tokens that share one credit.

A boundary only ever falls right before an unmasked token; masked tokens stay with the chunk before them, leading ones
with the first chunk. Each kernel writes, for the rows of a block of groups, the exclusive ends of the chunks (ends_K),
the raw process score at each chunk's last unmasked token (scores_K) and the number of chunks of each row (counts_R);
it returns the number of chunks. A row that is not trainable gets one chunk over its length.
"""

from __future__ import annotations

import numpy as np

from pass_ops.jit import kernel
from pass_ops.ragged import Array, Elements, Tokens


@kernel
def count_unmasked(first_R: int, last_R: int, tokens: Tokens) -> None:
    """Fill unmasked_R of rows first_R..last_R from the mask."""
    for r in range(first_R, last_R):
        mask = tokens.mask_N[tokens.starts_R1[r] - tokens.base : tokens.starts_R1[r + 1] - tokens.base]
        count = 0
        for t in range(len(mask)):
            count += mask[t]
        tokens.unmasked_R[r] = count


@kernel
def steps_rise(first_R: int, last_R: int, tokens: Tokens, ends: Array, end_starts_R1: Array) -> bool:
    """Whether the ends of every row increase strictly up to its length; the rows must lie one after the other."""
    for r in range(first_R, last_R):
        if end_starts_R1[r] == end_starts_R1[r + 1]:
            return False
    block = ends[end_starts_R1[first_R] : end_starts_R1[last_R]]
    before, after = block[:-1], block[1:]
    rises = 0
    for n in range(len(before)):
        rises += after[n] > before[n]
    expected = len(before)
    fine = True
    for r in range(first_R, last_R):
        start, stop = end_starts_R1[r], end_starts_R1[r + 1]
        fine &= ends[start] > 0 and ends[stop - 1] == tokens.starts_R1[r + 1] - tokens.starts_R1[r]
        if r > first_R:  # between two rows, ends may rise or fall
            expected -= ends[start] <= ends[start - 1]
    return fine and rises == expected


@kernel
def mark_live_steps(
    first_R: int,
    last_R: int,
    read_R: Array,
    tokens: Tokens,
    ends: Array,
    end_starts_R1: Array,
    steps: Elements,
) -> int:
    """Find the steps that have an unmasked token; check that ends increase strictly up to the length.

    Returns:
        -1, or the first row whose ends are wrong.
    """
    for r in range(first_R, last_R):
        steps.count_R[r] = 0
        if not read_R[r]:
            continue
        length = tokens.starts_R1[r + 1] - tokens.starts_R1[r]
        n = steps.starts_R1[r + 1] - steps.starts_R1[r]
        row_ends = ends[end_starts_R1[r] : end_starts_R1[r] + n]
        before = 0
        rising = True
        for j in range(n):
            rising &= row_ends[j] > before
            before = row_ends[j]
        if not rising or before != length:
            return r
        if tokens.unmasked_R[r] == length:
            steps.count_R[r] = n
        elif tokens.unmasked_R[r] > 0:
            mask = tokens.mask_N[tokens.starts_R1[r] - tokens.base : tokens.starts_R1[r + 1] - tokens.base]
            live_start = steps.live_starts_R1[r] - steps.live_base
            start = 0
            for j in range(n):
                t = _next_unmasked(mask, start, row_ends[j])
                live = t < row_ends[j]
                steps.live_E[live_start + j] = live
                steps.count_R[r] += live
                start = row_ends[j]
    return -1


@kernel
def chunk_by_step(
    first_R: int,
    last_R: int,
    trainable_R: Array,
    tokens: Tokens,
    ends: Array,
    end_starts_R1: Array,
    steps: Elements,
    ends_K: Array,
    scores_K: Array,
    counts_R: Array,
) -> int:
    """`prm`: a chunk is a step with an unmasked token (steps always split, even between equal scores)."""
    cursor = 0
    for r in range(first_R, last_R):
        length = tokens.starts_R1[r + 1] - tokens.starts_R1[r]
        if not trainable_R[r]:
            cursor = _one_chunk(r, length, ends_K, scores_K, counts_R, cursor)
            continue
        begin = steps.starts_R1[r]
        n = steps.starts_R1[r + 1] - begin
        counts_R[r] = steps.count_R[r]
        if tokens.unmasked_R[r] == length:
            ends_K[cursor : cursor + n] = ends[end_starts_R1[r] : end_starts_R1[r] + n]
            scores_K[cursor : cursor + n] = steps.values[begin : begin + n]
            cursor += n
            continue
        mask = tokens.mask_N[tokens.starts_R1[r] - tokens.base : tokens.starts_R1[r + 1] - tokens.base]
        live_start = steps.live_starts_R1[r] - steps.live_base
        opened = False
        start = 0
        for j in range(n):
            end = ends[end_starts_R1[r] + j]
            if steps.live_E[live_start + j] != 0:
                if opened:
                    ends_K[cursor] = _next_unmasked(mask, start, end)
                    cursor += 1
                opened = True
                scores_K[cursor] = steps.values[begin + j]
            start = end
        ends_K[cursor] = length
        cursor += 1
    return cursor


@kernel
def chunk_by_token(
    first_R: int,
    last_R: int,
    trainable_R: Array,
    tokens: Tokens,
    ends: Array,
    end_starts_R1: Array,
    elements: Elements,
    ends_K: Array,
    scores_K: Array,
    counts_R: Array,
) -> int:
    """Every unmasked token is a chunk, "PASS without CV" (paper Table 2). With `ends` empty, elements are tokens."""
    cursor = 0
    per_token = len(ends) == 0
    for r in range(first_R, last_R):
        length = tokens.starts_R1[r + 1] - tokens.starts_R1[r]
        if not trainable_R[r]:
            cursor = _one_chunk(r, length, ends_K, scores_K, counts_R, cursor)
            continue
        mask = tokens.mask_N[tokens.starts_R1[r] - tokens.base : tokens.starts_R1[r + 1] - tokens.base]
        full = tokens.unmasked_R[r] == length
        counts_R[r] = tokens.unmasked_R[r]
        begin = elements.starts_R1[r]
        opened = False
        e = 0
        for t in range(length):
            if not per_token:
                e += t == ends[end_starts_R1[r] + e]
            if full or mask[t] != 0:
                if opened:
                    ends_K[cursor] = t
                    cursor += 1
                opened = True
                scores_K[cursor] = elements.values[begin + (t if per_token else e)]
        ends_K[cursor] = length
        cursor += 1
    return cursor


@kernel
def chunk_by_trace(
    first_G: int,
    last_G: int,
    starts_G1: Array,
    used_R: Array,
    tokens: Tokens,
    elements: Elements,
    center_G: Array,
    scale_G: Array,
    eta: float,
    trace_T: Array,
    shared_T: Array,
    ends_K: Array,
    scores_K: Array,
    counts_R: Array,
) -> int:
    """`kl`: cut where the group's trace u_t = (1/G) sum_i s~(i, t) moves by more than eta from the chunk's first value.

    A rollout with no token, or a masked one, at t adds 0 to the sum. Rollouts without masked tokens all have the same
    boundaries, found once a group. trace_T and shared_T are working memory for the longest completion.
    """
    cursor = 0
    for g in range(first_G, last_G):
        longest = _fill_trace(g, starts_G1, used_R, tokens, elements, center_G[g], scale_G[g], trace_T)
        boundaries = -1
        for r in range(starts_G1[g], starts_G1[g + 1]):
            length = tokens.starts_R1[r + 1] - tokens.starts_R1[r]
            if not used_R[r] or tokens.unmasked_R[r] == 0:
                cursor = _one_chunk(r, length, ends_K, scores_K, counts_R, cursor)
                continue
            values = elements.values[elements.starts_R1[r] : elements.starts_R1[r] + length]
            before = cursor
            if tokens.unmasked_R[r] == length:
                if boundaries < 0:
                    boundaries = _boundaries(trace_T, longest, eta, shared_T)
                inner = np.searchsorted(shared_T[:boundaries], length)
                _copy_cuts(shared_T[:inner], values, ends_K[cursor:], scores_K[cursor:])
                cursor += inner
                scores_K[cursor] = values[length - 1]
            else:
                mask = tokens.mask_N[tokens.starts_R1[r] - tokens.base : tokens.starts_R1[r + 1] - tokens.base]
                cursor = _cut_masked(trace_T, values, mask, eta, ends_K, scores_K, cursor)
            ends_K[cursor] = length
            cursor += 1
            counts_R[r] = cursor - before
    return cursor


@kernel
def _one_chunk(r: int, length: int, ends_K: Array, scores_K: Array, counts_R: Array, cursor: int) -> int:
    counts_R[r] = 0
    if length > 0:
        counts_R[r] = 1
        ends_K[cursor] = length
        scores_K[cursor] = 0.0
        cursor += 1
    return cursor


@kernel
def _next_unmasked(mask: Array, start: int, stop: int) -> int:
    t = start
    while t < stop and mask[t] == 0:
        t += 1
    return t


@kernel
def _fill_trace(
    g: int,
    starts_G1: Array,
    used_R: Array,
    tokens: Tokens,
    elements: Elements,
    center: float,
    scale: float,
    trace_T: Array,
) -> int:
    longest = rollouts = 0
    for r in range(starts_G1[g], starts_G1[g + 1]):
        if used_R[r]:
            rollouts += 1
            if tokens.unmasked_R[r] > 0:
                longest = max(longest, tokens.starts_R1[r + 1] - tokens.starts_R1[r])
    trace_T[:longest] = 0.0
    for r in range(starts_G1[g], starts_G1[g + 1]):
        if not used_R[r] or tokens.unmasked_R[r] == 0:
            continue
        length = tokens.starts_R1[r + 1] - tokens.starts_R1[r]
        values = elements.values[elements.starts_R1[r] : elements.starts_R1[r] + length]
        if tokens.unmasked_R[r] == length:
            for t in range(length):
                trace_T[t] += values[t] - center
        else:
            mask = tokens.mask_N[tokens.starts_R1[r] - tokens.base : tokens.starts_R1[r + 1] - tokens.base]
            for t in range(length):
                d = values[t] - center
                trace_T[t] += d if mask[t] != 0 else 0.0
    divisor = scale * rollouts
    for t in range(longest):
        trace_T[t] /= divisor
    return longest


@kernel
def _boundaries(trace_T: Array, longest: int, eta: float, shared_T: Array) -> int:
    found = 0
    value = trace_T[0]
    for t in range(1, longest):
        if abs(trace_T[t] - value) > eta:
            shared_T[found] = t
            found += 1
            value = trace_T[t]
    return found


@kernel
def _copy_cuts(cuts: Array, values: Array, ends: Array, scores: Array) -> None:
    for j in range(len(cuts)):
        ends[j] = cuts[j]
    if len(cuts) == len(values) - 1:  # every token is a chunk
        for j in range(len(cuts)):
            scores[j] = values[j]
    else:
        for j in range(len(cuts)):
            scores[j] = values[cuts[j] - 1]


@kernel
def _cut_masked(
    trace_T: Array, values: Array, mask: Array, eta: float, ends_K: Array, scores_K: Array, cursor: int
) -> int:
    opened = False
    value = 0.0
    for t in range(len(mask)):
        if mask[t] == 0:
            continue
        if not opened:
            opened = True
            value = trace_T[t]
        elif abs(trace_T[t] - value) > eta:
            ends_K[cursor] = t
            cursor += 1
            value = trace_T[t]
        scores_K[cursor] = values[t]
    return cursor
