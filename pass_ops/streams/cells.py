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

from pass_ops.reading.ragged import Array, room
from pass_ops.reading.stream_elements import Elements, starts
from pass_ops.reading.stream_rows import Rows
from pass_ops.streams.pools import Values
from pass_ops.support.jit import kernel, part

NO_ELEMENTS = np.empty(0, dtype=np.int64)
NOTHING = np.empty(0)


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Row r's cells are number starts_R1[r]..starts_R1[r + 1].

    ends_C: their exclusive ends among all _U tokens; None where every token is a cell.
    """

    rows: Rows
    starts_R1: Array
    ends_C: Array | None

    def __len__(self) -> int:
        return int(self.starts_R1[-1])

    @cached_property
    def stops_C(self) -> Array:
        """The cells' exclusive ends among all _U tokens."""
        return np.arange(1, len(self) + 1) if self.ends_C is None else self.ends_C

    @cached_property
    def tokens_C(self) -> Array:
        """How many tokens each cell has; cells lie one after the other."""
        return np.diff(self.stops_C, prepend=0)

    @cached_property
    def starts_G1(self) -> Array:
        """The numbers of the groups' first cells."""
        return self.starts_R1[self.rows.starts_G1]

    @property
    def first_C(self) -> Array:
        """The numbers of the rows' first cells."""
        return self.starts_R1[:-1][np.diff(self.starts_R1) > 0]

    def element_of(self, elements: Elements) -> Array | None:
        """The element of a step or token stream that each cell's last token lies in; None where they are the same, one
        for one.
        """
        if elements.level == "token":
            return None if len(self) == len(elements.values_E) else self.stops_C - 1
        stops_E = elements.stops_E
        assert stops_E is not None
        # Both end where the rows do, so an equal number of them may still be other places.
        if stops_E is self.ends_C or (len(stops_E) == len(self) and np.array_equal(stops_E, self.stops_C)):
            return None
        element_C = room(len(self), np.int64)
        _find_elements(stops_E, self.stops_C, element_C)
        return element_C

    def cut(self, cut_C: Array) -> tuple[Cells, Array | None]:
        """The runs of cells that begin where cut_C is set, as it is at each row's first; and the last cell of each
        (None where every cell is one).
        """
        number = np.count_nonzero(cut_C)
        if number == len(self):
            return self, None
        begin_K1 = np.append(np.flatnonzero(cut_C), len(self))
        last_K = begin_K1[1:] - 1
        starts_R1 = np.searchsorted(begin_K1[:-1], self.starts_R1)
        stops_K = begin_K1[1:] if self.ends_C is None else self.ends_C[last_K]
        return Cells(rows=self.rows, starts_R1=starts_R1, ends_C=stops_K), last_K

    def summed(self, base_R: Array, parts: Iterable[tuple[Array, Values, Elements]]) -> Array:
        """Base of the row + the sum over parts of weight of the row * y of the element, added in their order."""
        a_C = room(len(self), np.float64)
        for weight_R, y, elements in parts:
            element_C = self.element_of(elements)
            _add_weighted(
                self.rows.starts_G1, self.starts_R1, base_R, weight_R, *y,
                NO_ELEMENTS if element_C is None else element_C, a_C,
            )  # fmt: skip
            base_R = NOTHING
        if len(base_R) > 0:
            a_C[:] = np.repeat(base_R, np.diff(self.starts_R1))
        return a_C


@kernel
def _find_elements(stops_E: Array, stops_C: Array, element_C: Array) -> None:
    e = 0
    for c in range(len(stops_C)):
        while stops_E[e] < stops_C[c]:
            e += 1
        element_C[c] = e


@kernel
def _add_weighted(
    starts_G1: Array, starts_R1: Array, base_R: Array, weight_R: Array, x_E: Array, center_G: Array, scale_G: Array,
    element_C: Array, a_C: Array,
) -> None:  # fmt: skip
    """a_C += weight * y; where base_R is not empty, a_C = base + weight * y. element_C: empty where it counts up."""
    same, begins = len(element_C) == 0, len(base_R) > 0
    for g in range(len(starts_G1) - 1):
        center, scale = center_G[g], scale_G[g]
        for r in range(starts_G1[g], starts_G1[g + 1]):
            weight = weight_R[r]
            a = a_C[starts_R1[r] : starts_R1[r + 1]]
            if begins:
                a[:] = base_R[r]
            if same:
                x = x_E[starts_R1[r] : starts_R1[r + 1]]
                for c in range(len(a)):
                    a[c] += weight * ((x[c] - center) / scale)
            else:
                element = element_C[starts_R1[r] : starts_R1[r + 1]]
                for c in range(len(a)):
                    a[c] += weight * ((x_E[element[c]] - center) / scale)


