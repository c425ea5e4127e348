"""Padded arrays as the table of rollouts that `shape` reads, and its chunks as padded arrays again; `pass_ops.torch`.

A padded batch is a table whose padding is masked, so its memory is the table's. Legend of dimensions: see
`pass_ops.reading.ragged`; B rows of a batch of T columns, K the most steps of one; a suffix alone says the order of
the rows: the batch's in `shape_padded`, group by group in `_Batch`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from pass_ops import spread_rows
from pass_ops.errors import (
    ColumnTypeError,
    LengthMismatchError,
    MissingColumnError,
    NullValueError,
    OptionError,
    OutputOverflowError,
    StepEndsError,
)
from pass_ops.options.config import ShapingConfig
from pass_ops.reading.columns import shortened
from pass_ops.reading.ragged import Array, Ragged, frozen, last_values, list_array, offsets, ragged
from pass_ops.shaping import shape
from pass_ops.spread import MOST_VALUES


def shape_padded(
    config: ShapingConfig,
    *,
    mask: Array,
    group_index: Array,
    scores: Array | None,
    ends: Array | None,
    outcome: Array | None,
    format: Array | None,  # noqa: A002 - the method's word
    format_ok: Array | None,
) -> tuple[Array, Array]:
    """(advantages [B, T] float32, trainable [B] bool) of a padded batch. Arguments and errors: `pass_ops.torch`."""
    mask_B_T = _mask(mask)
    _check_given(config, scores=scores, ends=ends, outcome=outcome, format=format, format_ok=format_ok)
    order_B, codes_B = _order(group_index, rows=len(mask_B_T))
    batch = _Batch.of(mask_B_T, order_B)
    steps = process = None
    if scores is not None and (config.reads_process or config.streams is not None):
        process = batch.ordered(_floats(scores, name="scores", like=mask_B_T.shape if ends is None else None))
        if ends is not None:
            steps = _Steps.of(process, batch.ordered(_ends(ends, mask_B_T, like=process.shape)), batch.mask_B_T)
    if _is_function_of_a_group(config):
        batch = batch.unpadded(None if steps is None else steps.lasts_B)
    given = {
        "rollout_id": pa.array(np.arange(len(codes_B)) if order_B is None else order_B),
        "group_id": pa.array(codes_B),
        "loss_mask": batch.lists(batch.mask_B_T),
    }
    if steps is not None:
        given |= steps.columns(batch.lengths_B)
    elif process is not None:
        given["process_scores"] = batch.lists(process, missing_B=_nan_rows(process, batch.mask_B_T))
    for name, rewards in (("outcome", outcome), ("format", format), ("format_ok", format_ok)):
        if rewards is not None:
            column = name if name == "format_ok" else f"{name}_reward"
            given[column] = _rewards(batch.ordered(_floats(rewards, name=name, like=mask_B_T.shape[:1])), name=name)
    shaped = shape(pa.table(given), config)
    advantages = batch.padded(shaped)
    trainable = batch.in_batch_order(shaped["trainable"].to_numpy())
    return advantages, trainable


@dataclass(frozen=True, kw_only=True, eq=False)
class _Batch:
    """The rows as `shape` reads them: group by group, each as long as the batch is wide or without its padding.

    Attributes:
        mask_B_T: the mask of the rows in that order.
        order_B: which row of the batch each one is; None where they are in that order already.
        lengths_B: tokens of each row that `shape` sees.
        kept_B_T: which places these are; None where all.
    """

    mask_B_T: Array
    order_B: Array | None
    lengths_B: Array
    kept_B_T: Array | None = None

    @staticmethod
    def of(mask_B_T: Array, order_B: Array | None) -> _Batch:
        """Rows with their padding."""
        ordered = mask_B_T if order_B is None else mask_B_T[order_B]
        return _Batch(mask_B_T=ordered, order_B=order_B, lengths_B=np.full(len(ordered), ordered.shape[1]))

    def unpadded(self, least_B: Array | None) -> _Batch:
        """The same rows up to the last token that counts, of at least these lengths."""
        rows, tokens = self.mask_B_T.shape
        lengths_B = np.zeros(rows, dtype=np.int64)
        if tokens:
            lengths_B = np.where(self.mask_B_T.any(1), tokens - np.argmax(self.mask_B_T[:, ::-1], axis=1), 0)
        lengths_B = lengths_B if least_B is None else np.maximum(lengths_B, least_B)
        kept_B_T = np.arange(tokens) < lengths_B[:, None]
        return _Batch(mask_B_T=self.mask_B_T, order_B=self.order_B, lengths_B=lengths_B, kept_B_T=kept_B_T)

    def ordered(self, values: Array) -> Array:
        """Values in the batch's order, in this one; a copy only where rows change places."""
        return values if self.order_B is None else values[self.order_B]

    def in_batch_order(self, values: Array) -> Array:
        """Values in this order, in the batch's; always a copy, which torch may write to."""
        found = np.empty_like(values)
        found[slice(None) if self.order_B is None else self.order_B] = values
        return found

    def lists(self, values_B_T: Array, *, missing_B: Array | None = None) -> pa.ListArray:
        """One list a row of its tokens' values; null where missing."""
        flat_N = values_B_T.reshape(-1) if self.kept_B_T is None else values_B_T[self.kept_B_T]
        nulls = pa.array(missing_B) if missing_B is not None and missing_B.any() else None
        return pa.ListArray.from_arrays(offsets(self.lengths_B), pa.array(flat_N), mask=nulls)

    def padded(self, shaped: pa.Table) -> Array:
        """The tokens' advantages as [B, T] in the batch's order; 0 where a token does not count."""
        rows, tokens = self.mask_B_T.shape
        out_B_T = np.empty((rows, tokens), dtype=np.float32)
        row_R = frozen(np.arange(rows) if self.order_B is None else self.order_B)
        mask = frozen(np.ascontiguousarray(self.mask_B_T))
        batches = shaped.select(["chunk_ends", "chunk_advantages"]).to_batches()
        firsts = np.cumsum([0, *map(len, batches)]).tolist()
        lists = [(ragged(batch["chunk_ends"]), ragged(batch["chunk_advantages"])) for batch in batches]
        given = [
            (ends.starts_R1, ends.values, advantages.values, mask[first:last], row_R[first:last], out_B_T)
            for (ends, advantages), (first, last) in zip(lists, pairwise(firsts), strict=True)
        ]
        spread_rows.in_spans(
            lambda piece, first, last: spread_rows.spread_padded(first, last, *given[piece]),
            [np.arange(len(batch) + 1) * tokens for batch in batches],
        )
        return out_B_T


