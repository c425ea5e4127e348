"""From cells to chunks: ends, credits, and the division by length (docs/spec/streams.md sections 7 and 8).

    credit a_j = A at the chunk's last cell;  advantage = (a_j + ... + a_K) / (K - j + 1)^k;  S(o) = the first of them

Legend of dimensions: see `pass_ops.reading.stream_rows`; _C cells, _K chunks.
"""

from __future__ import annotations

import numpy as np

from pass_ops.blocks import Chunks, too_large
from pass_ops.errors import OutputOverflowError
from pass_ops.reading.ragged import Array
from pass_ops.streams.cells import Cells
from pass_ops.support.jit import kernel

NO_PLACES = np.empty(0, dtype=np.int64)


def credited(cells: Cells, a_C: Array, cut_C: Array, *, k: float | None) -> Chunks:
    """The chunks that begin at the cells cut_C (each row's first is one), with their credits and advantages.

    k: the exponent of Divide-Length; None leaves the credits as they are, without a path score. A row that is not
    trainable gets one chunk of credit 0. Raises OutputOverflowError.
    """
    rows = cells.rows
    most = len(cells) + len(rows)
    starts_R1 = np.zeros(len(rows) + 1, dtype=np.int32)
    ends_K = np.empty(most, dtype=np.int32)
    credits_K, advantages_K = np.empty(most, dtype=np.float32), np.empty(most, dtype=np.float32)
    path_R = np.full(len(rows), np.nan, dtype=np.float32)
    longest = int(np.diff(cells.starts_R1).max(initial=0))
    powers = np.ones(longest + 1)
    powers[1:] = np.arange(1, longest + 1, dtype=np.float64) ** -(k or 0.0)
    _credit(
        cells.starts_R1, cells.stops_C, a_C, cut_C, rows.tokens_R1, rows.lengths_R,
        NO_PLACES if rows.mask_N is None else rows.place_U, k is not None, powers, np.empty(longest),
        starts_R1, ends_K, credits_K, advantages_K, path_R,
    )  # fmt: skip
    used = int(starts_R1[-1])
    finite_K = np.isfinite(credits_K[:used]) & np.isfinite(advantages_K[:used])
    if not finite_K.all():
        row = int(np.searchsorted(starts_R1, int(np.argmin(finite_K)), side="right")) - 1
        raise OutputOverflowError(too_large(rows.name(row)))
    return Chunks(
        starts_R1=starts_R1,
        ends_K=ends_K[:used],
        credits_K=credits_K[:used],
        advantages_K=advantages_K[:used],
        path_R=path_R,
        trainable_R=rows.trainable_R,
    )


@kernel
def _credit(
    starts_R1: Array, stops_C: Array, a_C: Array, cut_C: Array, tokens_R1: Array, lengths_R: Array, place_U: Array,
    divide: bool, powers: Array, working: Array,
    chunks_R1: Array, ends_K: Array, credits_K: Array, advantages_K: Array, path_R: Array,
) -> None:  # fmt: skip
    full = len(place_U) == 0
    for r in range(len(lengths_R)):
        first, last = starts_R1[r], starts_R1[r + 1]
        begin = cursor = chunks_R1[r]
        if first == last and lengths_R[r] > 0:
            ends_K[cursor] = lengths_R[r]
            credits_K[cursor] = 0.0
            advantages_K[cursor] = 0.0
            cursor += 1
        for c in range(first, last):
            if c + 1 < last and not cut_C[c + 1]:
                continue
            # A chunk ends where the next one's first unmasked token lies.
            end = lengths_R[r]
            if c + 1 < last:
                end = stops_C[c] - tokens_R1[r] if full else place_U[stops_C[c]]
            ends_K[cursor] = end
            working[cursor - begin] = a_C[c] + 0.0
            credits_K[cursor] = a_C[c] + 0.0
            cursor += 1
        chunks_R1[r + 1] = cursor
        if first == last:
            continue
        rest = 0.0
        for j in range(cursor - 1, begin - 1, -1):
            rest = working[j - begin] + rest
            advantages_K[j] = rest * powers[cursor - j] if divide else working[j - begin]
        if divide:
            path_R[r] = advantages_K[begin]
