"""The general form, in order: standardize each stream, fuse, standardize the sum, cut, credit, divide by length.

Legend of dimensions: see `pass_ops.reading.stream_rows`; _C cells, _K chunks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pass_ops.blocks import Chunks
from pass_ops.options.config import ShapingConfig
from pass_ops.options.streams import Stream, chain
from pass_ops.reading.ragged import Array
from pass_ops.reading.stream_rows import Rows
from pass_ops.reading.stream_sources import Plan
from pass_ops.streams import pools as pooling
from pass_ops.streams.cells import Cells, cells_of, cuts_of_steps, cuts_of_trace, pieces
from pass_ops.streams.crediting import credited
from pass_ops.streams.gates import weights_by_row
from pass_ops.streams.pools import Moments, Pools, Scaling
from pass_ops.streams.transforms import transformed

FUSED = ""  # the fused sum's name among the streams with recorded statistics


@dataclass(frozen=True, kw_only=True)
class Shaper:
    """One configuration, and what was recorded for pools of the whole data set (stream, or FUSED, -> moments)."""

    config: ShapingConfig
    streams: Mapping[str, Stream]
    plan: Plan
    recorded: Mapping[str, Moments]

    def chunks(self, rows: Rows) -> Chunks:
        """Shape whole groups. Raises OutputOverflowError, and what a transform raises."""
        y = self.values(rows)
        cells = self.cells(rows)
        with np.errstate(over="ignore", invalid="ignore"):
            a_C = self.fused(rows, cells, y)
            if self.config.fused is not None:
                a_C = self._standardized_sum(rows, cells, y, a_C)
        k = self.config.k if self.config.divide else None
        return credited(cells, a_C, self._cuts(rows, cells, y), k=k)

    def raw(self, rows: Rows, name: str) -> Array:
        """A stream's values, transformed and not yet standardized."""
        elements, stream = rows.elements[name], self.streams[name]
        return transformed(stream.transform, elements.values_E, elements, rows, stream=name)  # type: ignore[arg-type]

    def values(self, rows: Rows) -> dict[str, Array]:
        """The y of every stream that is read: transformed, standardized, transformed again."""
        x = {name: self.raw(rows, name) for name in self.streams}
        joint = [name for name, stream in self.streams.items() if stream.pool == "joint"]
        shared = self._joint(rows, joint, x) if joint else {}
        found = {}
        for name, stream in self.streams.items():
            with np.errstate(over="ignore", invalid="ignore"):
                y_E = shared[name] if name in shared else self._standardized(rows, name, x[name])
            found[name] = transformed(stream.after, y_E, rows.elements[name], rows, stream=name)  # type: ignore[arg-type]
        return found

    def _standardized(self, rows: Rows, name: str, x_E: Array) -> Array:
        stream, elements = self.streams[name], rows.elements[name]
        if stream.operator == "none":
            return x_E
        if stream.pool == "dataset":
            return pooling.standardized(x_E, np.zeros(len(x_E), np.int64), self._scaling(stream, self.recorded[name]))
        pools = pools_of(rows, name, stream)
        if stream.operator == "rank":
            return pooling.ranked(x_E, pools)
        by = self._scaling(stream, moments_of(x_E, pools, elements.row_E, operator=stream.operator))
        return pooling.standardized(x_E, pools.pool_E, by)

    def _joint(self, rows: Rows, names: list[str], x: Mapping[str, Array]) -> dict[str, Array]:
        """The streams of pool joint, standardized over one set of values for each group."""
        stream = self.streams[names[0]]
        all_E = np.concatenate([x[name] for name in names])
        row_E = np.concatenate([rows.elements[name].row_E for name in names])
        pools = Pools(rows.group_R[row_E], len(rows.starts_G1) - 1)
        if stream.operator == "none":
            y_E = all_E
        elif stream.operator == "rank":
            y_E = pooling.ranked(all_E, pools)
        else:
            by = self._scaling(stream, moments_of(all_E, pools, row_E, operator=stream.operator))
            y_E = pooling.standardized(all_E, pools.pool_E, by)
        ends = np.cumsum([len(x[name]) for name in names])
        return dict(zip(names, np.split(y_E, ends[:-1]), strict=True))

    def _scaling(self, stream: Stream, found: Moments) -> Scaling:
        return pooling.scaling(stream.operator, found, ddof=self.config.std_ddof, eps=self.config.std_eps)

    def cells(self, rows: Rows) -> Cells:
        """The cells of all streams that are read."""
        return cells_of(rows, rows.elements.values(), per_token=not self.config.chunk)

    def fused(self, rows: Rows, cells: Cells, y: Mapping[str, Array]) -> Array:
        """A: the weighted sum of the streams on each cell, those of rollout level first."""
        weights, elements = weights_by_row(self.streams, rows), rows.elements
        base_R = np.zeros(len(rows))
        for name in (name for name in weights if elements[name].level == "rollout"):
            base_R[rows.used_R] += _of(weights[name], rows.used_R) * y[name]
        a_C = np.repeat(base_R, np.diff(cells.starts_R1))
        for name, weight in weights.items():
            if elements[name].level != "rollout" and not (isinstance(weight, float) and weight == 0.0):
                element_C = cells.element_of(elements[name])
                y_C = y[name] if element_C is None else y[name][element_C]
                a_C += weight * y_C if isinstance(weight, float) else weight[cells.row_C] * y_C
        return a_C

    def sum_moments(self, rows: Rows, cells: Cells, y: Mapping[str, Array], a_C: Array) -> Moments:
        """The moments of S_A for each group."""
        assert self.config.fused is not None
        groups = len(rows.starts_G1) - 1
        names = weighing(self.streams)
        if self.config.fused.per == "token":
            counts_C = cells.tokens_C.astype(np.float64)
        elif any(rows.elements[name].level != "rollout" for name in names):
            counts_C = pieces(cells, [rows.elements[name] for name in names])
        else:  # one for each used rollout, also where no token counts
            a_R = np.zeros(len(rows))
            for name, weight in weights_by_row(self.streams, rows).items():
                if name in names:
                    a_R[rows.used_R] += _of(weight, rows.used_R) * y[name]
            return pooling.moments(a_R, Pools(rows.group_R, groups, rows.used_R))
        return pooling.moments(a_C, Pools(rows.group_R[cells.row_C], groups, counts_E=counts_C))

    def _standardized_sum(self, rows: Rows, cells: Cells, y: Mapping[str, Array], a_C: Array) -> Array:
        fused = self.config.fused
        assert fused is not None
        if fused.pool == "dataset":
            found, pool_C = self.recorded[FUSED], np.zeros(len(cells), np.int64)
        else:
            found, pool_C = self.sum_moments(rows, cells, y, a_C), rows.group_R[cells.row_C]
        by = pooling.scaling(fused.operator, found, ddof=self.config.std_ddof, eps=self.config.std_eps)
        return pooling.standardized(a_C, pool_C, by)

    def _cuts(self, rows: Rows, cells: Cells, y: Mapping[str, Array]) -> Array:
        """The cells (bool) that begin a chunk."""
        if not self.config.chunk:
            return np.ones(len(cells), dtype=np.bool_)
        cut_C = np.zeros(len(cells), dtype=np.bool_)
        cut_C[cells.first_C] = True
        for name in self.plan.cutters:
            if rows.elements[name].level == "step":
                cut_C |= cuts_of_steps(cells, rows.elements[name])
            else:
                cut_C |= cuts_of_trace(rows, y[name], self.config.eta)
        return cut_C