@dataclass(frozen=True, kw_only=True, eq=False)
class _Steps:
    """The steps of all rows, one row after the other."""

    starts_B1: Array
    scores_E: Array
    ends_E: Array
    unknown_B: Array  # a score that is about a token that counts is NaN

    @staticmethod
    def of(scores_B_K: Array, ends_B_K: Array, mask_B_T: Array) -> _Steps:
        """Read padded steps whose ends `_ends` has checked."""
        filled_B_K = ends_B_K > 0
        starts_B1 = offsets(filled_B_K.sum(1))
        ends_E = ends_B_K[filled_B_K].astype(np.int32)
        scores_E = scores_B_K[filled_B_K]
        unknown_B = np.zeros(len(starts_B1) - 1, dtype=np.bool_)
        nan_E = np.flatnonzero(np.isnan(scores_E))
        if len(nan_E):
            row_E = np.searchsorted(starts_B1, nan_E, side="right") - 1
            first_E = np.where(nan_E == starts_B1[row_E], 0, ends_E[nan_E - 1])
            counted_B_T1 = np.pad(np.cumsum(mask_B_T, axis=1), ((0, 0), (1, 0)))
            live_E = counted_B_T1[row_E, ends_E[nan_E]] > counted_B_T1[row_E, first_E]
            unknown_B[row_E[live_E]] = True
        return _Steps(starts_B1=starts_B1, scores_E=scores_E, ends_E=ends_E, unknown_B=unknown_B)

    @property
    def lasts_B(self) -> Array:
        """Where the last step of each row ends; 0 where there is none."""
        return last_values(Ragged(starts_R1=self.starts_B1, values=self.ends_E))

    def columns(self, lengths_B: Array) -> dict[str, pa.Array]:
        """process_scores and process_ends of rows of these lengths: what follows the last step, which does not count,
        is its own, or a step of its own in a row without steps.
        """
        counts_B = np.diff(self.starts_B1)
        bare_B = (counts_B == 0) & (lengths_B > 0)
        at_F = self.starts_B1[:-1][bare_B]
        starts_B1 = offsets(counts_B + bare_B)
        ends_E = np.insert(self.ends_E, at_F, 0)
        ends_E[starts_B1[1:][lengths_B > 0] - 1] = lengths_B[lengths_B > 0]
        scores = pa.array(np.insert(self.scores_E, at_F, 0.0))
        nulls = pa.array(self.unknown_B) if self.unknown_B.any() else None
        return {
            "process_scores": pa.ListArray.from_arrays(starts_B1, scores, mask=nulls),
            "process_ends": list_array(starts_B1, ends_E),
        }


