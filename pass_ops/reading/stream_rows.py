"""Rows of whole groups, read from a table into arrays and checked (docs/spec/streams.md section 2).

Legend of dimensions: _R rows (rollouts), _R1 rows + 1 (offsets), _G1 groups + 1, _N tokens, _U unmasked tokens of used
rows, _E elements of a stream, live ones only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pass_ops.errors import NullValueError
from pass_ops.reading import columns
from pass_ops.reading.ragged import Array, RaggedBits, ragged_bits
from pass_ops.reading.stream_elements import NO_MASK, Elements, Reader, Tokens, count_unmasked, starts
from pass_ops.reading.stream_sources import Plan, Source


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows of whole groups.

    mask: where each row's tokens start, and which of all tokens count (empty: all do), as kernels take them.
    unmasked_R: how many. tokens_R1: where each row's unmasked tokens start among those of all used rows. right_R,
    outcome_R: which rollouts are right, by which raw value; zeros where nobody asks. key_E: stream -> an integer for
    each element, equal for equal states.
    """

    table: pa.Table
    first_row: int
    starts_G1: Array
    lengths_R: Array
    unmasked_R: Array
    mask: tuple[Array, Array]
    tokens_R1: Array
    used_R: Array
    outcome_R: Array
    right_R: Array
    passed_R: Array
    elements: Mapping[str, Elements]
    key_E: Mapping[str, Array]

    def __len__(self) -> int:
        return len(self.used_R)

    def name(self, row: int) -> str:
        """How errors call row `row` of these."""
        return columns.rollout_name(self.table, self.first_row + int(row))

    @property
    def groups(self) -> int:
        """How many groups there are."""
        return len(self.starts_G1) - 1

    @cached_property
    def trainable_R(self) -> Array:
        """Used, with a token that counts."""
        return self.used_R & (self.unmasked_R > 0)

    @cached_property
    def group_R(self) -> Array:
        """The group of each row."""
        return np.repeat(np.arange(len(self.starts_G1) - 1), np.diff(self.starts_G1))


def read_rows(table: pa.Table, first_row: int, starts_G1: Array, plan: Plan, *, right_above: float) -> Rows:
    """Read the groups that start at rows starts_G1[:-1] after first_row.

    Raises:
        ColumnTypeError, NullValueError, LengthMismatchError, StepEndsError, NonFiniteError: see `pass_ops.errors`.
    """
    reader = Reader(table, first_row, int(starts_G1[-1]), plan)
    mask = reader.arrays["loss_mask"]
    if mask.null_count:
        row = pc.index(mask.is_null(), True).as_py()
        raise NullValueError(
            f"{reader.name(row)}: loss_mask is null, so its length is unknown; give one bool per completion token"
        )
    bits = ragged_bits(mask)
    lengths_R = bits.lengths_R.astype(np.int64)
    mask = starts(lengths_R), NO_MASK if bits.all_true() else _unpacked(bits)
    unmasked_R = count_unmasked(*mask)
    reader.check_token_ids(lengths_R)
    used_R = reader.valid(*plan.types, *plan.keys.values())
    base = Tokens(reader, lengths_R, unmasked_R, mask, used_R)
    read: dict[Source, tuple[Elements, Array | None]] = {}
    for source in plan.sources.values():
        if source not in read:
            read[source] = base.elements(source)
    elements = {name: read[source][0] for name, source in plan.sources.items()}
    outcome_R = reader.numbers(plan.right) if plan.right is not None else np.zeros(len(lengths_R))
    return Rows(
        table=table,
        first_row=first_row,
        starts_G1=starts_G1,
        lengths_R=lengths_R,
        unmasked_R=unmasked_R,
        mask=mask,
        tokens_R1=base.tokens_R1,
        used_R=used_R,
        outcome_R=outcome_R,
        right_R=outcome_R > right_above,
        passed_R=reader.numbers("format_ok") > 0.0 if plan.gated else np.ones(len(lengths_R), dtype=np.bool_),
        elements=elements,
        key_E={
            name: base.keys(key, plan.sources[name], read[plan.sources[name]][1]) for name, key in plan.keys.items()
        },
    )


def _unpacked(bits: RaggedBits) -> Array:
    start, stop = int(bits.starts_R1[0]), int(bits.starts_R1[-1])
    packed, base = bits.packed(start, stop)
    return np.unpackbits(packed, bitorder="little")[start - base : stop - base].view(np.bool_)
