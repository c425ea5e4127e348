"""List columns as offsets and values, without a copy, and rows as the kernels see them.

Legend of dimensions: _R rows (rollouts), _R1 rows + 1 (offsets), _G groups, _G1 groups + 1 (offsets), _N tokens,
_E elements of the process signal (steps under `prm`, tokens under `kl`), _K chunks, _T positions in a completion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

Array = np.ndarray[Any, Any]  # one-dimensional where nothing else is said


class Elements(NamedTuple):
    """The process signal of some rows: one score per step (`prm`) or per token (`kl`).

    Row r has the values from starts_R1[r] on. Of them `count_R[r]` are live (have an unmasked token); where that is
    neither none nor all of them, live_E[live_starts_R1[r] - live_base + e] says which.
    """

    values: Array  # float32
    starts_R1: Array  # int32
    live_E: Array  # uint8
    live_starts_R1: Array  # int32
    live_base: int
    count_R: Array  # int32


class Tokens(NamedTuple):
    """The tokens of some rows. mask_N[starts_R1[r] - base + t] is 1 where token t of row r counts.

    mask_N is only to be read in rows where unmasked_R[r] is neither 0 nor the length.
    """

    starts_R1: Array  # int32
    mask_N: Array  # uint8
    base: int
    unmasked_R: Array  # int32


@dataclass(frozen=True, kw_only=True)
class Ragged:
    """A list column: row r has values[starts_R1[r]:starts_R1[r + 1]], to be read only where valid_R[r]."""

    starts_R1: Array
    values: Array
    valid_R: Array

    @property
    def lengths_R(self) -> Array:
        return np.diff(self.starts_R1)


@dataclass(frozen=True, kw_only=True)
class RaggedBits:
    """A list column of bools, still packed as Arrow packs them."""

    starts_R1: Array
    bits: pa.BooleanArray

    @property
    def lengths_R(self) -> Array:
        return np.diff(self.starts_R1)

    def all_true(self, start: int, stop: int) -> bool:
        first, last = self.bits.offset + start, self.bits.offset + stop
        head, tail = -(-first // 8), last // 8  # whole bytes
        if head >= tail:
            return bool(self.unpacked(start, stop).all())
        edges = self.unpacked(start, start + head * 8 - first), self.unpacked(stop - last % 8, stop)
        return bool((self._packed()[head:tail] == 0xFF).all() and edges[0].all() and edges[1].all())

    def unpacked(self, start: int, stop: int) -> Array:
        """uint8, one value per bool from `start` to `stop`."""
        first, last = self.bits.offset + start, self.bits.offset + stop
        bytes_ = self._packed()[first // 8 : -(-last // 8)]
        return np.unpackbits(bytes_, bitorder="little")[first % 8 : first % 8 + stop - start]

    def _packed(self) -> Array:
        buffer = self.bits.buffers()[1]
        return np.empty(0, np.uint8) if buffer is None else np.frombuffer(buffer, np.uint8)


def ragged(array: pa.ListArray) -> Ragged:
    """View a list array of float32 or int32."""
    values = array.values
    dtype = np.float32 if values.type == pa.float32() else np.int32
    buffer = values.buffers()[1]
    flat = np.empty(0, dtype) if buffer is None else np.frombuffer(buffer, dtype)
    return Ragged(
        starts_R1=_offsets(array),
        values=frozen(flat[values.offset : values.offset + len(values)]),
        valid_R=array.is_valid().to_numpy(zero_copy_only=False) if array.null_count else np.ones(len(array), np.bool_),
    )


def ragged_bits(array: pa.ListArray) -> RaggedBits:
    """View a list array of bools."""
    return RaggedBits(starts_R1=_offsets(array), bits=array.values)


def frozen(array: Array) -> Array:
    """`array` read-only: numba compiles a kernel anew for every mix of writable and read-only arguments."""
    view = array.view()
    view.flags.writeable = False
    return view


def one_chunk(column: pa.ChunkedArray) -> pa.Array:
    """The column as one array; copies only where it is made of several."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], type=column.type)


def list_array(counts_R: Array, values: Array, kind: pa.DataType, *, valid_R: Array | None = None) -> pa.ListArray:
    """A list array of rows with `counts_R` values each, over `values` without a copy; null where not valid_R."""
    offsets = np.zeros(len(counts_R) + 1, dtype=np.int32)
    np.cumsum(counts_R, out=offsets[1:])
    flat = pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])
    mask = None if valid_R is None or valid_R.all() else pa.array(~valid_R)
    return pa.ListArray.from_arrays(pa.array(offsets), flat, mask=mask)


def _offsets(array: pa.ListArray) -> Array:
    return frozen(np.asarray(array.offsets)) if len(array) else frozen(np.zeros(1, np.int32))
