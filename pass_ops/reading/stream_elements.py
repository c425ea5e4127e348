"""The live elements of a stream: which of a list's values count, and what they are about.

Legend of dimensions: see `pass_ops.reading.stream_rows`; _V all values that a column gives, live or not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pass_ops.errors import (
    ColumnTypeError,
    LengthMismatchError,
    NonFiniteError,
    NullValueError,
    StepEndsError,
)
from pass_ops.reading import columns
from pass_ops.reading.ragged import Array, Ragged, falling, frozen, last_values, list_lengths, one_chunk, ragged, room
from pass_ops.reading.stream_sources import Level, Plan, Source
from pass_ops.support.jit import kernel

NO_MASK = np.empty(0, dtype=np.bool_)


def starts(counts_R: Array) -> Array:
    """Where rows of these lengths start, one after the other, and where the last one ends (int64)."""
    found = np.zeros(len(counts_R) + 1, dtype=np.int64)
    np.cumsum(counts_R, out=found[1:])
    return found


@dataclass(frozen=True, kw_only=True)
class Elements:
    """The live elements of one stream: row r's are values_E[starts_R1[r]:starts_R1[r + 1]].

    stops_E: for each step the exclusive end of what it covers among the unmasked tokens of all used rows; None for
    other levels. Streams whose steps end at the same places share one array.
    """

    level: Level
    values_E: Array  # float64 for rollouts, else float32 as stored
    starts_R1: Array  # int64
    stops_E: Array | None = None

    @cached_property
    def row_E(self) -> Array:
        """The row of each element."""
        return np.repeat(np.arange(len(self.starts_R1) - 1), np.diff(self.starts_R1))


class Reader:
    """Some rows of the columns of a plan."""

    def __init__(self, table: pa.Table, first_row: int, rows: int, plan: Plan) -> None:
        self.table, self.first_row, self.rows = table, first_row, rows
        self.arrays = {name: self._array(name, kind) for name, kind in plan.types.items()}
        for key in plan.keys.values():
            self.arrays.setdefault(key, self._array(key, None))

    def name(self, row: int) -> str:
        """How errors call row `row` of these."""
        return columns.rollout_name(self.table, self.first_row + int(row))

    def _array(self, name: str, kind: pa.DataType | None) -> pa.Array:
        array = one_chunk(self.table.column(name).slice(self.first_row, self.rows))
        if kind is None:  # a key: equal values of a dictionary are one state, and a null in it is a null
            return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array
        array = columns.to_type(array, kind, name=name, row_name=self.name)
        row = columns.first_null_in_lists(array) if pa.types.is_list(kind) else None
        if row is not None:
            remedy = "store 0.0 at masked tokens, or make the whole list null where the value could not be computed"
            if name == "loss_mask":
                remedy = "every token counts (True) or not (False)"
            raise NullValueError(f"{self.name(row)}: {name} holds a null inside its list; {remedy}")
        return array

    def valid(self, *names: str) -> Array:
        """Rows at which none of the columns is null."""
        valid_R = np.ones(self.rows, dtype=np.bool_)
        for name in names:
            if self.arrays[name].null_count:
                valid_R &= self.arrays[name].is_valid().to_numpy(zero_copy_only=False)
        return valid_R

    def numbers(self, name: str) -> Array:
        """float64, 0 where null. Raises NonFiniteError."""
        array = self.arrays[name]
        if array.null_count:
            array = pc.fill_null(array, False if pa.types.is_boolean(array.type) else pa.scalar(0, array.type))
        values_R = array.to_numpy(zero_copy_only=False).astype(np.float64)
        if not np.isfinite(values_R).all():
            row = int(np.argmin(np.isfinite(values_R)))
            raise NonFiniteError(
                f"{self.name(row)}: {name} is {values_R[row]}; it would spoil its whole group; "
                "store null where the value could not be computed"
            )
        return np.asarray(values_R)

    def check_token_ids(self, lengths_R: Array) -> None:
        """Refuse token_ids of another length than the mask. Raises LengthMismatchError."""
        if "token_ids" not in self.table.schema.names:
            return
        column = self.table.column("token_ids").slice(self.first_row, self.rows)
        if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
            return
        tokens_R = pc.fill_null(pc.list_value_length(column), -1).to_numpy()
        self.refuse_lengths(
            (tokens_R >= 0) & (tokens_R != lengths_R), lengths_R, tokens_R,
            "loss_mask has {found} values and token_ids {expected}; give one bool for each completion token",
        )  # fmt: skip

    def refuse_lengths(self, wrong_R: Array, found_R: Array, expected_R: Array, message: str) -> None:
        """Raise LengthMismatchError at the first wrong row."""
        if wrong_R.any():
            row = int(np.argmax(wrong_R))
            shown = message.format(found=int(found_R[row]), expected=int(expected_R[row]))
            raise LengthMismatchError(f"{self.name(row)}: {shown}")


class _Steps(NamedTuple):
    """The live steps of some rows: which of all given values they are (None: all), where rows start, and their ends
    among all unmasked tokens.
    """

    kept_V: Array | None
    starts_R1: Array
    stops_E: Array


@dataclass(frozen=True)
class Tokens:
    """The tokens of some rows, against which every stream's elements are read.

    mask: see `pass_ops.reading.stream_rows.Rows`. steps, places: what was found for lists that end (start) at these
    places, for the next stream whose lists do.
    """

    reader: Reader
    lengths_R: Array
    unmasked_R: Array
    mask: tuple[Array, Array]
    used_R: Array
    steps: list[tuple[Ragged, Ragged, _Steps]] = field(default_factory=list)
    places: list[tuple[Array, Array | None]] = field(default_factory=list)

    @cached_property
    def tokens_R1(self) -> Array:
        """Where each row's unmasked tokens start among those of all used rows."""
        return starts(np.where(self.used_R, self.unmasked_R, 0))

    def elements(self, source: Source) -> tuple[Elements, Array | None]:
        """The live elements of used rows, and which of all given values they are (None: all)."""
        if source.level == "rollout":
            values_R = self.reader.numbers(source.values)
            kept_R = None if self.used_R.all() else np.flatnonzero(self.used_R)
            values_E = values_R if kept_R is None else values_R[kept_R]
            return Elements(level="rollout", values_E=values_E, starts_R1=starts(self.used_R)), kept_R
        values, valid_R = ragged(self.reader.arrays[source.values]), self.reader.valid(source.values)
        if source.level == "token":
            self.reader.refuse_lengths(
                valid_R & (values.lengths_R != self.lengths_R), values.lengths_R, self.lengths_R,
                source.values + " has {found} values and loss_mask {expected}; "
                "give one for each completion token, or a column of step ends beside it",
            )  # fmt: skip
            self._check_finite(source, values, lambda: self._live_tokens(values, valid_R))
            kept_V, starts_R1, stops_E = self._tokens(values), self.tokens_R1, None
        else:
            assert source.ends is not None
            ends = ragged(self.reader.arrays[source.ends])
            covers_R = valid_R & self.reader.valid(source.ends)
            self._check_ends(source, values, ends, covers_R)
            self._check_finite(source, values, lambda: self._live_steps(values, ends, covers_R).kept_V)
            kept_V, starts_R1, stops_E = self._steps(values, ends)
        flat_V = values.values[values.starts_R1[0] : values.starts_R1[-1]]
        values_E = flat_V if kept_V is None else frozen(flat_V[kept_V])
        return Elements(level=source.level, values_E=values_E, starts_R1=starts_R1, stops_E=stops_E), kept_V

    def _tokens(self, values: Ragged) -> Array | None:
        """Which of the values are live tokens of used rows."""
        starts_R1 = values.starts_R1 - values.starts_R1[0]
        for other_R1, kept_V in self.places:
            if np.array_equal(starts_R1, other_R1):
                return kept_V
        kept_V = None
        if len(self.mask[1]) or not self.used_R.all():
            kept_V = self._live_tokens(values, self.used_R)
        self.places.append((starts_R1, kept_V))
        return kept_V

    def _steps(self, values: Ragged, ends: Ragged) -> _Steps:
        """The live steps of used rows."""
        for other, other_ends, steps in self.steps:
            if _same_lists(ends, other_ends) and _same_starts(values, other):
                return steps
        steps = self._live_steps(values, ends, self.used_R)
        self.steps.append((values, ends, steps))
        return steps

    def _live_tokens(self, values: Ragged, read_R: Array) -> Array:
        live_V = room(int(self.unmasked_R[read_R].sum()) + 1, np.int64)
        _find_tokens(read_R, values.starts_R1, self.unmasked_R, *self.mask, live_V)
        return live_V[:-1]

    def _live_steps(self, values: Ragged, ends: Ragged, read_R: Array) -> _Steps:
        given = int(values.lengths_R[read_R].sum())
        live_V, stops_E = room(given, np.int64), room(given, np.int64)
        starts_R1 = np.zeros(len(read_R) + 1, dtype=np.int64)
        _find_steps(
            read_R, values.starts_R1, ends.starts_R1, ends.values, self.lengths_R, self.unmasked_R, *self.mask,
            self.tokens_R1, np.empty(int(self.lengths_R.max(initial=0)), dtype=np.int32), live_V, stops_E, starts_R1,
        )  # fmt: skip
        found = int(starts_R1[-1])
        every = found == values.starts_R1[-1] - values.starts_R1[0]
        return _Steps(None if every else live_V[:found], starts_R1, stops_E[:found])

    def _check_ends(self, source: Source, values: Ragged, ends: Ragged, covers_R: Array) -> None:
        self.reader.refuse_lengths(
            covers_R & (values.lengths_R != ends.lengths_R), values.lengths_R, ends.lengths_R,
            f"{source.values} has {{found}} values and {source.ends} {{expected}}; "
            "give one score and one exclusive token end for each step",
        )  # fmt: skip
        wrong_R = covers_R & (falling(ends) | (last_values(ends) != self.lengths_R))
        if wrong_R.any():
            row = int(np.argmax(wrong_R))
            raise StepEndsError(
                f"{self.reader.name(row)}: {source.ends} is {columns.shortened(ends.row(row).tolist())} for a "
                f"completion of {self.lengths_R[row]} tokens; "
                "give exclusive token ends that increase strictly from above 0, the last one equal to that length"
            )

    def _check_finite(self, source: Source, values: Ragged, live: Callable[[], Array | None]) -> None:
        """Refuse NaN and infinity at live elements; which these are is asked only where there is any at all."""
        flat_V = values.values[values.starts_R1[0] : values.starts_R1[-1]]
        finite_V = np.isfinite(flat_V)
        if finite_V.all():
            return
        live_V = live()
        live_V = np.arange(len(flat_V)) if live_V is None else live_V
        wrong_E = ~finite_V[live_V]
        if wrong_E.any():
            at = int(live_V[np.argmax(wrong_E)])
            row = int(np.searchsorted(values.starts_R1 - values.starts_R1[0], at, side="right")) - 1
            place = at - int(values.starts_R1[row] - values.starts_R1[0])
            raise NonFiniteError(
                f"{self.reader.name(row)}: {source.values} is {flat_V[at]} at unmasked {source.level} {place}; it "
                "would spoil its whole group; make the whole list null where the signal could not be computed"
            )

    def keys(self, key: str, source: Source, kept: Array | None) -> Array:
        """An integer for each live element, equal for equal keys."""
        array = self.reader.arrays[key]
        if pa.types.is_null(array.type):
            return np.zeros(0, dtype=np.int64)  # every key is null, so no row is used
        listed = columns.is_list(array.type)
        kind = array.type.value_type if listed else array.type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)
        if not (text or pa.types.is_integer(kind)) or listed != (source.level != "rollout"):
            expected = "a string or integer for each rollout"
            if source.level != "rollout":
                expected = f"a list with a string or integer for each value of {source.values}"
            raise ColumnTypeError(
                f"column {key!r} is {columns.short_type(array.type)}; as the key of {source.values} it must hold "
                f"{expected}"
            )
        if not listed:
            codes_R: Array = pc.fill_null(array.dictionary_encode().indices, 0).to_numpy(zero_copy_only=False)
            return codes_R if kept is None else codes_R[kept]
        return self._keys_of_lists(key, array.cast(pa.list_(kind)), source, kept)

    def _keys_of_lists(self, key: str, array: pa.ListArray, source: Source, kept: Array | None) -> Array:
        lengths_R = list_lengths(array)
        row = columns.first_null_in_lists(array)
        if pa.types.is_null(array.type.value_type) and lengths_R.any():
            row = int(np.argmax(lengths_R > 0))
        if row is not None:
            raise NullValueError(
                f"{self.reader.name(row)}: {key} holds a null inside its list; give every value its state, "
                "or make the whole list null"
            )
        values = ragged(self.reader.arrays[source.values])
        both_R = self.reader.valid(key, source.values)
        self.reader.refuse_lengths(
            both_R & (lengths_R != values.lengths_R), lengths_R, values.lengths_R,
            f"{key} has {{found}} values and {source.values} {{expected}}; give one state for each value",
        )  # fmt: skip
        codes = array.flatten().dictionary_encode().indices.to_numpy(zero_copy_only=False)
        codes_V = np.zeros(int(values.starts_R1[-1] - values.starts_R1[0]), dtype=np.int64)
        codes_V[np.repeat(both_R, values.lengths_R)] = codes[np.repeat(both_R, lengths_R)]
        return codes_V if kept is None else codes_V[kept]


