"""The loops of `spread`: from chunks to tokens. Apart from it, since numba takes a moment to import.

Legend of dimensions: see `pass_ops.reading.ragged`; B rows of a padded batch of T columns.
"""

from __future__ import annotations

from collections.abc import Callable
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


@jit.kernel
def spread_rows(
    first_R: int, last_R: int, starts_R1: Array, ends_K: Array, values_K: Array, tokens_R1: Array, out_N: Array
) -> bool:
    """Write each chunk's value at its tokens; False at ends that do not rise from above 0 to the row's length."""
    for r in range(first_R, last_R):
        ends = ends_K[starts_R1[r] : starts_R1[r + 1]]
        values = values_K[starts_R1[r] : starts_R1[r + 1]]
        out_T = out_N[tokens_R1[r] : tokens_R1[r + 1]]
        before = 0
        for k in range(len(ends)):
            end = ends[k]
            if end <= before or end > len(out_T):
                return False
            out_T[before] = values[k]  # most chunks of a process signal per token are one token
            for t in range(np.uint64(before + 1), np.uint64(end)):  # unsigned: no index counts from behind
                out_T[t] = values[k]
            before = end
    return True


@jit.kernel
def spread_padded(
    first_R: int, last_R: int, starts_R1: Array, ends_K: Array, values_K: Array, mask_R_T: Array, row_R: Array,
    out_B_T: Array,
) -> bool:  # fmt: skip
    """Write each chunk's value at its tokens that count in row row_R[r], and 0 everywhere else in it."""
    for r in range(first_R, last_R):
        ends = ends_K[starts_R1[r] : starts_R1[r + 1]]
        values = values_K[starts_R1[r] : starts_R1[r + 1]]
        out_T, mask_T, before = out_B_T[row_R[r]], mask_R_T[r], np.uint64(0)
        if len(ends) > 0 and ends[-1] == len(ends):  # every token is a chunk
            for t in range(len(ends)):
                out_T[t] = values[t] if mask_T[t] else np.float32(0.0)
            before = np.uint64(len(ends))
        else:
            for k in range(len(ends)):
                for t in range(before, np.uint64(ends[k])):
                    out_T[t] = values[k] if mask_T[t] else np.float32(0.0)
                before = np.uint64(ends[k])
        for t in range(before, np.uint64(len(out_T))):
            out_T[t] = np.float32(0.0)
    return True


def in_spans(work: Callable[[int, int], bool], values_R1: Array) -> bool:
    """Whether `work` holds for all rows, which are dealt out to all threads in spans of about as many values."""
    rows, values = len(values_R1) - 1, int(values_R1[-1]) - int(values_R1[0])
    spans = min(pa.cpu_count(), values // LEAST_SPAN_VALUES)
    if spans <= 1:
        return bool(work(0, rows))
    inner = np.searchsorted(values_R1, values_R1[0] + np.arange(1, spans) * (values // spans))
    with ThreadPoolExecutor(spans, thread_name_prefix="spread") as pool:
        return all(pool.map(lambda span: work(*span), pairwise([0, *inner.tolist(), rows])))
