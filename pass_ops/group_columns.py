"""Further columns of a table, such as token ids or entropies, for estimators that ask for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pass_ops import columns
from pass_ops.errors import NonFiniteError, NullValueError
from pass_ops.ragged import one_chunk
from pass_ops.rollouts import Rollouts


@dataclass(frozen=True)
class GroupColumns:
    """Columns of the rows of `Rollouts`, by name."""

    rollouts: Rollouts
    arrays: dict[str, pa.Array]

    @property
    def present_R(self) -> np.ndarray:
        """Rows at which none of them is null."""
        found_R = np.ones(len(self.rollouts), dtype=np.bool_)
        for array in self.arrays.values():
            found_R &= array.is_valid().to_numpy(zero_copy_only=False)
        return found_R

    def of(self, rows: Sequence[int]) -> dict[str, list[Any]]:
        """The values of these rows: an array where the column holds lists, else what the value is in Python."""
        return {name: [self._value(name, row) for row in rows] for name in self.arrays}

    def _value(self, name: str, row: int) -> Any:
        value = self.arrays[name][row]
        if not hasattr(value, "values"):
            return value.as_py()
        if value.values.null_count:
            raise NullValueError(
                f"{self.rollouts.name(row)}: {name} holds a null inside its list; store 0 at masked tokens, or make "
                "the whole list null where it could not be computed"
            )
        found = value.values.to_numpy(zero_copy_only=False)
        wrong = _not_finite(found, self.rollouts.mask.row(row))
        if len(wrong):
            raise NonFiniteError(
                f"{self.rollouts.name(row)}: {name} holds {wrong[0]}; it would spoil its whole "
                "group; make the list null where it could not be computed"
            )
        return found


def _not_finite(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """NaN and infinities; where there is one value for each token, those that count."""
    if values.dtype.kind != "f":
        return values[:0]
    wrong = ~np.isfinite(values)
    found: np.ndarray = values[wrong & mask if len(values) == len(mask) else wrong]
    return found


def read_columns(rollouts: Rollouts, names: Sequence[str], *, needed_by: str) -> GroupColumns:
    """The columns of these names.

    Raises:
        MissingColumnError: one is not there, or there twice.
    """
    arrays = {}
    for name in names:
        column = columns.require(rollouts.table, name, needed_by=needed_by)
        arrays[name] = one_chunk(column.slice(rollouts.first_row, len(rollouts)))
    return GroupColumns(rollouts, arrays)
