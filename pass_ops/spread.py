"""Chunk advantages spread over tokens: what a trainer multiplies each token's loss with."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pass_ops.errors import LengthMismatchError, NullValueError, OutputOverflowError, StepEndsError
from pass_ops.reading import columns
from pass_ops.reading.columns import ArrowStream
from pass_ops.reading.ragged import falling, last_values, list_array, offsets, one_chunk, ragged

MOST_VALUES = 2**31 - 1


def token_advantages(shaped: ArrowStream) -> pa.ListArray:
    """Spread the chunk advantages of each rollout over its completion tokens.

    Args:
        shaped: a table with the columns chunk_ends (list<int32>) and chunk_advantages (list<float32>), as `shape`
            returns it; a pyarrow Table, or anything with `__arrow_c_stream__`.

    Returns:
        list<float32>, one value per completion token, masked tokens included (the loss mask decides what counts).

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
    falling_R = falling(ends)
    if falling_R.any():
        name = columns.rollout_name(shaped, int(np.argmax(falling_R)))
        raise StepEndsError(f"{name}: chunk_ends do not increase strictly from above 0; shape the rollouts again")
    ends_K = ends.values[ends.starts_R1[0] : ends.starts_R1[-1]]
    advantages_K = advantages.values[advantages.starts_R1[0] : advantages.starts_R1[-1]]
    first_K = (ends.starts_R1[:-1] - ends.starts_R1[0])[counts_R > 0]
    tokens_K = np.diff(ends_K, prepend=ends_K[:1])
    tokens_K[first_K] = ends_K[first_K]
    tokens_R = last_values(ends).astype(np.int64)
    if tokens_R.sum() > MOST_VALUES:
        raise OutputOverflowError(
            f"the table has {tokens_R.sum()} tokens and one list array holds {MOST_VALUES}; spread fewer rows at a time"
        )
    return list_array(offsets(tokens_R), np.repeat(advantages_K, tokens_K))


def _lists(shaped: pa.Table, name: str, kind: pa.DataType) -> pa.ListArray:
    array = columns.to_type(one_chunk(columns.require(shaped, name, needed_by="token_advantages")), kind, name=name)
    row = pc.index(array.is_null(), True).as_py() if array.null_count else columns.first_null_in_lists(array)
    if row is not None:
        raise NullValueError(
            f"{columns.rollout_name(shaped, row)}: {name} is or holds a null; shape the rollouts again"
        )
    return array
