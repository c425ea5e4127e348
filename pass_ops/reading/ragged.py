"""List columns as offsets and values, without a copy, and rows as the kernels see them.

Legend of dimensions: _R rows (rollouts), _R1 rows + 1 (offsets), _G groups, _G1 groups + 1 (offsets), _N tokens,
_E elements of the process signal (steps under `prm`, tokens under `kl`), _K chunks, _T positions in a completion.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import DTypeLike

Array = np.ndarray[Any, Any]  # one-dimensional where nothing else is said


class Tokens(NamedTuple):
    """The tokens of some rows. Token t of row r counts if value starts_R1[r] - base + t of the mask is 1.

    The mask is there as bits, 64 in a word, the lowest first, and, under `kl` and where tokens are chunks, as bytes.
    Read it only in rows where unmasked_R[r] is neither 0 nor the length.
    """

    starts_R1: Array  # int32
    unmasked_R: Array  # int32
    mask_W: Array  # uint64
    mask_N: Array  # uint8
    base: int


class Elements(NamedTuple):
    """The elements of the process signal that form the pools: row r has values[starts_R1[r]:starts_R1[r + 1]].

    With per_token these are its tokens, of which the unmasked ones count; else its steps that have an unmasked token.
    """

    values: Array  # float32
    starts_R1: Array  # int32
    per_token: bool
    tokens: Tokens


@dataclass(frozen=True, kw_only=True)
class Ragged:
    """A list column: row r has values[starts_R1[r]:starts_R1[r + 1]]; behind a null row anything may lie."""

    starts_R1: Array
    values: Array

    @cached_property
    def lengths_R(self) -> Array:
        return self.starts_R1[1:] - self.starts_R1[:-1]

    def row(self, r: int) -> Array:
        """The values of row r."""
        return self.values[self.starts_R1[r] : self.starts_R1[r + 1]]


@dataclass(frozen=True, kw_only=True)
class RaggedBits:
    """A list column of bools, still packed as Arrow packs them."""

    starts_R1: Array
    bits: pa.BooleanArray

    @cached_property
    def lengths_R(self) -> Array:
        return self.starts_R1[1:] - self.starts_R1[:-1]

    def all_true(self) -> bool:
        """Whether every bool of every row is True."""
        start, stop = int(self.starts_R1[0]), int(self.starts_R1[-1])
        if start == stop:
            return True
        packed, base = self.packed(start, stop)
        before, after = (1 << start - base) - 1, 0xFF << 8 - (base + 8 * len(packed) - stop) & 0xFF  # not ours
        if len(packed) == 1:
            return int(packed[0]) | before | after == 0xFF
        edges = int(packed[0]) | before, int(packed[-1]) | after
        return bool(edges == (0xFF, 0xFF) and packed[1:-1].min(initial=0xFF) == 0xFF)

    def row(self, r: int) -> Array:
        """The bools of row r."""
        start, stop = int(self.starts_R1[r]), int(self.starts_R1[r + 1])
        packed, base = self.packed(start, stop)
        return np.unpackbits(packed, bitorder="little")[start - base : stop - base].astype(np.bool_)

    def packed(self, start: int, stop: int) -> tuple[Array, int]:
        """The bytes that hold the bools from `start` to `stop`, lowest bit first, and which bool the first bit is."""
        first, last = self.bits.offset + start, self.bits.offset + stop
        buffer = self.bits.buffers()[1]
        bytes_ = np.empty(0, np.uint8) if buffer is None else np.frombuffer(buffer, np.uint8)
        return bytes_[first // 8 : -(-last // 8)], start - first % 8


def ragged(array: pa.ListArray) -> Ragged:
    """View a list array of float32 or int32."""
    values = array.values
    dtype = np.float32 if values.type == pa.float32() else np.int32
    buffer = values.buffers()[1]
    flat = np.empty(0, dtype) if buffer is None else np.frombuffer(buffer, dtype)
    return Ragged(starts_R1=_offsets(array), values=frozen(flat[values.offset : values.offset + len(values)]))


def ragged_bits(array: pa.ListArray) -> RaggedBits:
    """View a list array of bools."""
    return RaggedBits(starts_R1=_offsets(array), bits=array.values)


def falling(ends: Ragged) -> Array:
    """Rows (bool) whose values do not increase strictly from above 0, as exclusive ends must."""
    start, stop = int(ends.starts_R1[0]), int(ends.starts_R1[-1])
    values_E = ends.values[start:stop]
    first_F = (ends.starts_R1[:-1] - start).astype(np.intp)
    filled_R = ends.lengths_R > 0
    if not filled_R.all():
        first_F = first_F[filled_R]
    rises_E = np.empty(len(values_E), dtype=np.bool_)
    np.greater(values_E[1:], values_E[:-1], out=rises_E[1:])
    rises_E[first_F] = values_E[first_F] > 0
    falling_R = np.zeros(len(filled_R), dtype=np.bool_)
    if not rises_E.all():
        falling_R[np.searchsorted(ends.starts_R1, np.flatnonzero(~rises_E) + start, side="right") - 1] = True
    return falling_R


def last_values(column: Ragged) -> Array:
    """The last value of each row; 0 for an empty one."""
    filled_R, starts_R1 = column.lengths_R > 0, column.starts_R1.astype(np.intp)
    if filled_R.all():
        return column.values[starts_R1[1:] - 1]
    last_R = np.zeros(len(filled_R), dtype=column.values.dtype)
    last_R[filled_R] = column.values[starts_R1[1:][filled_R] - 1]
    return last_R


def frozen(array: Array) -> Array:
    """`array` read-only: numba compiles a kernel anew for every mix of writable and read-only arguments."""
    if not array.flags.writeable:
        return array
    view = array.view()
    view.flags.writeable = False
    return view


def room(values: int, dtype: DTypeLike) -> np.ndarray:
    """An uninitialized array from Arrow's memory pool, which hands pages out again instead of returning them."""
    kind = np.dtype(dtype)
    return np.frombuffer(pa.allocate_buffer(max(values, 1) * kind.itemsize), dtype=kind)[:values]