def cells_of(rows: Rows, streams: Iterable[Elements], *, per_token: bool) -> Cells:
    """The cells of some streams; with per_token every token is one."""
    streams = list(streams)
    if per_token or any(stream.level == "token" for stream in streams):
        return Cells(rows=rows, starts_R1=rows.tokens_R1, ends_C=None)
    stops: list[Array] = []
    for stream in streams:
        if stream.stops_E is not None and all(stream.stops_E is not other for other in stops):
            stops.append(stream.stops_E)
    if not stops:
        return Cells(rows=rows, starts_R1=starts(rows.trainable_R), ends_C=rows.tokens_R1[1:][rows.trainable_R])
    stops_C = stops[0]
    if not all(np.array_equal(stops_C, other) for other in stops[1:]):
        stops_C = np.unique(np.concatenate(stops))
    return Cells(rows=rows, starts_R1=np.searchsorted(stops_C, rows.tokens_R1, side="right"), ends_C=stops_C)


def cuts_of_steps(cells: Cells, elements: Elements) -> Array:
    """The cells (bool) that are the first of a step."""
    element_C = cells.element_of(elements)
    if element_C is None:
        return np.ones(len(cells), dtype=np.bool_)
    first_C: Array = np.diff(element_C, prepend=-1) != 0
    return first_C


def cuts_of_trace(rows: Rows, y: Values, eta: float) -> Array:
    """The tokens (bool) before which the group's trace u_t = (1/G) sum of y(i, t) has moved by more than eta."""
    cut_U = room(len(y.x_E), np.bool_)
    longest = int(rows.lengths_R.max(initial=0))
    _cut_by_trace(
        rows.starts_G1, rows.used_R, rows.tokens_R1, rows.lengths_R, *rows.mask, *y, eta,
        np.empty(longest), np.empty(longest, dtype=np.bool_), cut_U,
    )  # fmt: skip
    return cut_U


@kernel
def _cut_by_trace(
    starts_G1: Array, used_R: Array, tokens_R1: Array, lengths_R: Array, mask_R1: Array, mask_N: Array, x_U: Array,
    center_G: Array, scale_G: Array, eta: float, trace_T: Array, cut_T: Array, cut_U: Array,
) -> None:  # fmt: skip
    for g in range(len(starts_G1) - 1):
        first_R, last_R = starts_G1[g], starts_G1[g + 1]
        longest = _add_up_trace(
            first_R, last_R, used_R, tokens_R1, lengths_R, mask_R1, mask_N, x_U, center_G[g], scale_G[g], trace_T
        )
        # Rows of which no token is masked see the same trace from its start, so they are cut at the same places.
        value = 0.0
        for t in range(longest):
            cut_T[t] = t == 0 or abs(trace_T[t] - value) > eta
            if cut_T[t]:
                value = trace_T[t]
        for r in range(first_R, last_R):
            first, tokens = tokens_R1[r], tokens_R1[r + 1] - tokens_R1[r]
            if tokens == lengths_R[r]:
                cut_U[first : first + tokens] = cut_T[:tokens]
                continue
            mask, cut, u = mask_N[mask_R1[r] : mask_R1[r + 1]], cut_U[first : first + tokens], 0
            for t in range(len(mask) if tokens > 0 else 0):
                if mask[t]:
                    cut[u] = u == 0 or abs(trace_T[t] - value) > eta
                    if cut[u]:
                        value = trace_T[t]
                    u += 1


@part
def _add_up_trace(
    first_R: int, last_R: int, used_R: Array, tokens_R1: Array, lengths_R: Array, mask_R1: Array, mask_N: Array,
    x_U: Array, center: float, scale: float, trace_T: Array,
) -> int:  # fmt: skip
    """Fill the trace of one group, and say how long it is."""
    used = longest = 0
    for r in range(first_R, last_R):
        if used_R[r]:
            used += 1
            longest = max(longest, lengths_R[r])
    trace_T[:longest] = 0.0
    for r in range(first_R, last_R):
        x = x_U[tokens_R1[r] : tokens_R1[r + 1]]
        if len(x) == lengths_R[r]:
            for t in range(len(x)):
                trace_T[t] += (x[t] - center) / scale
        elif len(x) > 0:
            mask, u = mask_N[mask_R1[r] : mask_R1[r + 1]], 0
            for t in range(len(mask)):
                if mask[t]:
                    trace_T[t] += (x[u] - center) / scale
                    u += 1
    for t in range(longest):
        trace_T[t] /= used
    return longest


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
