"""One group's rollouts under streams: which of them take part, and the arithmetic of each (`streams`)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property

import pyarrow as pa

from pass_ops import ShapingConfig
from pass_ops.reading.stream_sources import plan
from pipelines.inspect.explain.stream_result import StreamArithmetic
from pipelines.inspect.explain.streams import StreamArithmetics


class StreamGroup:
    """The arithmetic of any row of a table that holds one group; what the rows share is worked out once.

    recorded: the pools of the whole dataset by stream ("" for the fused sum), as its first pass recorded them.

    Raises OptionError where a transform's function cannot be imported.
    """

    def __init__(
        self, table: pa.Table, *, config: ShapingConfig, recorded: Mapping[str, Mapping[str, float]] | None = None
    ) -> None:
        self._config, self._plan, self._recorded = config, plan(table, config), recorded or {}
        self._columns = list(dict.fromkeys([*self._plan.types, *self._plan.keys.values()]))
        self._rows = table.select(self._columns).to_pylist()
        whole = [all(row[name] is not None for name in self._columns) for row in self._rows]
        self._used = [index for index, is_whole in enumerate(whole) if is_whole]

    @cached_property
    def _group(self) -> StreamArithmetics:
        return StreamArithmetics([self._rows[index] for index in self._used], self._config, self._plan, self._recorded)

    def row(self, index: int, stored_ends: Collection[int] = ()) -> StreamArithmetic:
        """The arithmetic of one row.

        stored_ends: where the stored chunks end; followed only where rounding alone decides about a boundary.
        """
        row = self._rows[index]
        reasons = [f"{name} could not be computed (null)" for name in self._columns if row[name] is None]
        if not any(row["loss_mask"]):
            reasons.append(
                "no token counts: " + ("the loss mask is False everywhere" if row["loss_mask"] else "it is empty")
            )
        if reasons:
            return StreamArithmetic(
                trainable=False, reasons=tuple(reasons), group=len(self._used), right=None, streams=(), pools=(),
                fused=None, divides=self._config.divide, chunks=(), path_score=None,
            )  # fmt: skip
        return self._group.explain(self._used.index(index), stored_ends)
