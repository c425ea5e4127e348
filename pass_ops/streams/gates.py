"""Where a stream counts, and where its weight goes elsewhere (docs/spec/streams.md section 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pass_ops.options.streams import Stream, chain
from pass_ops.reading.ragged import Array
from pass_ops.reading.stream_rows import Rows


def open_rows(gates: Sequence[str], rows: Rows) -> Array:
    """The rows (bool) in which every gate is open."""
    return np.logical_and.reduce([_open_rows(gate, rows) for gate in gates])  # type: ignore[no-any-return]


def _open_rows(gate: str, rows: Rows) -> Array:
    if gate == "right":
        return rows.right_R
    if gate == "wrong":
        return ~rows.right_R
    if gate == "format":
        return rows.passed_R
    if gate in ("single_outcome", "mixed"):
        single_R = single_outcome(rows)[rows.group_R]
        return single_R if gate == "single_outcome" else ~single_R
    return np.ones(len(rows), dtype=np.bool_)


def single_outcome(rows: Rows) -> Array:
    """The groups (bool) whose used rollouts all have the same raw outcome."""
    groups = len(rows.starts_G1) - 1
    low_G, high_G = np.full(groups, np.inf), np.full(groups, -np.inf)
    np.minimum.at(low_G, rows.group_R[rows.used_R], rows.outcome_R[rows.used_R])
    np.maximum.at(high_G, rows.group_R[rows.used_R], rows.outcome_R[rows.used_R])
    return low_G >= high_G


def weights_by_row(streams: Mapping[str, Stream], rows: Rows) -> dict[str, Array | float]:
    """W_n(i): the weight that arrives at each stream in each row; one number where no gate can close."""
    if all(stream.gate == "always" for stream in streams.values()):
        return {name: float(stream.weight) for name, stream in streams.items()}  # type: ignore[arg-type]
    open_R = {gates: open_rows(gates, rows) for gates in {stream.gates for stream in streams.values()}}
    arrived: dict[str, Array | float] = {name: np.zeros(len(rows)) for name in streams}
    for name, stream in streams.items():
        carried_R = np.full(len(rows), float(stream.weight))  # type: ignore[arg-type]
        for at in chain(name, streams):
            stays_R = open_R[streams[at].gates]
            arrived[at] += np.where(stays_R, carried_R, 0.0)
            carried_R = np.where(stays_R, 0.0, carried_R)
    return arrived