def _same_starts(a: Ragged, b: Ragged) -> bool:
    return np.array_equal(a.starts_R1 - a.starts_R1[0], b.starts_R1 - b.starts_R1[0])


def _same_lists(a: Ragged, b: Ragged) -> bool:
    a_E, b_E = (one.values[one.starts_R1[0] : one.starts_R1[-1]] for one in (a, b))
    return _same_starts(a, b) and np.array_equal(a_E, b_E)


def count_unmasked(mask_R1: Array, mask_N: Array) -> Array:
    """How many tokens of each row count; see `pass_ops.reading.stream_rows.Rows.mask`."""
    if len(mask_N) == 0:
        return np.diff(mask_R1)
    unmasked_R = np.empty(len(mask_R1) - 1, dtype=np.int64)
    _count(mask_R1, mask_N, unmasked_R)
    return unmasked_R


@kernel
def _count(mask_R1: Array, mask_N: Array, unmasked_R: Array) -> None:
    for r in range(len(unmasked_R)):
        mask = mask_N[mask_R1[r] : mask_R1[r + 1]]
        count = 0
        for t in range(len(mask)):
            count += mask[t]
        unmasked_R[r] = count


@kernel
def _find_tokens(
    read_R: Array, starts_R1: Array, unmasked_R: Array, mask_R1: Array, mask_N: Array, live_V: Array
) -> None:
    """live_V has one place more than there are live tokens."""
    found = 0
    for r in range(len(read_R)):
        if not read_R[r]:
            continue
        first = starts_R1[r] - starts_R1[0]
        length = mask_R1[r + 1] - mask_R1[r]
        live = live_V[found:]
        if unmasked_R[r] == length:
            for t in range(length):
                live[t] = first + t
        else:
            mask, u = mask_N[mask_R1[r] : mask_R1[r + 1]], 0
            for t in range(length):
                live[u] = first + t
                u += mask[t]
        found += unmasked_R[r]


