"""The loops of `spread`: from chunks to tokens. Apart from it, since numba takes a moment to import.

Legend of dimensions: see `pass_ops.reading.ragged`; B rows of a padded batch of T columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pyarrow as pa

from pass_ops.reading.ragged import Array
from pass_ops.support import jit

LEAST_SPAN_VALUES = 1 << 20  # less is not worth a thread


@jit.kernel
def every_token(first_R: int, last_R: int, starts_R1: Array, ends_K: Array) -> bool:
    """Whether the chunks of each row end at 1, 2, 3 and so on."""
    for r in range(first_R, last_R):
        ends = ends_K[starts_R1[r] : starts_R1[r + 1]]
        differs = 0
        for k in range(len(ends)):
            differs |= ends[k] - (k + 1)
        if differs != 0:
            return False
    return True


@jit.part
def one_token_chunks(ends_K: Array, k: np.uint64, before: np.uint64) -> np.uint64:
    """How many chunks from the k-th on are one token each, where `before` tokens lie before it and the ends rise.

    An end is then never less than one a chunk further, so the last one tells whether all the rest is one run. Else the
    run's end is searched for, at distances that double up to 32: further steps would miss the cache, and be guessed
    wrong more often when the search turns back.
    """
    left = np.uint64(len(ends_K)) - k
    if np.uint64(ends_K[len(ends_K) - 1]) == before + left:
        return left
    low, high = np.uint64(0), np.uint64(1)
    while high <= left and np.uint64(ends_K[k + high - np.uint64(1)]) == before + high:
        low, high = high, high + min(high, np.uint64(32))
    high = min(high, left + np.uint64(1))
    while low + np.uint64(1) < high:
        middle = (low + high) // np.uint64(2)
        if np.uint64(ends_K[k + middle - np.uint64(1)]) == before + middle:
            low = middle
        else:
            high = middle
    return low


@jit.part
def has_long_runs(ends_K: Array) -> bool:
    """Whether of sixteen chunks that lie evenly apart, all but one at most have one token: a search for runs pays."""
    apart = np.uint64(len(ends_K) // 16)
    if apart == 0:
        return False
    longer = 0
    for i in range(np.uint64(1), np.uint64(16)):
        longer += ends_K[i * apart] - ends_K[i * apart - np.uint64(1)] != 1
    return longer <= 1


@jit.part
def rise(ends_K: Array, tokens: int) -> bool:
    """Whether the ends rise from above 0 to at most `tokens`."""
    falls = ends_K[0] <= 0
    for i in range(np.uint64(1), np.uint64(len(ends_K))):
        falls |= ends_K[i] <= ends_K[i - np.uint64(1)]
    return not falls and ends_K[len(ends_K) - 1] <= tokens


@jit.kernel
def spread_rows(
    first_R: int, last_R: int, starts_R1: Array, ends_K: Array, values_K: Array, tokens_R1: Array, out_N: Array
) -> bool:
    """Write each chunk's value at its tokens; False at ends that do not rise from above 0 to the row's length.

    Most chunks of a process signal per token are one token: long runs of them are copied. Indexes are unsigned, so that
    none counts from behind.
    """
    for r in range(first_R, last_R):
        ends = ends_K[starts_R1[r] : starts_R1[r + 1]]
        values = values_K[starts_R1[r] : starts_R1[r + 1]]
        out_T = out_N[tokens_R1[r] : tokens_R1[r + 1]]
        chunks = np.uint64(len(ends))
        if has_long_runs(ends):
            if not rise(ends, len(out_T)):
                return False
            before, k = np.uint64(0), np.uint64(0)
            while k < chunks:
                run = one_token_chunks(ends, k, before)
                for i in range(run):
                    out_T[before + i] = values[k + i]
                before, k = before + run, k + run
                if k < chunks:
                    value, end = values[k], np.uint64(ends[k])
                    for t in range(before, end):
                        out_T[t] = value
                    before, k = end, k + np.uint64(1)
        else:
            last = 0
            for j in range(chunks):
                stop = ends[j]
                if stop <= last or stop > len(out_T):
                    return False
                out_T[last] = values[j]  # the only token of many chunks
                for t in range(np.uint64(last + 1), np.uint64(stop)):
                    out_T[t] = values[j]
                last = stop
    return True


@jit.kernel
def spread_padded(
    first_R: int, last_R: int, starts_R1: Array, ends_K: Array, values_K: Array, mask_R_T: Array, row_R: Array,
    out_B_T: Array,
) -> bool:  # fmt: skip
    """Write each chunk's value at its tokens that count in row row_R[r], and 0 everywhere else in it; ends rise.

    A value is chosen by its bits, `value & -counts`, which is what the processor does many at a time; 0 is no bits.
    """
    bits_K, bits_B_T = values_K.view(np.int32), out_B_T.view(np.int32)
    for r in range(first_R, last_R):
        ends = ends_K[starts_R1[r] : starts_R1[r + 1]]
        values = bits_K[starts_R1[r] : starts_R1[r + 1]]
        out_T, mask_T = bits_B_T[row_R[r]], mask_R_T[r]
        before, k, chunks = np.uint64(0), np.uint64(0), np.uint64(len(ends))
        while k < chunks:
            run = one_token_chunks(ends, k, before)
            for i in range(run):
                out_T[before + i] = values[k + i] & -np.int32(mask_T[before + i])
            before, k = before + run, k + run
            if k < chunks:
                value, end = values[k], np.uint64(ends[k])
                for t in range(before, end):
                    out_T[t] = value & -np.int32(mask_T[t])
                before, k = end, k + np.uint64(1)
        for t in range(before, np.uint64(len(out_T))):
            out_T[t] = 0
    return True


def in_spans(work: Callable[[int, int, int], bool], pieces: Sequence[Array]) -> bool:
    """Whether `work(piece, first row, last row)` holds for all rows of all pieces, on all threads.

    A piece is given by where its rows' values start, and where the last one's end; it is dealt out in spans of about as
    many values.
    """
    spans = [(number, *span) for number, values_R1 in enumerate(pieces) for span in _spans(values_R1)]
    values = sum(int(values_R1[-1]) - int(values_R1[0]) for values_R1 in pieces)
    threads = min(pa.cpu_count(), len(spans), values // LEAST_SPAN_VALUES)
    if threads <= 1:
        return all(work(*span) for span in spans)
    with ThreadPoolExecutor(threads, thread_name_prefix="spread") as pool:
        return all(pool.map(lambda span: work(*span), spans))


def _spans(values_R1: Array) -> Iterator[tuple[int, int]]:
    rows, values = len(values_R1) - 1, int(values_R1[-1]) - int(values_R1[0])
    spans = max(1, min(pa.cpu_count(), values // LEAST_SPAN_VALUES))
    inner = np.searchsorted(values_R1, values_R1[0] + np.arange(1, spans) * (values // spans))
    return pairwise([0, *inner.tolist(), rows])
