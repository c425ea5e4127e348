"""The rows of whole groups, read from a table into arrays and checked (docs/spec/method.md 0 and 0a).

A value that could not be computed is null. A row with a null in a used stream is not *used*: it is in no pool and not
counted in G. A value that is wrong rather than missing raises an error that names the rollout.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pass_ops.errors import LengthMismatchError, MissingColumnError, NonFiniteError, NullValueError
from pass_ops.options.config import ShapingConfig
from pass_ops.reading import columns
from pass_ops.reading.ragged import Ragged, RaggedBits, frozen, one_chunk, ragged, ragged_bits

TYPES = {
    "loss_mask": columns.TOKENS_OF_BOOL,
    "process_scores": columns.LIST_OF_FLOAT32,
    "process_ends": columns.LIST_OF_INT32,
    "outcome_reward": pa.float32(),
    "format_reward": pa.float32(),
    "format_ok": pa.bool_(),
}


@dataclass(frozen=True, kw_only=True)
class Streams:
    """The columns that the options read, by name, and whether format_ok is the gate."""

    columns: dict[str, pa.ChunkedArray]
    gated: bool

    @property
    def in_one_piece(self) -> bool:
        """Whether reading all rows at once copies nothing."""
        return all(column.num_chunks == 1 and column.type == TYPES[name] for name, column in self.columns.items())


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """Whole groups of rollouts. Legend of dimensions: see `pass_ops.reading.ragged`.

    Attributes:
        table, first_row: where the rows come from, for errors.
        starts_G1: rows at which groups start, int64.
        used_R: no null in a used stream.
        read_R: the process signal is there.
        outcome_R, format_R: raw rewards, float64; 0 where not used.
        passed_R: the format indicator; True where nothing is gated.
        process, ends: the process signal; None for estimators without.
    """

    table: pa.Table
    first_row: int
    starts_G1: np.ndarray
    mask: RaggedBits
    process: Ragged | None
    ends: Ragged | None
    used_R: np.ndarray
    read_R: np.ndarray
    outcome_R: np.ndarray
    format_R: np.ndarray
    passed_R: np.ndarray

    def part(self, groups: slice) -> Rollouts:
        """Some of the groups, as views."""
        first, last = int(self.starts_G1[groups.start]), int(self.starts_G1[groups.stop])
        rows, rows1 = slice(first, last), slice(first, last + 1)
        process, ends = (
            column and Ragged(starts_R1=column.starts_R1[rows1], values=column.values)
            for column in (self.process, self.ends)
        )
        return Rollouts(
            table=self.table,
            first_row=self.first_row + first,
            starts_G1=frozen(self.starts_G1[groups.start : groups.stop + 1] - first),
            mask=RaggedBits(starts_R1=self.mask.starts_R1[rows1], bits=self.mask.bits),
            process=process,
            ends=ends,
            used_R=self.used_R[rows],
            read_R=self.read_R[rows],
            outcome_R=self.outcome_R[rows],
            format_R=self.format_R[rows],
            passed_R=self.passed_R[rows],
        )

    def name(self, row: int) -> str:
        """How errors call row `row` of these."""
        return columns.rollout_name(self.table, self.first_row + int(row))

    def live(self, row: int) -> np.ndarray:
        """Which of the row's process scores are about an unmasked token (bool)."""
        mask = self.mask.row(row)
        if self.ends is None or len(mask) == 0:
            return mask
        return np.logical_or.reduceat(mask, np.concatenate([[0], self.ends.row(row)[:-1]]))

    def __len__(self) -> int:
        return len(self.used_R)

    @cached_property
    def full(self) -> bool:
        """No token is masked."""
        return self.mask.all_true()

    @cached_property
    def all_used(self) -> bool:
        """No row has a null in a used stream."""
        return bool(self.used_R.all())

    @cached_property
    def every_step_is_live(self) -> bool:
        """`prm` without nulls, masked tokens or empty completions: all steps are live, one after the other."""
        return bool(self.ends is not None and self.all_used and self.full and self.mask.lengths_R.all())

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest completion."""
        return int(self.mask.lengths_R.max(initial=0))


def choose_streams(table: pa.Table, config: ShapingConfig) -> Streams:
    """Decide from the options and the columns present what is read (docs/spec/method.md 0a).

    Raises:
        MissingColumnError: a column that is needed is missing.
    """
    present = table.schema.names
    gated = config.method is not None and config.method.gated and "format_ok" in present
    formatted = gated or config.weights.format != 0.0
    signal = f"signal {config.signal!r} of estimator {config.estimator!r}"
    needed = {"loss_mask": "shaping"}
    if config.reads_process:
        needed["process_scores"] = signal
    if config.reads_process and config.signal == "prm":
        needed["process_ends"] = signal
    if config.weights.outcome != 0.0:
        needed["outcome_reward"] = f"weights.outcome={config.weights.outcome:g} (0 leaves it out)"
    if formatted and "format_reward" in present:
        needed["format_reward"] = "the format stream"
    if gated or (formatted and "format_reward" not in present):
        needed["format_ok"] = "the format stream"
    if "format_ok" in needed and "format_ok" not in present:
        raise MissingColumnError(
            "columns 'format_reward' and 'format_ok' are both missing: weights.format is "
            f"{config.weights.format:g}; add one of them, or set weights.format=0 to shape without a format stream"
        )
    if "process_ends" in needed and "process_ends" not in present and "process_scores" in present:
        raise MissingColumnError(
            f"column 'process_ends' is missing: {signal} needs the exclusive token end of each step; "
            "add it, or set signal='kl' if process_scores holds one score per token"
        )
    found = {name: columns.require(table, name, needed_by=reason) for name, reason in needed.items()}
    return Streams(columns=found, gated=gated)


def read_rollouts(table: pa.Table, first_row: int, starts_G1: np.ndarray, streams: Streams) -> Rollouts:
    """Read the groups that start at rows starts_G1[:-1] after first_row; copies only what several chunks hold.

    Raises:
        ColumnTypeError, NullValueError, LengthMismatchError, NonFiniteError: see `pass_ops.errors`.
    """
    rows = int(starts_G1[-1])
    reader = _Reader(table, streams.columns, first_row, rows)
    arrays = {name: reader.array(name) for name in streams.columns}
    mask = arrays["loss_mask"]
    if mask.null_count:
        row = pc.index(mask.is_null(), True).as_py()
        raise NullValueError(
            f"{reader.name(row)}: loss_mask is null, so its length is unknown; give one bool per completion token"
        )
    bits = ragged_bits(mask)
    process = ragged(arrays["process_scores"]) if "process_scores" in arrays else None
    ends = ragged(arrays["process_ends"]) if "process_ends" in arrays else None
    read_R = _valid(rows, *(arrays[name] for name in ("process_scores", "process_ends") if name in arrays))
    used_R = read_R & _valid(rows, *(array for array in arrays.values() if not pa.types.is_list(array.type)))
    indicator_R = reader.scalars(arrays, "format_ok") if "format_ok" in arrays else np.ones(rows, dtype=np.bool_)
    reader.check_lengths(bits.starts_R1, process, ends, read_R)
    return Rollouts(
        table=table,
        first_row=first_row,
        starts_G1=frozen(starts_G1),
        mask=bits,
        process=process,
        ends=ends,
        used_R=used_R,
        read_R=read_R,
        outcome_R=reader.rewards(arrays, "outcome_reward", otherwise=None),
        format_R=reader.rewards(arrays, "format_reward", otherwise=indicator_R if "format_ok" in arrays else None),
        passed_R=indicator_R if streams.gated else np.ones(rows, dtype=np.bool_),
    )


def _valid(rows: int, *arrays: pa.Array) -> np.ndarray:
    """Rows at which none of the arrays is null."""
    valid_R = np.ones(rows, dtype=np.bool_)
    for array in arrays:
        if array.null_count:
            valid_R &= array.is_valid().to_numpy(zero_copy_only=False)
    return valid_R


@dataclass(frozen=True)
class _Reader:
    """Some rows of the columns of a table."""

    table: pa.Table
    columns: dict[str, pa.ChunkedArray]
    first_row: int
    rows: int

    def name(self, row: int) -> str:
        return columns.rollout_name(self.table, self.first_row + int(row))

    def array(self, name: str) -> pa.Array:
        column = self.columns[name]
        if self.rows != len(column):
            column = column.slice(self.first_row, self.rows)
        array = columns.to_type(one_chunk(column), TYPES[name], name=name, row_name=self.name)
        row = columns.first_null_in_lists(array) if pa.types.is_list(array.type) else None
        if row is not None:
            remedy = "store 0.0 at masked tokens, or make the whole list null where the value could not be computed"
            if name == "loss_mask":
                remedy = "every token counts (True) or not (False)"
            raise NullValueError(f"{self.name(row)}: {name} holds a null inside its list; {remedy}")
        return array

    def scalars(self, arrays: dict[str, pa.Array], name: str) -> np.ndarray:
        """Values, 0 or False where null."""
        array = arrays[name]
        if array.null_count:
            array = pc.fill_null(array, False if pa.types.is_boolean(array.type) else pa.scalar(0, array.type))
        values_R: np.ndarray = array.to_numpy(zero_copy_only=False)
        return values_R

    def rewards(self, arrays: dict[str, pa.Array], name: str, *, otherwise: np.ndarray | None) -> np.ndarray:
        """float64; `otherwise`, or 0, where the column is not read."""
        if name not in arrays:
            return np.zeros(self.rows) if otherwise is None else otherwise.astype(np.float64)
        values_R = self.scalars(arrays, name)
        if not np.isfinite(values_R).all():
            row = int(np.argmin(np.isfinite(values_R)))
            raise NonFiniteError(
                f"{self.name(row)}: {name} is {values_R[row]}; it would spoil its whole group; "
                "store null where the reward could not be computed"
            )
        return values_R.astype(np.float64)

    def check_lengths(
        self, starts_R1: np.ndarray, process: Ragged | None, ends: Ragged | None, read_R: np.ndarray
    ) -> None:
        if "token_ids" in self.table.schema.names:
            self._check_token_ids(np.diff(starts_R1))
        if process is None:
            return
        other_R1, message = (starts_R1, _TOKENS) if ends is None else (ends.starts_R1, _STEPS)
        if not np.array_equal(process.starts_R1 - process.starts_R1[0], other_R1 - other_R1[0]):
            found_R, expected_R = np.diff(process.starts_R1), np.diff(other_R1)
            self._check(read_R & (found_R != expected_R), found_R, expected_R, message)

    def _check_token_ids(self, lengths_R: np.ndarray) -> None:
        column = self.table.column("token_ids").slice(self.first_row, self.rows)
        if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
            return
        tokens_R = pc.fill_null(pc.list_value_length(column), -1).to_numpy()
        self._check((tokens_R >= 0) & (tokens_R != lengths_R), lengths_R, tokens_R, _MASK)

    def _check(self, wrong_R: np.ndarray, found_R: np.ndarray, expected_R: np.ndarray, message: str) -> None:
        if wrong_R.any():
            row = int(np.argmax(wrong_R))
            found, expected = int(found_R[row]), int(expected_R[row])
            raise LengthMismatchError(f"{self.name(row)}: " + message.format(found=found, expected=expected))


_STEPS = (
    "process_scores has {found} values and process_ends {expected}; "
    "give one score and one exclusive token end for each step"
)
_TOKENS = (
    "process_scores has {found} values and loss_mask {expected}; signal 'kl' takes one score for each "
    "completion token (for one score per step set signal='prm')"
)
_MASK = "loss_mask has {found} values and token_ids {expected}; give one bool for each completion token"
