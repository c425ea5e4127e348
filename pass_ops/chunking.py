"""Chunk-by-Value, CV (paper Eq. 6, Alg. 2): where a completion is cut into runs of tokens that share one credit.

A boundary only ever falls right before an unmasked token; masked tokens stay with the chunk before them, leading ones
with the first chunk. Each kernel writes, for the rows of a block of groups, the exclusive ends of the chunks (ends_K),
the raw process score at each chunk's last unmasked token (scores_K) and where each row's chunks start (chunks_R1, of
which the block's first is given). A row that is not trainable gets one chunk over its length.
"""

from __future__ import annotations

import numpy as np

from pass_ops.reading.ragged import Array, Elements, Tokens
from pass_ops.support.jit import kernel, part


@kernel
def count_unmasked(first_R: int, last_R: int, tokens: Tokens) -> None:
    """Fill unmasked_R of rows first_R..last_R from the mask."""
    for r in range(first_R, last_R):
        start, stop = tokens.starts_R1[r] - tokens.base, tokens.starts_R1[r + 1] - tokens.base
        first, last = start >> 6, stop >> 6
        count = _ones(tokens.mask_W[last] & _bits_below(stop & 63))
        count -= _ones(tokens.mask_W[first] & _bits_below(start & 63))
        for w in range(first, last):
            count += _ones(tokens.mask_W[w])
        tokens.unmasked_R[r] = count


@kernel
def chunk_by_step(
    first_R: int,
    last_R: int,
    trainable_R: Array,
    tokens: Tokens,
    scores: Array,
    score_starts_R1: Array,
    ends: Array,
    end_starts_R1: Array,
    ends_K: Array,
    scores_K: Array,
    chunks_R1: Array,
) -> None:
    """`prm`: a chunk is a step with an unmasked token (steps always split, even between equal scores)."""
    for r in range(first_R, last_R):
        cursor = chunks_R1[r]
        length = tokens.starts_R1[r + 1] - tokens.starts_R1[r]
        n = score_starts_R1[r + 1] - score_starts_R1[r]
        row_ends = ends[end_starts_R1[r] : end_starts_R1[r] + n]
        row_scores = scores[score_starts_R1[r] : score_starts_R1[r] + n]
        if not trainable_R[r]:
            cursor = _one_chunk(length, ends_K, scores_K, cursor)
        elif tokens.unmasked_R[r] == length:
            for j in range(n):
                ends_K[cursor + j] = row_ends[j]
                scores_K[cursor + j] = row_scores[j]
            cursor += n
        else:
            first_token = tokens.starts_R1[r] - tokens.base
            opened = False
            start = 0
            for j in range(n):
                t = start
                if not _is_unmasked(tokens.mask_W, first_token + t):
                    t = _next_unmasked(tokens.mask_W, first_token + t, first_token + row_ends[j]) - first_token
                if t < row_ends[j]:
                    if opened:
                        ends_K[cursor] = t
                        cursor += 1
                    opened = True
                    scores_K[cursor] = row_scores[j]
                start = row_ends[j]
            ends_K[cursor] = length
            cursor += 1
        chunks_R1[r + 1] = cursor


@kernel
def chunk_by_token(
    first_R: int,
    last_R: int,
    trainable_R: Array,
    tokens: Tokens,
    scores: Array,
    score_starts_R1: Array,
    ends: Array,
    end_starts_R1: Array,
    ends_K: Array,
    scores_K: Array,
    chunks_R1: Array,
) -> None:
    """Every unmasked token is a chunk, "PASS without CV" (paper Table 2). With `ends` empty, a score is a token's."""
    per_token = len(ends) == 0
    for r in range(first_R, last_R):
        cursor = chunks_R1[r]
        length = tokens.starts_R1[r + 1] - tokens.starts_R1[r]
        if not trainable_R[r]:
            chunks_R1[r + 1] = _one_chunk(length, ends_K, scores_K, cursor)
            continue
        mask = tokens.mask_N[tokens.starts_R1[r] - tokens.base : tokens.starts_R1[r + 1] - tokens.base]
        full = tokens.unmasked_R[r] == length
        begin = score_starts_R1[r]
        opened = False
        step = 0
        for t in range(length):
            if not per_token:
                step += t == ends[end_starts_R1[r] + step]
            if full or mask[t] != 0:
                if opened:
                    ends_K[cursor] = t
                    cursor += 1
                opened = True
                scores_K[cursor] = scores[begin + (t if per_token else step)]
        ends_K[cursor] = length
        chunks_R1[r + 1] = cursor + 1


