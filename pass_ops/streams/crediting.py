"""From cells to chunks: ends, credits, and the division by length (docs/spec/streams.md sections 7 and 8).

    credit a_j = A at the chunk's last cell;  advantage = (a_j + ... + a_K) / (K - j + 1)^k;  S(o) = the first of them

Legend of dimensions: see `pass_ops.reading.stream_rows`; _C cells, _K chunks.
"""

from __future__ import annotations

import numpy as np

from pass_ops.blocks import Chunks, too_large
from pass_ops.divide_length import first_beyond_float32
from pass_ops.errors import OutputOverflowError
from pass_ops.reading.ragged import Array, room
from pass_ops.reading.stream_elements import NO_MASK
from pass_ops.streams.cells import Cells
from pass_ops.support.jit import kernel, part

NO_STOPS = np.empty(0, dtype=np.int64)


def credited(chunks: Cells, a_K: Array, *, k: float | None) -> Chunks:
    """The chunks, with their credits a_K and their advantages.

    k: the exponent of Divide-Length; None leaves the credits as they are, without a path score. A row that is not
    trainable gets one chunk of credit 0. Raises OutputOverflowError.
    """
    rows = chunks.rows
    counts_R = np.diff(chunks.starts_R1)
    number = len(chunks) + int(np.count_nonzero((counts_R == 0) & (rows.lengths_R > 0)))
    starts_R1 = np.zeros(len(rows) + 1, dtype=np.int32)
    ends_K, credits_K, advantages_K = (room(number, kind) for kind in (np.int32, np.float32, np.float32))
    path_R = np.full(len(rows), np.nan, dtype=np.float32)
    most, longest = int(counts_R.max(initial=0)), int(rows.lengths_R.max(initial=0))
    powers = np.ones(most + 1)
    powers[1:] = np.arange(1, most + 1, dtype=np.float64) ** -(k or 0.0)
    _credit(
        chunks.starts_R1, NO_STOPS if chunks.ends_C is None else chunks.ends_C, a_K, rows.tokens_R1, rows.lengths_R,
        *rows.mask, k is not None, powers, np.empty(most), np.empty(longest + 1, dtype=np.int32),
        starts_R1, ends_K, credits_K, advantages_K, path_R,
    )  # fmt: skip
    row = first_beyond_float32(0, len(rows), starts_R1, credits_K, advantages_K)
    if row >= 0:
        raise OutputOverflowError(too_large(rows.name(row)))
    return Chunks(
        starts_R1=starts_R1,
        ends_K=ends_K,
        credits_K=credits_K,
        advantages_K=advantages_K,
        path_R=path_R,
        trainable_R=rows.trainable_R,
    )


@kernel
def _credit(
    starts_R1: Array, stops_K: Array, a_K: Array, tokens_R1: Array, lengths_R: Array, mask_R1: Array, mask_N: Array,
    divide: bool, powers: Array, working: Array, places: Array,
    chunks_R1: Array, ends_K: Array, credits_K: Array, advantages_K: Array, path_R: Array,
) -> None:  # fmt: skip
    """stops_K is empty where every token is a chunk; `working` and `places` are room for one row."""
    for r in range(len(lengths_R)):
        first, count = starts_R1[r], starts_R1[r + 1] - starts_R1[r]
        begin, length = chunks_R1[r], lengths_R[r]
        chunks_R1[r + 1] = begin + (count if count > 0 else length > 0)
        if count > 0:
            stop = begin + count
            tokens = stops_K[first : first + count] if len(stops_K) > 0 else NO_STOPS
            mask = mask_N[mask_R1[r] : mask_R1[r + 1]] if tokens_R1[r + 1] - tokens_R1[r] < length else NO_MASK
            _end(tokens, tokens_R1[r], length, mask, places, ends_K[begin:stop])
            credits, advantages = credits_K[begin:stop], advantages_K[begin:stop]
            _sum_up(a_K[first : first + count], divide, powers, working, credits, advantages)
            if divide:
                path_R[r] = advantages[0]
        elif length > 0:
            ends_K[begin], credits_K[begin], advantages_K[begin] = length, 0.0, 0.0


@part
def _end(stops: Array, before: int, length: int, mask: Array, places: Array, ends: Array) -> None:
    """The ends of one row's chunks: where the next one's first unmasked token lies. mask: empty where all count;
    `places` is room for one more than the row's tokens.
    """
    each = len(stops) == 0
    if len(mask) == 0:
        for c in range(len(ends)):
            ends[c] = c + 1 if each else stops[c] - before
        return
    u = 0
    for t in range(len(mask)):
        places[u] = t  # stays where the token counts, else it is written over; faster than to jump from end to end
        u += mask[t]
    for c in range(len(ends) - 1):
        ends[c] = places[c + 1 if each else stops[c] - before]
    ends[len(ends) - 1] = length


@part
def _sum_up(a: Array, divide: bool, powers: Array, working: Array, credits: Array, advantages: Array) -> None:
    count = len(a)
    for c in range(count):
        credits[c] = a[c] + 0.0
    if not divide:
        for c in range(count):
            advantages[c] = a[c] + 0.0
        return
    rest = 0.0
    for c in range(count - 1, -1, -1):
        rest += a[c] + 0.0
        working[c] = rest
    for c in range(count):
        advantages[c] = working[c] * powers[count - c]
