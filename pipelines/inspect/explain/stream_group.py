"""One group's rollouts under streams: which of them take part, and the arithmetic of each (`streams`)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from pass_ops import ShapingConfig
from pass_ops.reading.stream_sources import Plan, plan
from pipelines.inspect.explain.elements import rows_of
from pipelines.inspect.explain.stream_result import StreamArithmetic
from pipelines.inspect.explain.streams import StreamArithmetics

#: tokens of a group up to which its rows and their elements are kept as Python numbers, of hundreds of bytes each;
#: those of a larger one are made again each time a rollout is looked at
KEPT = 250_000


class StreamGroup:
    """The arithmetic of any row of a table that holds one group; what the rows share is worked out once.

    recorded: the pools of the whole dataset by stream ("" for the fused sum), as its first pass recorded them.
    planned: the plan of this and other tables of the same columns, where it is at hand.

    Raises OptionError where a transform's function cannot be imported.
    """

    def __init__(
        self,
        table: pa.Table,
        *,
        config: ShapingConfig,
        recorded: Mapping[str, Mapping[str, float]] | None = None,
        planned: Plan | None = None,
    ) -> None:
        self._config, self._plan, self._recorded = config, planned or plan(table, config), recorded or {}
        self._columns = list(dict.fromkeys([*self._plan.types, *self._plan.keys.values()]))
        read = table.select(self._columns)
        self._kept = (pc.sum(pc.list_value_length(table["loss_mask"])).as_py() or 0) <= KEPT
        self._rows = rows_of(read, kept=self._kept)
        there = [read[name].is_valid().to_pylist() for name in self._columns]
        self._used = [index for index, valid in enumerate(zip(*there, strict=True)) if all(valid)]

    @cached_property
    def _group(self) -> StreamArithmetics:
        rows = [self._rows[index] for index in self._used]
        return StreamArithmetics(rows, self._config, self._plan, self._recorded, kept=self._kept)

    def row(self, index: int, stored_ends: Collection[int] = ()) -> StreamArithmetic:
        """The arithmetic of one row.

        stored_ends: where the stored chunks end; followed only where rounding alone decides about a boundary.
        """
        row = self._rows[index]
        reasons = [f"{name} could not be computed (null)" for name in self._columns if row[name] is None]
        mask = row["loss_mask"]
        if not any(mask):
            reasons.append("no token counts: " + ("the loss mask is False everywhere" if mask else "it is empty"))
        if reasons:
            return StreamArithmetic(
                trainable=False, reasons=tuple(reasons), group=len(self._used), right=None, streams=(), pools=(),
                fused=None, divides=self._config.divide, chunks=(), path_score=None,
            )  # fmt: skip
        return self._group.explain(self._used.index(index), stored_ends)