@kernel
def chunk_by_trace(
    first_G: int,
    last_G: int,
    starts_G1: Array,
    used_R: Array,
    elements: Elements,
    center_G: Array,
    scale_G: Array,
    eta: float,
    trace_T: Array,
    shared_T: Array,
    ends_K: Array,
    scores_K: Array,
    chunks_R1: Array,
) -> None:
    """`kl`: cut where the group's trace u_t = (1/G) sum_i s~(i, t) moves by more than eta from the chunk's first value.

    A rollout with no token, or a masked one, at t adds 0 to the sum. Rollouts without masked tokens all have the same
    boundaries, found once a group. trace_T and shared_T are working memory for the longest completion.
    """
    tokens = elements.tokens
    for g in range(first_G, last_G):
        longest = _fill_trace(g, starts_G1, used_R, elements, center_G[g], scale_G[g], trace_T)
        boundaries = -1
        for r in range(starts_G1[g], starts_G1[g + 1]):
            cursor = chunks_R1[r]
            length = tokens.starts_R1[r + 1] - tokens.starts_R1[r]
            if not used_R[r] or tokens.unmasked_R[r] == 0:
                chunks_R1[r + 1] = _one_chunk(length, ends_K, scores_K, cursor)
                continue
            values = elements.values[elements.starts_R1[r] : elements.starts_R1[r] + length]
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
            chunks_R1[r + 1] = cursor + 1


@part
def _one_chunk(length: int, ends_K: Array, scores_K: Array, cursor: int) -> int:
    if length > 0:
        ends_K[cursor] = length
        scores_K[cursor] = 0.0
        cursor += 1
    return cursor


@part
def _is_unmasked(mask_W: Array, bit: int) -> bool:
    return bool(mask_W[bit >> 6] >> np.uint64(bit & 63) & np.uint64(1))


@part
def _next_unmasked(mask_W: Array, start: int, stop: int) -> int:
    """The first 1 among bits start..stop, or some number from `stop` on."""
    at = start
    word = mask_W[at >> 6] >> np.uint64(at & 63)
    while word == 0 and at < stop:
        at = (at | 63) + 1
        word = mask_W[at >> 6]
    return at + _ones(~word & (word - np.uint64(1)))  # the 0s below the lowest 1


@part
def _bits_below(n: int) -> np.uint64:
    return (np.uint64(1) << np.uint64(n)) - np.uint64(1)


@part
def _ones(word: np.uint64) -> int:
    """How many bits are 1; the compiler knows this form and makes one instruction of it."""
    pairs = word - (word >> np.uint64(1) & np.uint64(0x5555555555555555))
    fours = (pairs & np.uint64(0x3333333333333333)) + (pairs >> np.uint64(2) & np.uint64(0x3333333333333333))
    bytes_ = fours + (fours >> np.uint64(4)) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return int(bytes_ * np.uint64(0x0101010101010101) >> np.uint64(56))


@part
def _fill_trace(
    g: int,
    starts_G1: Array,
    used_R: Array,
    elements: Elements,
    center: float,
    scale: float,
    trace_T: Array,
) -> int:
    tokens = elements.tokens
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


@part
def _boundaries(trace_T: Array, longest: int, eta: float, shared_T: Array) -> int:
    found = 0
    value = trace_T[0]
    for t in range(1, longest):
        if abs(trace_T[t] - value) > eta:
            shared_T[found] = t
            found += 1
            value = trace_T[t]
    return found


@part
def _copy_cuts(cuts: Array, values: Array, ends: Array, scores: Array) -> None:
    for j in range(len(cuts)):
        ends[j] = cuts[j]
    if len(cuts) == len(values) - 1:  # every token is a chunk
        for j in range(len(cuts)):
            scores[j] = values[j]
    else:
        for j in range(len(cuts)):
            scores[j] = values[cuts[j] - 1]


@part
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
