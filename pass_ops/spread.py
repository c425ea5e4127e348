"""Chunk advantages spread over tokens: what a trainer multiplies each token's loss with."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pass_ops import columns
from pass_ops.errors import LengthMismatchError, NullValueError, OutputOverflowError, StepEndsError
from pass_ops.ragged import list_array, offsets, one_chunk, ragged

MOST_VALUES = 2**31 - 1


def token_advantages(shaped: pa.Table) -> pa.ListArray:
    """Spread the chunk advantages of each rollout over its completion tokens.

    Args:
        shaped: a table with the columns chunk_ends and chunk_advantages, as `shape` returns it.

    Returns:
        list<float32>, one value per completion token, masked tokens included (the loss mask decides what counts).

    Raises:
        ShapingError: a column is missing or null, or ends and advantages of a rollout do not fit each other.
    """
    columns.require_table(shaped)
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
    ends_K = ends.values[ends.starts_R1[0] : ends.starts_R1[-1]]
    advantages_K = advantages.values[advantages.starts_R1[0] : advantages.starts_R1[-1]]
    filled_R = counts_R > 0
    first_K = (ends.starts_R1[:-1] - ends.starts_R1[0])[filled_R]
    tokens_K = np.diff(ends_K, prepend=ends_K[:1])
    tokens_K[first_K] = ends_K[first_K]
    if (tokens_K <= 0).any():
        row = int(np.searchsorted(ends.starts_R1 - ends.starts_R1[0], np.argmax(tokens_K <= 0), side="right")) - 1
        raise StepEndsError(
            f"{columns.rollout_name(shaped, row)}: chunk_ends do not increase strictly from above 0; "
            "shape the rollouts again"
        )
    tokens_R = np.zeros(len(counts_R), dtype=np.int64)
    tokens_R[filled_R] = ends_K[first_K + counts_R[filled_R] - 1]
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
