"""Chunk advantages spread over tokens: what a trainer multiplies each token's loss with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pass_ops.errors import LengthMismatchError, NullValueError, OutputOverflowError, StepEndsError
from pass_ops.reading import columns
from pass_ops.reading.columns import ArrowStream
from pass_ops.reading.ragged import Array, Ragged, falling, frozen, last_values, list_array, offsets, ragged, room

MOST_VALUES = 2**31 - 1


def token_advantages(shaped: ArrowStream) -> pa.ListArray:
    """Spread the chunk advantages of each rollout over its completion tokens.

    Args:
        shaped: a table with the columns chunk_ends (list<int32>) and chunk_advantages (list<float32>), as `shape`
            returns it; a pyarrow Table, or anything with `__arrow_c_stream__`.

    Returns:
        list<float32>, one value per completion token, masked tokens included (the loss mask decides what counts).
        Where every token is a chunk and the columns lie in one array each, as those of a part do, these are the chunks'
        own values, which are not copied.

    Raises:
        MissingColumnError, ColumnTypeError: a column is missing, or of another type.
        NullValueError: a list is null, or holds a null.
        LengthMismatchError: a rollout has more ends than advantages, or fewer.
        StepEndsError: the ends of a rollout do not increase strictly from above 0.
        OutputOverflowError: more tokens than one list array holds (2**31 - 1).
        ShapingError: `shaped` is no table; all of the above are ShapingErrors too.
    """
    shaped = columns.to_table(shaped)
    pieces = list(_pieces(shaped))
    tokens_R = np.concatenate([np.empty(0, np.int64), *(piece.tokens_R for piece in pieces)])
    if len(pieces) == 1 and _only_tokens(pieces[0]):
        return list_array(pieces[0].starts_R1, pieces[0].advantages_K)
    unfit = tokens_R.sum() > MOST_VALUES
    for piece in pieces:
        if (piece.tokens_R < piece.ends.lengths_R).any() or (unfit and falling(piece.ends).any()):
            _refuse_falling(shaped, piece)
    if unfit:
        raise OutputOverflowError(
            f"the table has {tokens_R.sum()} tokens and one list array holds {MOST_VALUES}; spread fewer rows at a time"
        )
    tokens_R1, out_N = offsets(tokens_R), room(int(tokens_R.sum()), np.float32)
    places = [frozen(tokens_R1[piece.first_R : piece.first_R + len(piece.starts_R1)]) for piece in pieces]
    from pass_ops import spread_rows

    def spread(p: int, first: int, last: int) -> bool:
        piece = pieces[p]
        return spread_rows.spread_rows(first, last, piece.starts_R1, piece.ends_K, piece.advantages_K, places[p], out_N)

    if not spread_rows.in_spans(spread, places):
        _refuse_falling(shaped, next(piece for piece in pieces if falling(piece.ends).any()))
    return list_array(tokens_R1, out_N)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Piece:
    """Consecutive rows of a table whose chunk columns lie in one array each, the first of them row first_R."""

    first_R: int
    ends: Ragged
    advantages: Ragged

    @cached_property
    def tokens_R(self) -> Array:
        """The length of each row in tokens, which is its last end."""
        return last_values(self.ends)

    @cached_property
    def starts_R1(self) -> Array:
        """Where each row's chunks start in ends_K and advantages_K."""
        return frozen(self.ends.starts_R1 - self.ends.starts_R1[0])

    @cached_property
    def ends_K(self) -> Array:
        return self.ends.values[self.ends.starts_R1[0] : self.ends.starts_R1[-1]]

    @cached_property
    def advantages_K(self) -> Array:
        return self.advantages.values[self.advantages.starts_R1[0] : self.advantages.starts_R1[-1]]


def _pieces(shaped: pa.Table) -> Iterator[_Piece]:
    """The table's chunks, as they lie; shape returns one for each thread."""
    named = {"chunk_ends": columns.LIST_OF_INT32, "chunk_advantages": columns.LIST_OF_FLOAT32}
    both = pa.table({name: columns.require(shaped, name, needed_by="token_advantages") for name in named})
    first_R = 0
    for batch in both.to_batches() or [pa.RecordBatch.from_pylist([], schema=both.schema)]:
        ends, advantages = (ragged(_lists(shaped, batch, first_R, *one)) for one in named.items())
        differ_R = ends.lengths_R != advantages.lengths_R
        if differ_R.any():
            row = int(np.argmax(differ_R))
            raise LengthMismatchError(
                f"{columns.rollout_name(shaped, first_R + row)}: chunk_ends has {ends.lengths_R[row]} values and "
                f"chunk_advantages {advantages.lengths_R[row]}; shape the rollouts again"
            )
        yield _Piece(first_R=first_R, ends=ends, advantages=advantages)
        first_R += len(batch)


def _lists(shaped: pa.Table, batch: pa.RecordBatch, first_R: int, name: str, kind: pa.DataType) -> pa.ListArray:
    array = columns.to_type(batch[name], kind, name=name, row_name=lambda row: f"row {first_R + row}")
    row = pc.index(array.is_null(), True).as_py() if array.null_count else columns.first_null_in_lists(array)
    if row is not None:
        raise NullValueError(
            f"{columns.rollout_name(shaped, first_R + row)}: {name} is or holds a null; shape the rollouts again"
        )
    return array


def _only_tokens(piece: _Piece) -> bool:
    """Whether every chunk is one token."""
    from pass_ops import spread_rows

    return bool(np.array_equal(piece.tokens_R, piece.ends.lengths_R)) and spread_rows.in_spans(
        lambda _, first, last: spread_rows.every_token(first, last, piece.starts_R1, piece.ends_K), [piece.starts_R1]
    )


def _refuse_falling(shaped: pa.Table, piece: _Piece) -> NoReturn:
    name = columns.rollout_name(shaped, piece.first_R + int(np.argmax(falling(piece.ends))))
    raise StepEndsError(f"{name}: chunk_ends do not increase strictly from above 0; shape the rollouts again")