def _check_given(config: ShapingConfig, **given: Array | None) -> None:
    """Raise MissingColumnError for a stream that the options need, OptionError for ends that they do not take."""
    if config.streams is not None:  # they say by name what they read
        return
    weights = config.weights
    if config.reads_process and given["scores"] is None:
        raise MissingColumnError(
            f"scores are missing: estimator {config.estimator!r} reads the process signal; give one score for each "
            f"{'step' if config.signal == 'prm' else 'token'}"
        )
    if config.reads_process and (given["ends"] is None) != (config.signal == "kl"):
        if config.signal == "kl":
            raise OptionError("config.signal is 'kl', one score per token, and ends were given; set signal='prm'")
        raise MissingColumnError(
            "ends are missing: config.signal is 'prm', one score per step; give the exclusive token end of each step, "
            "or set signal='kl' if there is one score per token"
        )
    if weights.outcome != 0.0 and given["outcome"] is None:
        raise MissingColumnError(
            f"outcome is missing: weights.outcome is {weights.outcome:g}; give the outcome rewards, or set it to 0"
        )
    if weights.format != 0.0 and given["format"] is None and given["format_ok"] is None:
        raise MissingColumnError(
            f"format and format_ok are both missing: weights.format is {weights.format:g}; give one of them, or set it "
            "to 0 to shape without a format stream"
        )


def _is_function_of_a_group(config: ShapingConfig) -> bool:
    """Whether the estimator may count a row's tokens, so that it must not see padding."""
    return config.streams is not None or config.method is None or config.method.by_group


def _floats(values: Array, *, name: str, like: tuple[int, ...] | None) -> Array:
    """Scores [B, ...] or rewards [B] in their own width; of the shape `like`."""
    if like is not None and values.shape != like:
        raise LengthMismatchError(
            f"{name}: the shape is {list(values.shape)}, and the mask's rows{' and tokens' * (len(like) > 1)} ask for "
            f"{list(like)}; give one value for each"
        )
    if values.dtype.kind == "b":
        if name == "scores":
            raise ColumnTypeError("scores: expected floating point numbers, got bool; give the process signal")
        return values if name == "format_ok" else values.astype(np.float32)
    return values


def _mask(mask: Array) -> Array:
    """The mask as bools [B, T]."""
    if mask.ndim != 2:
        raise LengthMismatchError(f"mask: the shape is {list(mask.shape)}, expected [rows, tokens]")
    if mask.size > MOST_VALUES:
        raise OutputOverflowError(
            f"mask: {mask.size} tokens, and at most {MOST_VALUES} fit; shape fewer rows at a time"
        )
    return _bools(mask, name="mask")


def _bools(values: Array, *, name: str, ignored: Array | None = None) -> Array:
    """Numbers that are 0 or 1 as bools; those ignored become False."""
    if values.dtype.kind == "b":
        return values
    found: Array = values == 1
    wrong = ~found & (values != 0)
    if ignored is not None:
        wrong &= ~ignored
    if wrong.any():
        place = tuple(int(at[0]) for at in np.nonzero(wrong))
        where = f"{name}{list(place[1:])}" if len(place) > 1 else name
        raise ColumnTypeError(f"rollout {place[0]}: {where} is {values[place]}, expected 0 or 1; say whether")
    return found


