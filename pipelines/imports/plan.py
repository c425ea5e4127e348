"""Which rows of a spool form which group and which part: arrays of numbers, a group never in two parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pass_ops.reading.ragged import Array
from pass_ops.shards import Store
from pipelines.imports.spool import Index

PLAN = "plan.arrow"
#: what a part holds at most, unless a single group holds more
PART_BYTES = 128 * 2**20
#: sample_index of a row that repeats another one's, and of one that was rejected when it was read
DUPLICATE, REJECTED = -1, -2


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """Rows in order of part, group (as it first appears) and sample_index. Legend: _R rows, _P1 parts + 1.

    rows_R: row of the spool. sample_R: sample_index, DUPLICATE or REJECTED. bounds_P1: where parts begin.
    group_size: rollouts of the largest group. groups: how many.
    """

    rows_R: Array
    sample_R: Array
    bounds_P1: Array
    group_size: int
    groups: int


def make_plan(index: Index, *, rollouts_per_part: int) -> Plan:
    """Groups in order of their first rows; parts of at least so many rollouts, or PART_BYTES.

    A rejected row goes to the part of the good row before it.
    """
    good = np.flatnonzero(~index.rejected)
    group_R, groups = _group_numbers(index.keys[good])
    sample_R = _sample_numbers(index.sample_index[good], group_R)
    order = np.lexsort((good, sample_R, group_R))
    good, group_R, sample_R = good[order], group_R[order], sample_R[order]
    again = (np.diff(group_R, prepend=-1) == 0) & (np.diff(sample_R, prepend=-1) == 0)
    sizes = np.bincount(group_R, minlength=groups)
    part_G = _parts(sizes, np.bincount(group_R, weights=index.sizes[good], minlength=groups), rollouts_per_part)
    part_R = part_G[group_R]
    bad = np.flatnonzero(index.rejected)
    in_order = np.argsort(good, kind="stable")
    before = np.searchsorted(good[in_order], bad) - 1
    bad_part = np.where(before >= 0, part_R[in_order][np.maximum(before, 0)], 0) if len(good) else np.zeros_like(bad)
    parts = np.concatenate([part_R, bad_part])
    place = np.argsort(parts, kind="stable")
    samples = np.concatenate([np.where(again, DUPLICATE, sample_R), np.full(len(bad), REJECTED)])
    return Plan(
        rows_R=np.concatenate([good, bad])[place],
        sample_R=samples[place].astype(np.int32),
        bounds_P1=np.searchsorted(parts[place], np.arange(int(part_G.max(initial=0)) + 2)),
        group_size=int(sizes.max(initial=1)),
        groups=groups,
    )


def write_plan(plan: Plan, store: Store) -> None:
    """One record batch a part, so that a worker reads its own alone."""
    schema = pa.schema([("row", pa.int64()), ("sample_index", pa.int32())])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        for start, stop in zip(plan.bounds_P1[:-1].tolist(), plan.bounds_P1[1:].tolist(), strict=True):
            columns = [pa.array(plan.rows_R[start:stop]), pa.array(plan.sample_R[start:stop])]
            writer.write_batch(pa.record_batch(columns, schema=schema))
    store.put(PLAN, sink.getvalue().to_pybytes())


def read_part(store: Store, part: int) -> tuple[Array, Array]:
    """Rows of the spool and sample indices of one part."""
    batch = pa.ipc.open_file(store.open_arrow(PLAN)).get_batch(part)
    return batch["row"].to_numpy(), batch["sample_index"].to_numpy()


def _group_numbers(keys: Array) -> tuple[Array, int]:
    """For each row its group's number, in order of first appearance, and how many there are."""
    if len(keys) == 0:
        return np.zeros(0, np.int64), 0
    order = np.lexsort(keys.T)
    ordered = keys[order]
    starts = np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(axis=1)])
    heads = order[starts]  # lexsort is stable: the first row of each group
    numbers = np.empty(len(heads), np.int64)
    numbers[np.argsort(heads, kind="stable")] = np.arange(len(heads))
    group_R = np.empty(len(keys), np.int64)
    group_R[order] = numbers[np.cumsum(starts) - 1]
    return group_R, len(heads)


def _sample_numbers(given_R: Array, group_R: Array) -> Array:
    """The source's sample_index where every row of the group has one, else 0, 1, ... in the source's order."""
    if len(given_R) == 0:
        return given_R
    lacks_G = np.zeros(int(group_R.max()) + 1, np.bool_)
    lacks_G[group_R[given_R < 0]] = True
    order = np.argsort(group_R, kind="stable")
    starts = np.concatenate([[True], np.diff(group_R[order]) != 0])
    first = np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))
    place_R = np.empty(len(order), np.int64)
    place_R[order] = np.arange(len(order)) - first
    return np.where(lacks_G[group_R], place_R, given_R)


def _parts(sizes_G: Array, bytes_G: Array, rollouts_per_part: int) -> Array:
    """The part of each group: a new one begins as soon as the last is full."""
    parts, rows, weight, part = np.zeros(len(sizes_G), np.int64), 0, 0.0, 0
    for group, (size, weigh) in enumerate(_pairs(sizes_G, bytes_G)):
        if rows >= rollouts_per_part or (rows and weight + weigh > PART_BYTES):
            part, rows, weight = part + 1, 0, 0.0
        parts[group] = part
        rows, weight = rows + size, weight + weigh
    return parts


def _pairs(sizes_G: Array, bytes_G: Array) -> Iterator[tuple[int, float]]:
    """Without a Python object for every group at once."""
    for start in range(0, len(sizes_G), 65536):
        yield from zip(sizes_G[start : start + 65536].tolist(), bytes_G[start : start + 65536].tolist(), strict=True)