def one_chunk(column: pa.ChunkedArray) -> pa.Array:
    """The column as one array; copies only where it is made of several."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], type=column.type)


def list_lengths(column: pa.Array | pa.ChunkedArray) -> Array:
    """The number of values of each list (int64); 0 for a null.

    >>> list_lengths(pa.array([[1, 2], None, []]))
    array([2, 0, 0])
    """
    array = column.chunk(0) if isinstance(column, pa.ChunkedArray) and column.num_chunks == 1 else column
    if isinstance(array, pa.ListArray) and not array.null_count:
        starts_R1 = _offsets(array)
        return (starts_R1[1:] - starts_R1[:-1]).astype(np.int64)
    counts_R: Array = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    return counts_R.astype(np.int64)


def list_values(column: pa.Array | pa.ChunkedArray) -> Array:
    """The values of all lists, one list after the other, in their own dtype; a null list has none.

    >>> list_values(pa.array([[1, 2], None, [3]]))
    array([1, 2, 3])
    """
    values = pc.list_flatten(column)
    values = one_chunk(values) if isinstance(values, pa.ChunkedArray) else values
    found: Array = values.to_numpy(zero_copy_only=False)
    return found


def offsets(counts_R: Array) -> Array:
    """Where rows of these lengths start when they lie one after the other, and where the last one ends."""
    starts_R1 = np.zeros(len(counts_R) + 1, dtype=np.int32)
    np.cumsum(counts_R, out=starts_R1[1:])
    return starts_R1


def list_array(starts_R1: Array, values: Array, *, valid_R: Array | None = None) -> pa.ListArray:
    """A list array over offsets (`offsets`) and int32, float32 or bool `values`; null where not valid_R.

    Numbers are not copied.
    """
    if values.dtype == np.bool_:
        flat = pa.array(values)
    else:
        kind = pa.int32() if values.dtype == np.int32 else pa.float32()
        flat = pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])
    mask = None if valid_R is None or valid_R.all() else pa.array(~valid_R)
    return pa.ListArray.from_arrays(starts_R1, flat, mask=mask)


def _offsets(array: pa.ListArray) -> Array:
    if len(array) == 0:
        return frozen(np.zeros(1, np.int32))
    starts = np.frombuffer(array.buffers()[1], np.int32)
    return frozen(starts[array.offset : array.offset + len(array) + 1])
