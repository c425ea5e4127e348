"""Sidecars from whole columns: what a signal is made of that costs no Python object a row or token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pass_ops.reading.ragged import list_array, list_lengths, list_values, offsets
from pass_ops.shards import signal_schema
from pass_ops.shards.schemas import STATUSES
from pass_ops.support.nearest import advice
from pipelines.signals.base import ALWAYS, SignalResultError

#: a column of a sidecar: Arrow's, or anything that `pyarrow.array` makes one of
Column: TypeAlias = pa.Array | pa.ChunkedArray | Sequence[Any]


def columnar_sidecar(
    kind: str,
    rollouts: pa.Table,
    values: Mapping[str, Column],
    *,
    status: Column | None = None,
    detail: Column | None = None,
) -> pa.Table:
    """The sidecar table of rollouts from whole columns, row for row; `sidecar` is the same from one Row a rollout.

    values: the kind's columns by name, one value a rollout; those left out are null, and so are rows that are not ok.
    A float64 column is rounded to float32. status: STATUSES (default: all ok). detail: words or null (default: null).

    Raises SignalResultError where a column is unknown, of another length or type, or a status is unknown.
    """
    schema, rows = signal_schema(kind), len(rollouts)
    given = {**values, **({"status": status} if status is not None else {})}
    given |= {"detail": detail} if detail is not None else {}
    for name in given:
        if name not in schema.names or name == "rollout_id":
            raise SignalResultError(
                f"a signal gave a column {name!r}, which kind {kind} does not have; {advice(name, schema.names[1:])}"
            )
    columns = {
        name: _as_column(column, schema.field(name).type, name=name, rows=rows) for name, column in given.items()
    }
    ok = _which_ok(columns["status"]) if "status" in columns else None
    for name in values:
        if ok is not None and name not in (*ALWAYS, "status", "detail"):
            columns[name] = pc.if_else(ok, columns[name], pa.scalar(None, columns[name].type))
    columns.setdefault("status", pa.repeat(pa.scalar("ok"), rows))
    columns["rollout_id"] = rollouts["rollout_id"]
    missing = {name: pa.nulls(rows, schema.field(name).type) for name in schema.names if name not in columns}
    return pa.table([(columns | missing)[name] for name in schema.names], schema=schema)


def _which_ok(status: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray | None:
    """Which rows are ok; None where all are. Raises SignalResultError."""
    unknown = [found for found in pc.unique(status).to_pylist() if found not in STATUSES]
    if unknown:
        raise SignalResultError(f"a signal gave the status {unknown[0]!r}; choose one of {', '.join(STATUSES)}")
    ok = pc.equal(status, "ok")
    return None if pc.all(ok, min_count=0).as_py() else ok


def _as_column(column: Column, kind: pa.DataType, *, name: str, rows: int) -> pa.Array | pa.ChunkedArray:
    """A column of this type. Raises SignalResultError."""
    try:
        found = column if isinstance(column, (pa.Array, pa.ChunkedArray)) else pa.array(column, kind)
        found = found if found.type == kind else found.cast(kind)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise SignalResultError(f"a signal's column {name!r} is not {kind}: {error}; cast it") from error
    if len(found) != rows:
        raise SignalResultError(
            f"a signal's column {name!r} has {len(found)} rows for {rows} rollouts; it must have one for each, in order"
        )
    return found


def list_rows(lists: pa.ChunkedArray) -> list[NDArray[Any]]:
    """Each list of numbers as an array, which is a view; none is null."""
    values_N, starts_R1 = list_values(lists), offsets(list_lengths(lists)).tolist()
    return [values_N[start:end] for start, end in pairwise(starts_R1)]


def spread(lists: pa.ListArray, known_R: NDArray[np.bool_]) -> pa.ListArray:
    """Lists of numbers of the known rows, as lists of all rows: null where not known. Values are not copied.

    >>> spread(pa.array([[1.5], []], pa.list_(pa.float32())), np.array([True, False, True])).to_pylist()
    [[1.5], None, []]
    """
    if known_R.all():
        return lists
    counts_R = np.zeros(len(known_R), np.int64)
    counts_R[known_R] = list_lengths(lists)
    return list_array(offsets(counts_R), list_values(lists), valid_R=known_R)
