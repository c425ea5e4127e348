"""The general form, in order: standardize each stream, fuse, standardize the sum, cut, credit, divide by length.

Legend of dimensions: see `pass_ops.reading.stream_rows`; _C cells, _K chunks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from pass_ops.blocks import Chunks
from pass_ops.options.config import ShapingConfig
from pass_ops.options.streams import Stream, chain
from pass_ops.reading.ragged import Array
from pass_ops.reading.stream_elements import Elements
from pass_ops.reading.stream_rows import Rows
from pass_ops.reading.stream_sources import Plan
from pass_ops.streams import pools as pooling
from pass_ops.streams.cells import Cells, cells_of, cuts_of_steps, cuts_of_trace, pieces
from pass_ops.streams.crediting import credited
from pass_ops.streams.gates import weights_by_row
from pass_ops.streams.pools import Moments, Pools, Scaling, Values
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
        chunks, last_K = cells.cut(self._cuts(rows, cells, y))
        with np.errstate(over="ignore", invalid="ignore"):
            if self.config.fused is None:
                a_K = self.fused(rows, chunks, y)  # a credit is the sum at the chunk's last token: no need of others
            else:
                a_C = self._standardized_sum(rows, cells, y, self.fused(rows, cells, y))
                a_K = a_C if last_K is None else a_C[last_K]
        return credited(chunks, a_K, k=self.config.k if self.config.divide else None)

    def contributions(self, rows: Rows) -> Iterator[tuple[str, Array]]:
        """Stream of non-zero weight, and what that weight adds to the fused sum at each chunk's last token, before the
        sum is standardized; through gates it may arrive at other streams.
        """
        y = self.values(rows)
        cells = self.cells(rows)
        chunks, _ = cells.cut(self._cuts(rows, cells, y))
        for name in (name for name, stream in self.streams.items() if stream.weight != 0.0):
            others = {at: replace(self.streams[at], weight=0.0) for at in chain(name, self.streams)}
            alone = replace(self, streams={**others, name: self.streams[name]})
            with np.errstate(over="ignore", invalid="ignore"):
                yield name, alone.fused(rows, chunks, y)

    def raw(self, rows: Rows, name: str) -> Array:
        """A stream's values, transformed and not yet standardized."""
        elements, stream = rows.elements[name], self.streams[name]
        if not stream.transform:
            return elements.values_E
        return transformed(stream.transform, elements.values_E.astype(np.float64), elements, rows, stream=name)  # type: ignore[arg-type]

    def values(self, rows: Rows) -> dict[str, Values]:
        """The y of every stream that is read: transformed, standardized, transformed again."""
        x = {name: self.raw(rows, name) for name in self.streams}
        joint = [name for name, stream in self.streams.items() if stream.pool == "joint"]
        shared = self._joint(rows, joint, x) if joint else {}
        found = {}
        for name, stream in self.streams.items():
            with np.errstate(over="ignore", invalid="ignore"):
                y = shared[name] if name in shared else self._standardized(rows, name, x[name])
                if stream.after:
                    y_E = transformed(stream.after, array_of(y, rows, name), rows.elements[name], rows, stream=name)  # type: ignore[arg-type]
                    y = Values.of(y_E, rows.groups)
            found[name] = y
        return found

    def _standardized(self, rows: Rows, name: str, x_E: Array) -> Values:
        stream, elements = self.streams[name], rows.elements[name]
        if stream.operator == "none":
            return Values.of(x_E, rows.groups)
        if stream.operator == "rank" or stream.pool == "state":
            pools = pools_of(rows, name, stream)
            return Values.of(self._in_pools(stream, x_E.astype(np.float64), pools, elements.row_E), rows.groups)
        if stream.pool == "dataset":
            by = self._scaling(stream, self.recorded[name])
            return Values(x_E, *(np.full(rows.groups, one[0]) for one in (by.center_P, by.scale_P)))
        by = self._scaling(stream, moments_by_group(rows, elements, x_E, pool=stream.pool))
        return Values(x_E, by.center_P, by.scale_P)

    def _in_pools(self, stream: Stream, x_E: Array, pools: Pools, row_E: Array) -> Array:
        """x_E standardized within pools of any elements."""
        if stream.operator == "none":
            return x_E
        if stream.operator == "rank":
            return pooling.ranked(x_E, pools)
        by = self._scaling(stream, moments_of(x_E, pools, row_E, operator=stream.operator))
        return pooling.standardized(x_E, pools.pool_E, by)

    def _joint(self, rows: Rows, names: list[str], x: Mapping[str, Array]) -> dict[str, Values]:
        """The streams of pool joint, standardized over one set of values for each group."""
        stream = self.streams[names[0]]
        all_E = np.concatenate([x[name] for name in names]).astype(np.float64)
        row_E = np.concatenate([rows.elements[name].row_E for name in names])
        y_E = self._in_pools(stream, all_E, Pools(rows.group_R[row_E], rows.groups), row_E)
        parts = np.split(y_E, np.cumsum([len(x[name]) for name in names])[:-1])
        return {name: Values.of(part_E, rows.groups) for name, part_E in zip(names, parts, strict=True)}

    def _scaling(self, stream: Stream, found: Moments) -> Scaling:
        return pooling.scaling(stream.operator, found, ddof=self.config.std_ddof, eps=self.config.std_eps)

    def cells(self, rows: Rows) -> Cells:
        """The cells of all streams that are read."""
        return cells_of(rows, rows.elements.values(), per_token=not self.config.chunk)

    def fused(self, rows: Rows, cells: Cells, y: Mapping[str, Values]) -> Array:
        """A: the weighted sum of the streams at each cell's last token, those of rollout level first."""
        weights, elements = weights_by_row(self.streams, rows), rows.elements
        base_R = np.zeros(len(rows))
        for name in (name for name in weights if elements[name].level == "rollout"):
            base_R[rows.used_R] += _of(weights[name], rows.used_R) * array_of(y[name], rows, name)
        parts = [
            (np.full(len(rows), weight) if isinstance(weight, float) else weight, y[name], elements[name])
            for name, weight in weights.items()
            if elements[name].level != "rollout" and not (isinstance(weight, float) and weight == 0.0)
        ]
        return cells.summed(base_R, parts)

    def sum_moments(self, rows: Rows, cells: Cells, y: Mapping[str, Values], a_C: Array) -> Moments:
        """The moments of S_A for each group."""
        assert self.config.fused is not None
        names = weighing(self.streams)
        if self.config.fused.per == "token":
            counts_C = cells.tokens_C.astype(np.float64)
        elif any(rows.elements[name].level != "rollout" for name in names):
            counts_C = pieces(cells, [rows.elements[name] for name in names])
        else:  # one for each used rollout, also where no token counts
            a_R = np.zeros(len(rows))
            for name, weight in weights_by_row(self.streams, rows).items():
                if name in names:
                    a_R[rows.used_R] += _of(weight, rows.used_R) * array_of(y[name], rows, name)
            return pooling.moments(a_R, Pools(rows.group_R, rows.groups, rows.used_R))
        group_C = np.repeat(np.arange(rows.groups), np.diff(cells.starts_G1))
        return pooling.moments(a_C, Pools(group_C, rows.groups, counts_E=counts_C))

    def _standardized_sum(self, rows: Rows, cells: Cells, y: Mapping[str, Values], a_C: Array) -> Array:
        fused = self.config.fused
        assert fused is not None
        if fused.pool == "dataset":
            found, starts_P1 = self.recorded[FUSED], np.array([0, len(cells)])
        else:
            found, starts_P1 = self.sum_moments(rows, cells, y, a_C), cells.starts_G1
        by = pooling.scaling(fused.operator, found, ddof=self.config.std_ddof, eps=self.config.std_eps)
        return Values(a_C, by.center_P, by.scale_P).array(starts_P1)

    def _cuts(self, rows: Rows, cells: Cells, y: Mapping[str, Values]) -> Array:
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
    group_E = rows.group_R[row_E]
    if stream.pool == "state":
        key_E = rows.key_E[name].astype(np.int64)
        states, pool_E = np.unique(group_E * (int(key_E.max(initial=0)) + 1) + key_E, return_inverse=True)
        return Pools(pool_E, len(states))
    if stream.pool in ("right", "wrong"):
        return Pools(group_E, rows.groups, (rows.right_R if stream.pool == "right" else ~rows.right_R)[row_E])
    return Pools(group_E, rows.groups)


def array_of(y: Values, rows: Rows, name: str) -> Array:
    """Y of each of a stream's elements."""
    return y.array(rows.elements[name].starts_R1[rows.starts_G1])


def moments_by_group(rows: Rows, elements: Elements, x_E: Array, *, pool: str = "group") -> Moments:
    """The moments of a stream in each group, or in its right or wrong rollouts."""
    member_R = {"right": rows.right_R, "wrong": ~rows.right_R}.get(pool, pooling.NO_MEMBERS)
    return pooling.moments_by_group(x_E, elements.starts_R1, rows.starts_G1, member_R=member_R)


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
