"""Chunk advantages spread over tokens, as one column and as a padded batch, against a copy of the result.

The copy is made on as many threads and into new memory of the same kind as the result. Where every token is a chunk,
the column is the chunks' own buffer, and what is left is to check that it may be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from bench_shape import make_table

from pass_ops import shape, token_advantages
from pass_ops.padded import _Batch
from pass_ops.reading.ragged import room
from stages.measure import Line, in_turns, line

LIMIT = 1.5
CASES = ("kl_random", "kl_runs", "kl_random_mixed_mask", "prm", "prm_mixed_mask")


def lines(folder: Path, *, quick: bool = False) -> Iterator[Line]:
    """Two lines a case, in processor time of all threads; nothing is written to the folder."""
    del folder
    tokens, repeats = (500_000, 3) if quick else (10_000_000, 11)
    for case in CASES:
        table, config = make_table(case, tokens)
        shaped = shape(table, config)
        lengths_B = np.diff(table["loss_mask"].combine_chunks().offsets)
        column = np.asarray(token_advantages(shaped).values).copy()
        yield measured(f"token_advantages: {case}", partial(token_advantages, shaped), partial(copied, column), repeats)
        padded = _Batch.of(np.arange(lengths_B.max()) < lengths_B[:, None], None)
        values_B_T = padded.padded(shaped)
        yield measured(f"padded [B, T]: {case}", partial(padded.padded, shaped), values_B_T.copy, repeats)


def measured(metric: str, ours: Callable[[], object], copy: Callable[[], np.ndarray], repeats: int) -> Line:
    """One line, per value of the result."""
    made, base = in_turns(repeats, ours, copy)
    values = copy().size
    return line(
        metric,
        value=1e9 * made.processor / values,
        unit="ns/value",
        against=f"a copy: {1e9 * base.processor / values:.2f}",
        ratio=made.processor / base.processor,
        limit=LIMIT,
        values=values,
        threads=pa.cpu_count(),
    )


def copied(values: np.ndarray) -> np.ndarray:
    """A copy in memory of Arrow's pool, made on all threads."""
    out, threads = room(len(values), values.dtype), pa.cpu_count()
    spans = [slice(*cut) for cut in pairwise(np.linspace(0, len(values), threads + 1).astype(int))]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda span: np.copyto(out[span], values[span]), spans))
    return out
