"""The live elements of a stream: which of a list's values count, and what they are about.

Legend of dimensions: see `pass_ops.reading.stream_rows`; _V all values that a column gives, live or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

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
from pass_ops.reading.ragged import Array, Ragged, falling, last_values, list_lengths, one_chunk, ragged
from pass_ops.reading.stream_sources import Level, Plan, Source


def starts(counts_R: Array) -> Array:
    """Where rows of these lengths start, one after the other, and where the last one ends (int64)."""
    found = np.zeros(len(counts_R) + 1, dtype=np.int64)
    np.cumsum(counts_R, out=found[1:])
    return found


@dataclass(frozen=True, kw_only=True)
class Elements:
    """The live elements of one stream: row r's are values_E[starts_R1[r]:starts_R1[r + 1]].

    stops_E: for each step the exclusive end of what it covers among its row's unmasked tokens; None for other levels.
    """

    level: Level
    values_E: Array  # float64
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


@dataclass(frozen=True)
class Tokens:
    """The tokens of some rows, against which every stream's elements are read."""

    reader: Reader
    lengths_R: Array
    tokens_R1: Array
    unmasked_R: Array
    mask_N: Array | None
    counted_N1: Array | None
    used_R: Array

    def elements(self, source: Source) -> tuple[Elements, Array | None]:
        """The live elements of used rows, and which of all given values they are (None: all)."""
        if source.level == "rollout":
            values_R = self.reader.numbers(source.values)
            kept_R = None if self.used_R.all() else self.used_R
            values_E = values_R if kept_R is None else values_R[kept_R]
            return Elements(level="rollout", values_E=values_E, starts_R1=starts(self.used_R)), kept_R
        values, valid_R = ragged(self.reader.arrays[source.values]), self.reader.valid(source.values)
        if source.level == "token":
            self.reader.refuse_lengths(
                valid_R & (values.lengths_R != self.lengths_R), values.lengths_R, self.lengths_R,
                source.values + " has {found} values and loss_mask {expected}; "
                "give one for each completion token, or a column of step ends beside it",
            )  # fmt: skip
            live_V, stops_V, covers_R = self._live_tokens(values, valid_R), None, valid_R
        else:
            assert source.ends is not None
            ends = ragged(self.reader.arrays[source.ends])
            covers_R = valid_R & self.reader.valid(source.ends)
            self._check_ends(source, values, ends, covers_R)
            stops_V, live_V = self._live_steps(values, ends, covers_R)
        flat_V = values.values[values.starts_R1[0] : values.starts_R1[-1]]
        self._check_finite(source, values, flat_V, live_V, covers_R)
        kept_V = live_V
        if not (self.used_R == covers_R).all():
            used_V = np.repeat(self.used_R, values.lengths_R)
            kept_V = used_V if live_V is None else live_V & used_V
        counts_R = np.where(self.used_R, values.lengths_R, 0)
        starts_R1 = starts(counts_R)
        if kept_V is not None:
            flat_V = flat_V[kept_V]
            stops_V = None if stops_V is None else stops_V[kept_V]
            before_V1 = starts(kept_V)
            offset = values.starts_R1[0]
            starts_R1 = before_V1[values.starts_R1 - offset]
        found = Elements(level=source.level, values_E=flat_V.astype(np.float64), starts_R1=starts_R1, stops_E=stops_V)
        return found, kept_V

    def _live_tokens(self, values: Ragged, valid_R: Array) -> Array | None:
        if self.mask_N is None and valid_R.all():
            return None
        mask_N = np.ones(self.tokens_R1[-1], dtype=np.bool_) if self.mask_N is None else self.mask_N
        if valid_R.all():
            return mask_N
        live_V = np.zeros(int(values.starts_R1[-1] - values.starts_R1[0]), dtype=np.bool_)
        live_V[np.repeat(valid_R, values.lengths_R)] = mask_N[np.repeat(valid_R, self.lengths_R)]
        return live_V

    def _live_steps(self, values: Ragged, ends: Ragged, covers_R: Array) -> tuple[Array, Array | None]:
        """For each given value the end of its step among the row's unmasked tokens, and which steps are live."""
        ends_V = ends.values[ends.starts_R1[0] : ends.starts_R1[-1]]
        if not covers_R.all():
            given = ends_V[np.repeat(covers_R, ends.lengths_R)]
            ends_V = np.zeros(int(values.starts_R1[-1] - values.starts_R1[0]), dtype=np.int64)
            covered_V = np.repeat(covers_R, values.lengths_R)
            ends_V[covered_V] = given
        if self.counted_N1 is None:
            stops_V = ends_V.astype(np.int64)
            return stops_V, None if covers_R.all() else covered_V
        row_V = np.repeat(np.arange(len(covers_R)), values.lengths_R)
        stops_V = self.counted_N1[self.tokens_R1[row_V] + ends_V] - self.counted_N1[self.tokens_R1[row_V]]
        live_V = np.diff(stops_V, prepend=0) > 0
        first_V = (values.starts_R1[:-1] - values.starts_R1[0])[values.lengths_R > 0]
        live_V[first_V] = stops_V[first_V] > 0
        return stops_V, live_V if covers_R.all() else live_V & covered_V

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

    def _check_finite(
        self, source: Source, values: Ragged, flat_V: Array, live_V: Array | None, covers_R: Array
    ) -> None:
        finite_V = np.isfinite(flat_V)
        if finite_V.all():
            return
        wrong_V = ~finite_V & np.repeat(covers_R, values.lengths_R)
        wrong_V = wrong_V if live_V is None else wrong_V & live_V
        if wrong_V.any():
            at = int(np.argmax(wrong_V))
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