@kernel
def _find_steps(
    read_R: Array, starts_R1: Array, end_starts_R1: Array, ends: Array, lengths_R: Array, unmasked_R: Array,
    mask_R1: Array, mask_N: Array, tokens_R1: Array, counted_T: Array,
    live_V: Array, stops_E: Array, found_R1: Array,
) -> None:  # fmt: skip
    found = 0
    for r in range(len(read_R)):
        if read_R[r]:
            first, count = starts_R1[r] - starts_R1[0], starts_R1[r + 1] - starts_R1[r]
            row_ends = ends[end_starts_R1[r] : end_starts_R1[r] + count]
            stop = tokens_R1[r]
            if unmasked_R[r] == lengths_R[r]:
                live, stops = live_V[found:], stops_E[found:]
                for j in range(count):
                    live[j] = first + j
                    stops[j] = stop + row_ends[j]
                found += count
            else:
                mask = mask_N[mask_R1[r] : mask_R1[r + 1]]
                seen = 0
                for t in range(len(mask)):
                    seen += mask[t]
                    counted_T[t] = seen
                seen = 0
                for j in range(count):
                    before = seen
                    seen = counted_T[row_ends[j] - 1]
                    if seen > before:
                        live_V[found] = first + j
                        stops_E[found] = stop + seen
                        found += 1
        found_R1[r + 1] = found
