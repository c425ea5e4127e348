"""The compiled loops of PASS's operations as one would write them in numpy, for kernel_shares.py to put in their place.

Each has its kernel's name and arguments. Sums run in numpy's order, so the last bits of a result may differ.
"""

from __future__ import annotations

import numpy as np

from pass_ops import standardize
from pass_ops.fusion import Fusion
from pass_ops.reading.ragged import Array, Elements, Tokens
from pass_ops.standardize import FINE, MASKED_NORM


def _mask_of(tokens: Tokens, r: int) -> Array | None:
    """Which tokens of row r count; None where all do."""
    start, stop = int(tokens.starts_R1[r]) - tokens.base, int(tokens.starts_R1[r + 1]) - tokens.base
    if tokens.unmasked_R[r] == stop - start:
        return None
    if len(tokens.mask_N):
        return np.asarray(tokens.mask_N[start:stop] != 0)
    first = start // 64
    words = tokens.mask_W[first : stop // 64 + 1].view(np.uint8)
    return np.unpackbits(words, bitorder="little")[start - 64 * first : stop - 64 * first].astype(np.bool_)


def _values_of(elements: Elements, r: int) -> Array:
    """The elements of row r that count."""
    values = elements.values[elements.starts_R1[r] : elements.starts_R1[r + 1]]
    mask = _mask_of(elements.tokens, r) if elements.per_token else None
    return values if mask is None else values[mask]


def count_unmasked(first_R: int, last_R: int, tokens: Tokens) -> None:
    ones = np.unpackbits(tokens.mask_W.view(np.uint8), bitorder="little")
    before = np.concatenate([[0], np.cumsum(ones, dtype=np.int32)])
    starts = tokens.starts_R1[first_R : last_R + 1] - tokens.base
    tokens.unmasked_R[first_R:last_R] = before[starts[1:]] - before[starts[:-1]]


def _write(cursor: int, ends: Array | list[int], scores: Array | list[float], ends_K: Array, scores_K: Array) -> int:
    stop = cursor + len(ends)
    ends_K[cursor:stop], scores_K[cursor:stop] = ends, scores
    return stop


def _no_credit(length: int) -> tuple[Array, Array]:
    return np.full(min(length, 1), length), np.zeros(min(length, 1))


def chunk_by_step(
    first_R: int, last_R: int, trainable_R: Array, tokens: Tokens, scores: Array, score_starts_R1: Array, ends: Array,
    end_starts_R1: Array, ends_K: Array, scores_K: Array, chunks_R1: Array,
) -> None:  # fmt: skip
    for r in range(first_R, last_R):
        length = int(tokens.starts_R1[r + 1] - tokens.starts_R1[r])
        row_scores = scores[score_starts_R1[r] : score_starts_R1[r + 1]]
        row_ends = ends[end_starts_R1[r] : end_starts_R1[r] + len(row_scores)]
        mask = _mask_of(tokens, r)
        if not trainable_R[r]:
            chunk = _no_credit(length)
        elif mask is None:
            chunk = row_ends, row_scores
        else:
            begins = np.append(0, row_ends[:-1])
            live = np.add.reduceat(mask, begins, dtype=np.int32) > 0
            at = np.flatnonzero(mask)
            chunk = np.append(at[np.searchsorted(at, begins[live])][1:], length), row_scores[live]
        chunks_R1[r + 1] = _write(int(chunks_R1[r]), *chunk, ends_K, scores_K)


def chunk_by_token(
    first_R: int, last_R: int, trainable_R: Array, tokens: Tokens, scores: Array, score_starts_R1: Array, ends: Array,
    end_starts_R1: Array, ends_K: Array, scores_K: Array, chunks_R1: Array,
) -> None:  # fmt: skip
    for r in range(first_R, last_R):
        length = int(tokens.starts_R1[r + 1] - tokens.starts_R1[r])
        row_scores = scores[score_starts_R1[r] : score_starts_R1[r + 1]]
        mask = _mask_of(tokens, r)
        if not trainable_R[r]:
            chunk = _no_credit(length)
        else:
            at = np.arange(length) if mask is None else np.flatnonzero(mask)
            row_ends = ends[end_starts_R1[r] : end_starts_R1[r] + len(row_scores)] if len(ends) else None
            element = at if row_ends is None else np.searchsorted(row_ends, at, side="right")
            chunk = np.append(at[1:], length), row_scores[element]
        chunks_R1[r + 1] = _write(int(chunks_R1[r]), *chunk, ends_K, scores_K)


def _cuts(trace: Array, at: Array, eta: float) -> Array:
    """Those of the tokens `at` before which the trace has moved by more than eta; a chunk's first value decides."""
    found: list[int] = []
    value = None
    for t, here in zip(at.tolist(), trace[at].tolist(), strict=True):
        if value is None:
            value = here
        elif abs(here - value) > eta:
            found.append(t)
            value = here
    return np.array(found, dtype=np.int64)


def chunk_by_trace(
    first_G: int, last_G: int, starts_G1: Array, used_R: Array, elements: Elements, center_G: Array, scale_G: Array,
    eta: float, trace_T: Array, shared_T: Array, ends_K: Array, scores_K: Array, chunks_R1: Array,
) -> None:  # fmt: skip
    tokens = elements.tokens
    for g in range(first_G, last_G):
        rows = range(int(starts_G1[g]), int(starts_G1[g + 1]))
        trace_T[:] = 0.0
        values = [elements.values[elements.starts_R1[r] : elements.starts_R1[r + 1]] for r in rows]
        masks = [_mask_of(tokens, r) for r in rows]
        here = [bool(used_R[r]) and tokens.unmasked_R[r] > 0 for r in rows]
        longest = 0
        for x, mask, counts in zip(values, masks, here, strict=True):
            if counts:
                d = x - center_G[g]
                trace_T[: len(x)] += d if mask is None else np.where(mask, d, 0.0)
                longest = max(longest, len(x))
        trace_T[:longest] /= scale_G[g] * used_R[rows.start : rows.stop].sum()
        shared = None
        for r, x, mask, counts in zip(rows, values, masks, here, strict=True):
            length = int(tokens.starts_R1[r + 1] - tokens.starts_R1[r])
            if not counts:
                chunk = _no_credit(length)
            else:
                if mask is None:
                    shared = _cuts(trace_T, np.arange(longest), eta) if shared is None else shared
                    ends = np.append(shared[: np.searchsorted(shared, length)], length)
                    last = ends - 1
                else:
                    at = np.flatnonzero(mask)
                    ends = np.append(_cuts(trace_T, at, eta), length)
                    last = at[np.searchsorted(at, ends) - 1]
                chunk = ends, x[last]
            chunks_R1[r + 1] = _write(int(chunks_R1[r]), *chunk, ends_K, scores_K)


def divide_length(
    first_G: int, last_G: int, starts_G1: Array, trainable_R: Array, fusion: Fusion, center_G: Array, scale_G: Array,
    powers: Array, chunks_R1: Array, working: Array, scores_K: Array, credits_K: Array, advantages_K: Array,
    path_R: Array,
) -> None:  # fmt: skip
    for g in range(first_G, last_G):
        for r in range(int(starts_G1[g]), int(starts_G1[g + 1])):
            row = slice(int(chunks_R1[r]), int(chunks_R1[r + 1]))
            if not trainable_R[r]:
                credits_K[row] = advantages_K[row] = 0.0
                path_R[r] = np.nan
                continue
            x = fusion.weight * scores_K[row].astype(np.float64) + fusion.add_R[r] - center_G[g]
            credit = fusion.slope_R[r] / scale_G[g] * x + fusion.base_R[r]
            credits_K[row] = credit
            advantages_K[row] = credit[::-1].cumsum()[::-1] * powers[len(powers) - len(credit) :]
            path_R[r] = advantages_K[row.start]


def first_beyond_float32(first_R: int, last_R: int, chunks_R1: Array, credits_K: Array, advantages_K: Array) -> int:
    start, stop = chunks_R1[first_R], chunks_R1[last_R]
    fine = np.isfinite(credits_K[start:stop]) & np.isfinite(advantages_K[start:stop])
    return -1 if fine.all() else int(np.searchsorted(chunks_R1, start + int(np.argmin(fine)), side="right")) - 1


def return_to_go(
    first_G: int, last_G: int, starts_G1: Array, trainable_R: Array, weight: float, tail_weights: Array, tail_R: Array,
    center_G: Array, scale_G: Array, chunks_R1: Array, working: Array, scores_K: Array, ends_K: Array,
    credits_K: Array, advantages_K: Array,
) -> None:  # fmt: skip
    written = stop = int(chunks_R1[starts_G1[first_G]])
    for g in range(first_G, last_G):
        for r in range(int(starts_G1[g]), int(starts_G1[g + 1])):
            start, stop = stop, int(chunks_R1[r + 1])
            total = np.zeros(stop - start)
            if trainable_R[r]:
                tail = (tail_weights * ((tail_R[:, r] - center_G[g]) / scale_G[g])).sum()
                x = weight * ((scores_K[start:stop].astype(np.float64) - center_G[g]) / scale_G[g])
                total = np.append(tail, x[::-1]).cumsum()[:0:-1]
            kept = np.append(total[1:] != total[:-1], [True] * (len(total) > 0))
            new = slice(written, written + int(kept.sum()))
            ends_K[new] = ends_K[start:stop][kept]
            credits_K[new] = advantages_K[new] = total[kept]
            written = chunks_R1[r + 1] = new.stop


def _moments(y: Array, shift: float) -> tuple[float, float, float]:
    d = y - shift
    return float(d.sum()), float((d * d).sum()), float(np.abs(y).max(initial=0.0))


def _fine(operator: int, total: float, squares: float) -> bool:
    return bool(np.isfinite(total) and (operator != MASKED_NORM or np.isfinite(squares)))


def group_statistics(
    first_G: int, last_G: int, starts_G1: Array, trainable_R: Array, pooled: bool, elements: Elements, weight: float,
    add_R: Array, used_R: Array, joined_R: Array, operator: int, ddof: int, eps: float, center_G: Array,
    scale_G: Array,
) -> int:  # fmt: skip
    for g in range(first_G, last_G):
        rows = np.arange(starts_G1[g], starts_G1[g + 1])
        pool = [weight * _values_of(elements, r).astype(np.float64) + add_R[r] for r in rows[trainable_R[rows]]]
        if not all(np.isfinite(y).all() for y in pool):
            return g
        y = np.concatenate([*(pool if pooled else ()), joined_R[:, rows[used_R[rows]]].ravel()])
        shift = float(y[0]) if len(y) else 0.0
        moments = _moments(y, shift)
        if not _fine(operator, *moments[:2]):
            return g
        center_G[g], scale_G[g] = standardize._center_and_scale(operator, len(y), shift, moments, ddof, eps)
    return FINE


def leave_one_out_statistics(
    first_G: int, last_G: int, starts_G1: Array, trainable_R: Array, pooled: bool, elements: Elements, weight: float,
    add_R: Array, used_R: Array, joined_R: Array, center_G: Array, scale_G: Array,
) -> int:  # fmt: skip
    for g in range(first_G, last_G):
        means = []
        for r in range(int(starts_G1[g]), int(starts_G1[g + 1])):
            y = np.zeros(0)
            if trainable_R[r]:
                y = weight * _values_of(elements, r).astype(np.float64) + add_R[r]
                if not np.isfinite(y).all():
                    return g
            values = np.concatenate([y if pooled else y[:0], joined_R[:, r]])
            if used_R[r] and len(values):
                means.append(values.mean())
        center_G[g], scale_G[g] = standardize._leave_one_out(len(means), 0.0, float(np.sum(means)))
    return FINE


def standardize_rows(
    starts_G1: Array, used_R: Array, x_R: Array, operator: int, ddof: int, eps: float, out_R: Array
) -> int:
    for g in range(len(starts_G1) - 1):
        rows = slice(int(starts_G1[g]), int(starts_G1[g + 1]))
        used = used_R[rows]
        x = x_R[rows][used]
        shift = float(x[0]) if len(x) else 0.0
        moments = _moments(x, shift)
        if not _fine(operator, *moments[:2]):
            return g
        center, scale = standardize._center_and_scale(operator, len(x), shift, moments, ddof, eps)
        out_R[rows][used] = (x - center) / scale + 0.0
    return FINE