def _rewards(values_B: Array, *, name: str) -> pa.Array:
    """One number a row, null where NaN; bools for format_ok."""
    missing_B = np.isnan(values_B) if values_B.dtype.kind == "f" else np.zeros(len(values_B), dtype=np.bool_)
    if name == "format_ok":
        values_B = _bools(values_B, name=name, ignored=missing_B)
    return pa.array(values_B, mask=missing_B if missing_B.any() else None)


def _nan_rows(scores_B_T: Array, mask_B_T: Array) -> Array | None:
    """Rows with a NaN at a token that counts; None where there is no NaN at all."""
    if scores_B_T.dtype.kind != "f" or not np.isnan(scores_B_T.min(initial=0.0)):
        return None
    return np.asarray((np.isnan(scores_B_T) & mask_B_T).any(1))


def _ends(ends: Array, mask_B_T: Array, *, like: tuple[int, ...]) -> Array:
    """Exclusive token ends [B, K], filled up with 0; of bool ends [B, T] with gaps of 0, which the steps leave out."""
    tokens = mask_B_T.shape[1]
    if ends.dtype.kind not in "iub":
        raise ColumnTypeError(
            f"ends: expected integers (exclusive token ends) or bools [rows, tokens], got {ends.dtype}"
        )
    wanted = mask_B_T.shape if ends.dtype.kind == "b" else (len(mask_B_T), *ends.shape[1:2])
    if ends.ndim != 2 or ends.shape != wanted or like != ends.shape:
        raise LengthMismatchError(
            f"ends: the shape is {list(ends.shape)}, that of scores {list(like)} and of the mask "
            f"{list(mask_B_T.shape)}; give one score and one end for each step, or both for each token with bool ends"
        )
    if ends.dtype.kind == "b":
        ends = np.where(ends, np.arange(1, tokens + 1), 0)
    else:
        _check_ascending(ends, tokens=tokens)
    lasts_B = ends.max(axis=1, initial=0)
    late_B_T = mask_B_T & (np.arange(tokens) >= lasts_B[:, None])
    if late_B_T.any():
        row, token = (int(at[0]) for at in np.nonzero(late_B_T))
        raise StepEndsError(
            f"rollout {row}: token {token} counts and lies after the last step, which ends at {lasts_B[row]}; end the "
            "last step where the completion ends, or mask what follows (a missing signal is a score of NaN)"
        )
    return ends


def _check_ascending(ends_B_K: Array, *, tokens: int) -> None:
    filled_B_K = ends_B_K != 0
    rises_B_K = np.ones(ends_B_K.shape, dtype=np.bool_)
    rises_B_K[:, 1:] = ends_B_K[:, 1:] > ends_B_K[:, :-1]
    wrong_B = (filled_B_K & ~(rises_B_K & (ends_B_K > 0) & (ends_B_K <= tokens))).any(1)
    wrong_B |= (filled_B_K[:, 1:] & ~filled_B_K[:, :-1]).any(1)
    if wrong_B.any():
        row = int(np.argmax(wrong_B))
        raise StepEndsError(
            f"rollout {row}: ends are {shortened(ends_B_K[row].tolist())} in a batch of {tokens} tokens; give "
            f"exclusive token ends that ascend from above 0 to at most {tokens}, and fill up with 0 behind them"
        )


def _order(found: Array, *, rows: int) -> tuple[Array | None, Array]:
    """The order that brings the rows of each group together, None where they are, and each one's group number in it."""
    if found.shape != (rows,):
        raise LengthMismatchError(
            f"group_index: the shape is {list(found.shape)}, and the mask has {rows} rows; give one for each rollout"
        )
    if found.dtype.kind in "fc":
        raise ColumnTypeError(f"group_index: expected integers or strings, got {found.dtype}; number the prompts")
    numbers: dict[Any, int] = {}
    codes_B = np.fromiter((numbers.setdefault(key, len(numbers)) for key in found.tolist()), dtype=np.int64, count=rows)
    for key, code in numbers.items():
        if key is None or key != key:  # noqa: PLR0124 - NaN
            row = int(np.argmax(codes_B == code))
            raise NullValueError(
                f"rollout {row}: group_index is {key}, so it belongs to no group; give its prompt's id"
            )
    if np.count_nonzero(codes_B[1:] != codes_B[:-1]) + 1 <= len(numbers):
        return None, codes_B
    order_B = np.argsort(codes_B, kind="stable")
    return order_B, codes_B[order_B]
