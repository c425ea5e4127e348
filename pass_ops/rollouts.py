"""The rows of whole groups, read from a table into arrays and checked (pass.md 0 and 0a).

A value that could not be computed is null. A row with a null in a used stream is not *used*: it is in no pool and not
counted in G. What is wrong rather than missing raises, and names the rollout.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pass_ops import columns
from pass_ops.config import ShapingConfig
from pass_ops.errors import LengthMismatchError, MissingColumnError, NonFiniteError, NullValueError
from pass_ops.ragged import Ragged, RaggedBits, frozen, one_chunk, ragged, ragged_bits


@dataclass(frozen=True, kw_only=True)
class Streams:
    """Which columns the options read."""

    process: bool
    ends: bool
    outcome: bool
    format_reward: bool  # the column itself
    indicator: bool  # format_ok, as the gate or in place of format_reward
    gated: bool

    @property
    def format(self) -> bool:
        return self.format_reward or self.indicator


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """Whole groups of rollouts. Legend of dimensions: see `pass_ops.ragged`.

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
    """Decide from the options and the columns present what is read (pass.md 0a).

    Raises:
        MissingColumnError: a column that is needed is missing.
    """
    present = set(table.column_names)
    gated = config.estimator == "pass" and "format_ok" in present
    formatted = gated or config.weights.format != 0.0
    streams = Streams(
        process=config.reads_process,
        ends=config.reads_process and config.signal == "prm",
        outcome=config.weights.outcome != 0.0,
        format_reward=formatted and "format_reward" in present,
        indicator=gated or (formatted and "format_reward" not in present),
        gated=gated,
    )
    if streams.indicator and "format_ok" not in present:
        raise MissingColumnError(
            "columns 'format_reward' and 'format_ok' are both missing: weights.format is "
            f"{config.weights.format:g}; add one of them, or set weights.format=0 to shape without a format stream"
        )
    signal = f"signal {config.signal!r} of estimator {config.estimator!r}"
    if streams.ends and "process_ends" not in present and "process_scores" in present:
        raise MissingColumnError(
            f"column 'process_ends' is missing: {signal} needs the exclusive token end of each step; "
            "add it, or set signal='kl' if process_scores holds one score per token"
        )
    for name, used, reason in (
        ("loss_mask", True, "shaping"),
        ("process_scores", streams.process, signal),
        ("process_ends", streams.ends, signal),
        ("outcome_reward", streams.outcome, f"weights.outcome={config.weights.outcome:g} (0 leaves it out)"),
        ("format_reward", streams.format_reward, "the format stream"),
        ("format_ok", streams.indicator, "the format stream"),
    ):
        if used:
            columns.require(table, name, needed_by=reason)
    return streams


def read_rollouts(table: pa.Table, first_row: int, starts_G1: np.ndarray, streams: Streams) -> Rollouts:
    """Read the groups that start at rows starts_G1[:-1] after first_row; copies only what several chunks hold.

    Raises:
        ColumnTypeError, NullValueError, LengthMismatchError, NonFiniteError: see `pass_ops.errors`.
    """
    reader = _Reader(table, first_row, int(starts_G1[-1]))
    mask = reader.lists("loss_mask", columns.TOKENS_OF_BOOL)
    if mask.null_count:
        row = pc.index(mask.is_null(), True).as_py()
        raise NullValueError(
            f"{reader.name(row)}: loss_mask is null, so its length is unknown; give one bool per completion token"
        )
    bits = ragged_bits(mask)
    rows = len(mask)
    process = ragged(reader.lists("process_scores", columns.LIST_OF_FLOAT32)) if streams.process else None
    ends = ragged(reader.lists("process_ends", columns.LIST_OF_INT32)) if streams.ends else None
    used_R = read_R = np.ones(rows, dtype=np.bool_)
    if process is not None:
        read_R = process.valid_R if ends is None else process.valid_R & ends.valid_R
        used_R = used_R & read_R
    outcome_R, format_R, passed_R = np.zeros(rows), np.zeros(rows), np.ones(rows, dtype=np.bool_)
    if streams.outcome:
        outcome_R, valid_R = reader.rewards("outcome_reward")
        used_R = used_R & valid_R
    if streams.format_reward:
        format_R, valid_R = reader.rewards("format_reward")
        used_R = used_R & valid_R
    if streams.indicator:
        indicator_R, valid_R = reader.scalars("format_ok", pa.bool_())
        used_R = used_R & valid_R
        passed_R = indicator_R if streams.gated else passed_R
        format_R = format_R if streams.format_reward else indicator_R.astype(np.float64)
    reader.check_lengths(bits.lengths_R, process, ends, read_R)
    return Rollouts(
        table=table,
        first_row=first_row,
        starts_G1=frozen(starts_G1),
        mask=bits,
        process=process,
        ends=ends,
        used_R=used_R,
        read_R=read_R,
        outcome_R=outcome_R,
        format_R=format_R,
        passed_R=passed_R,
    )


@dataclass(frozen=True)
class _Reader:
    table: pa.Table
    first_row: int
    rows: int

    def name(self, row: int) -> str:
        return columns.rollout_name(self.table, self.first_row + int(row))

    def array(self, name: str, target: pa.DataType) -> pa.Array:
        column = self.table.column(name).slice(self.first_row, self.rows)
        return columns.to_type(one_chunk(column), target, name=name, row_name=self.name)

    def lists(self, name: str, target: pa.DataType) -> pa.ListArray:
        array = self.array(name, target)
        row = columns.first_null_in_lists(array)
        if row is not None:
            remedy = "store 0.0 at masked tokens, or make the whole list null where the value could not be computed"
            if name == "loss_mask":
                remedy = "every token counts (True) or not (False)"
            raise NullValueError(f"{self.name(row)}: {name} holds a null inside its list; {remedy}")
        return array

    def scalars(self, name: str, target: pa.DataType) -> tuple[np.ndarray, np.ndarray]:
        """Values (0 or False where null) and which are not null."""
        array = self.array(name, target)
        if array.null_count == 0:
            return array.to_numpy(zero_copy_only=False), np.ones(len(array), dtype=np.bool_)
        values_R = pc.fill_null(array, False if target == pa.bool_() else pa.scalar(0, target))
        return values_R.to_numpy(zero_copy_only=False), array.is_valid().to_numpy(zero_copy_only=False)

    def rewards(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        values_R, valid_R = self.scalars(name, pa.float32())
        wrong = ~np.isfinite(values_R)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise NonFiniteError(
                f"{self.name(row)}: {name} is {values_R[row]}; it would spoil its whole group; "
                "store null where the reward could not be computed"
            )
        return values_R.astype(np.float64), valid_R

    def check_lengths(
        self, lengths_R: np.ndarray, process: Ragged | None, ends: Ragged | None, read_R: np.ndarray
    ) -> None:
        if "token_ids" in self.table.column_names:
            self._check_token_ids(lengths_R)
        if process is None:
            return
        if ends is not None:
            self._check(read_R & (process.lengths_R != ends.lengths_R), process.lengths_R, ends.lengths_R, _STEPS)
        else:
            self._check(read_R & (process.lengths_R != lengths_R), process.lengths_R, lengths_R, _TOKENS)

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
