"""Chunk advantages spread over tokens: what a trainer multiplies each token's loss with."""

from __future__ import annotations

from typing import NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pass_ops.errors import LengthMismatchError, NullValueError, OutputOverflowError, StepEndsError
from pass_ops.reading import columns
from pass_ops.reading.columns import ArrowStream
from pass_ops.reading.ragged import Ragged, falling, frozen, last_values, list_array, offsets, one_chunk, ragged, room

MOST_VALUES = 2**31 - 1


def token_advantages(shaped: ArrowStream) -> pa.ListArray:
    """Spread the chunk advantages of each rollout over its completion tokens.

    Args:
        shaped: a table with the columns chunk_ends (list<int32>) and chunk_advantages (list<float32>), as `shape`
            returns it; a pyarrow Table, or anything with `__arrow_c_stream__`.

    Returns:
        list<float32>, one value per completion token, masked tokens included (the loss mask decides what counts).
        Where every token is a chunk these are the chunks' own values, which are not copied.

    Raises:
        MissingColumnError, ColumnTypeError: a column is missing, or of another type.
        NullValueError: a list is null, or holds a null.
        LengthMismatchError: a rollout has more ends than advantages, or fewer.
        StepEndsError: the ends of a rollout do not increase strictly from above 0.
        OutputOverflowError: more tokens than one list array holds (2**31 - 1).
        ShapingError: `shaped` is no table; all of the above are ShapingErrors too.
    """
    shaped = columns.to_table(shaped)
    ends = ragged(_lists(shaped, "chunk_ends", columns.LIST_OF_INT32))
    advantages = ragged(_lists(shaped, "chunk_advantages", columns.LIST_OF_FLOAT32))
    counts_R = ends.lengths_R
    differ_R = counts_R != advantages.lengths_R
    if differ_R.any():
        row = int(np.argmax(differ_R))
        raise LengthMismatchError(
            f"{columns.rollout_name(shaped, row)}: chunk_ends has {counts_R[row]} values and chunk_advantages "
            f"{advantages.lengths_R[row]}; shape the rollouts again"
        )
    from pass_ops import spread_rows

    starts_R1 = frozen(ends.starts_R1 - ends.starts_R1[0])
    ends_K = ends.values[ends.starts_R1[0] : ends.starts_R1[-1]]
    advantages_K = advantages.values[advantages.starts_R1[0] : advantages.starts_R1[-1]]
    tokens_R = last_values(ends).astype(np.int64)
    chunks = starts_R1, ends_K
    if np.array_equal(tokens_R, counts_R) and spread_rows.in_spans(
        lambda first, last: spread_rows.every_token(first, last, *chunks), starts_R1
    ):
        return list_array(starts_R1, advantages_K)
    unfit = tokens_R.sum() > MOST_VALUES
    if (tokens_R < counts_R).any() or (unfit and falling(ends).any()):
        _refuse_falling(shaped, ends)
    if unfit:
        raise OutputOverflowError(
            f"the table has {tokens_R.sum()} tokens and one list array holds {MOST_VALUES}; spread fewer rows at a time"
        )
    tokens_R1, out_N = offsets(tokens_R), room(int(tokens_R.sum()), np.float32)
    if not spread_rows.in_spans(
        lambda first, last: spread_rows.spread_rows(first, last, *chunks, advantages_K, tokens_R1, out_N), tokens_R1
    ):
        _refuse_falling(shaped, ends)
    return list_array(tokens_R1, out_N)


def _refuse_falling(shaped: pa.Table, ends: Ragged) -> NoReturn:
    name = columns.rollout_name(shaped, int(np.argmax(falling(ends))))
    raise StepEndsError(f"{name}: chunk_ends do not increase strictly from above 0; shape the rollouts again")


def _lists(shaped: pa.Table, name: str, kind: pa.DataType) -> pa.ListArray:
    array = columns.to_type(one_chunk(columns.require(shaped, name, needed_by="token_advantages")), kind, name=name)
    row = pc.index(array.is_null(), True).as_py() if array.null_count else columns.first_null_in_lists(array)
    if row is not None:
        raise NullValueError(
            f"{columns.rollout_name(shaped, row)}: {name} is or holds a null; shape the rollouts again"
        )
    return array
