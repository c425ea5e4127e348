"""Cells: the finest runs of unmasked tokens that no stream divides, on which streams are summed and chunks are cut.

Unmasked tokens of the used rows are counted through (_U); row r's begin at rows.tokens_R1[r]. A cell is what lies
between two ends of steps, or one token where some stream has token level.
Legend of dimensions: see `pass_ops.reading.stream_rows`; _C cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pass_ops.reading.ragged import Array
from pass_ops.reading.stream_elements import Elements, starts
from pass_ops.reading.stream_rows import Rows
from pass_ops.support.jit import kernel


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Row r's cells are number starts_R1[r]..starts_R1[r + 1]; stops_C: their exclusive ends among all _U tokens."""

    rows: Rows
    starts_R1: Array
    stops_C: Array

    def __len__(self) -> int:
        return len(self.stops_C)

    @cached_property
    def row_C(self) -> Array:
        """The row of each cell."""
        return np.repeat(np.arange(len(self.rows)), np.diff(self.starts_R1))

    @cached_property
    def tokens_C(self) -> Array:
        """How many tokens each cell has; cells lie one after the other."""
        return np.diff(self.stops_C, prepend=0)

    @property
    def first_C(self) -> Array:
        """The numbers of the rows' first cells."""
        return self.starts_R1[:-1][np.diff(self.starts_R1) > 0]

    def element_of(self, elements: Elements) -> Array | None:
        """The element of a stream that each cell lies in; None where they are the same, one for one."""
        if elements.level == "rollout":
            return elements.starts_R1[:-1][self.row_C]
        if elements.level == "token":
            return None  # then every token is a cell
        stops_E = global_stops(elements, self.rows)
        if len(stops_E) == len(self):  # both end where the rows do, so equal numbers may still be other places
            return None if np.array_equal(stops_E, self.stops_C) else np.searchsorted(stops_E, self.stops_C)
        if len(self) == self.rows.tokens_R1[-1]:
            return np.repeat(np.arange(len(stops_E)), np.diff(stops_E, prepend=0))
        return np.searchsorted(stops_E, self.stops_C)


def global_stops(elements: Elements, rows: Rows) -> Array:
    """The ends of a step stream's elements among all _U tokens."""
    assert elements.stops_E is not None
    return elements.stops_E + rows.tokens_R1[:-1][elements.row_E]


def cells_of(rows: Rows, streams: Iterable[Elements], *, per_token: bool = False) -> Cells:
    """The cells of some streams; with per_token every token is one."""
    streams = list(streams)
    if per_token or any(stream.level == "token" for stream in streams):
        return Cells(rows=rows, starts_R1=rows.tokens_R1, stops_C=np.arange(1, rows.tokens_R1[-1] + 1))
    steps: list[Elements] = []
    for stream in streams:
        if stream.level == "step" and all(stream is not other for other in steps):
            steps.append(stream)
    if not steps:
        return Cells(rows=rows, starts_R1=starts(rows.trainable_R), stops_C=rows.tokens_R1[1:][rows.trainable_R])
    stops = [global_stops(step, rows) for step in steps]
    if all(np.array_equal(stops[0], other) for other in stops[1:]):
        return Cells(rows=rows, starts_R1=steps[0].starts_R1, stops_C=stops[0])
    stops_C = np.unique(np.concatenate(stops))
    return Cells(rows=rows, starts_R1=np.searchsorted(stops_C, rows.tokens_R1, side="right"), stops_C=stops_C)


def cuts_of_steps(cells: Cells, elements: Elements) -> Array:
    """The cells (bool) that are the first of a step."""
    element_C = cells.element_of(elements)
    if element_C is None:
        return np.ones(len(cells), dtype=np.bool_)
    first_C: Array = np.diff(element_C, prepend=-1) != 0
    return first_C


def cuts_of_trace(rows: Rows, y_U: Array, eta: float) -> Array:
    """The tokens (bool) before which the group's trace u_t = (1/G) sum of y(i, t) has moved by more than eta."""
    cut_U = np.zeros(len(y_U), dtype=np.bool_)
    longest = int(rows.lengths_R.max(initial=0))
    _cut_by_trace(rows.starts_G1, rows.used_R, rows.tokens_R1, rows.place_U, y_U, eta, np.empty(longest), cut_U)
    return cut_U


@kernel
def _cut_by_trace(
    starts_G1: Array, used_R: Array, tokens_R1: Array, place_U: Array, y_U: Array, eta: float, trace_T: Array,
    cut_U: Array,
) -> None:  # fmt: skip
    for g in range(len(starts_G1) - 1):
        trace_T[:] = 0.0
        used = 0
        for r in range(starts_G1[g], starts_G1[g + 1]):
            used += used_R[r]
            for u in range(tokens_R1[r], tokens_R1[r + 1]):
                trace_T[place_U[u]] += y_U[u]
        for r in range(starts_G1[g], starts_G1[g + 1]):
            opened = False
            value = 0.0
            for u in range(tokens_R1[r], tokens_R1[r + 1]):
                here = trace_T[place_U[u]] / used
                if not opened or abs(here - value) > eta:
                    cut_U[u] = True
                    value = here
                opened = True


def pieces(cells: Cells, coarser: Sequence[Elements]) -> Array:
    """1.0 for each cell that is the first of its piece, a run that none of the `coarser` streams divides, else 0.0."""
    first_C = np.zeros(len(cells), dtype=np.bool_)
    first_C[cells.first_C] = True
    for elements in coarser:
        if elements.level == "token":
            return np.ones(len(cells))
        if elements.level == "step":
            first_C |= cuts_of_steps(cells, elements)
    counts_C: Array = first_C.astype(np.float64)
    return counts_C