def pools_of(rows: Rows, name: str, stream: Stream) -> Pools:
    """The pool of each of a stream's elements."""
    row_E = rows.elements[name].row_E
    group_E, groups = rows.group_R[row_E], len(rows.starts_G1) - 1
    if stream.pool == "state":
        key_E = rows.key_E[name].astype(np.int64)
        states, pool_E = np.unique(group_E * (int(key_E.max(initial=0)) + 1) + key_E, return_inverse=True)
        return Pools(pool_E, len(states))
    if stream.pool in ("right", "wrong"):
        return Pools(group_E, groups, (rows.right_R if stream.pool == "right" else ~rows.right_R)[row_E])
    return Pools(group_E, groups)


def moments_of(x_E: Array, pools: Pools, row_E: Array, *, operator: str) -> Moments:
    """The moments that an operator reads."""
    if operator != "leave_one_out":
        return pooling.moments(x_E, pools)
    shares, first, part_E = np.unique(
        row_E * np.int64(max(pools.pools, 1)) + pools.pool_E, return_index=True, return_inverse=True
    )
    return pooling.moments(x_E, pools, part_E=part_E, parts=len(shares), pool_of=pools.pool_E[first])


def _of(weight: Array | float, index: Array) -> Array | float:
    """The weight of each of some rows; one number stays one."""
    return weight if isinstance(weight, float) else weight[index]


def weighing(streams: Mapping[str, Stream]) -> list[str]:
    """The streams of non-zero weight, and those that they may hand it to."""
    found = {at for name, stream in streams.items() if stream.weight != 0.0 for at in chain(name, streams)}
    return [name for name in streams if name in found]
