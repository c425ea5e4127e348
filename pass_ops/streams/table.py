"""A table's groups, in spans that fit the cache, shaped by several threads; and the first pass over the pools."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from pass_ops.blocks import Chunks
from pass_ops.errors import OptionError
from pass_ops.options.config import ShapingConfig
from pass_ops.reading import columns
from pass_ops.reading.groups import group_starts
from pass_ops.reading.ragged import Array, list_lengths
from pass_ops.reading.stream_rows import Rows, read_rows
from pass_ops.reading.stream_sources import Plan, plan, read_streams
from pass_ops.streams import pools as pooling
from pass_ops.streams.estimator import FUSED, Shaper, moments_by_group
from pass_ops.streams.pools import Moments
from pass_ops.streams.statistics import Statistics, pool_statistics

LEAST_SPAN_VALUES = 1 << 18  # less is not worth a thread: the calls around the kernels hold the interpreter
MOST_SPAN_VALUES = 1 << 20  # bounds what is held beside inputs and outputs
SPANS_A_THREAD = 2
ROW_VALUES = 8  # what a row costs, in values


def shape_streams(
    table: pa.Table, config: ShapingConfig, *, workers: int, statistics: Statistics | None
) -> list[Chunks]:
    """The chunks of all groups, in order.

    Raises:
        StatisticsError, OptionError: `statistics` of other options, or where no pool is the data set. Else see `shape`.
    """
    planned = plan(table, config)
    if config.dataset_pools:
        statistics = statistics or pool_statistics([table], config)
        statistics.check(config)
    elif statistics is not None:
        raise OptionError("statistics: no stream's pool is 'dataset', so nobody reads them; leave it out")
    shaper = _shaper(config, planned, statistics.moments() if statistics else {})
    starts_G1 = group_starts(table, needed_by="shaping")

    def work(groups: slice) -> Chunks:
        return shaper.chunks(_read(table, starts_G1, groups, shaper))

    spans = list(_spans(table, planned, starts_G1, config, workers=workers))
    if workers == 1 or len(spans) <= 1:
        return [work(span) for span in spans]
    with ThreadPoolExecutor(min(workers, len(spans)), thread_name_prefix="shape") as pool:
        return list(pool.map(work, spans))


def recorded_moments(table: pa.Table, config: ShapingConfig) -> dict[str, Moments]:
    """The moments of every pool that is the data set, over this table: stream, or FUSED -> one pool each."""
    planned = plan(table, config)
    shaper = _shaper(config, planned, {})
    starts_G1 = group_starts(table, needed_by="shaping")
    names = [name for name in config.dataset_pools if name == FUSED or name in shaper.streams]
    found: dict[str, list[Moments]] = {name: [] for name in names}
    for groups in _spans(table, planned, starts_G1, config):
        rows = _read(table, starts_G1, groups, shaper)
        for name in names:
            found[name].append(_moments_by_group(shaper, rows, name))
    return {
        name: pooling.merged(Moments(*(np.concatenate(column) for column in zip(*parts, strict=True))))
        for name, parts in found.items()
        if parts
    }


def stream_contributions(
    table: pa.Table, config: ShapingConfig, *, statistics: Statistics | None
) -> Iterator[tuple[str, Array]]:
    """Stream of non-zero weight, and what that weight adds to the fused sum of each chunk, float64; span by span.

    `table` holds whole groups of trainable rollouts. statistics: where a pool is the whole data set; their options are
    not compared. Raises what `shape` does.
    """
    planned = plan(table, config)
    shaper = _shaper(config, planned, statistics.moments() if statistics else {})
    starts_G1 = group_starts(table, needed_by="shaping")
    for groups in _spans(table, planned, starts_G1, config):
        yield from shaper.contributions(_read(table, starts_G1, groups, shaper))


def _moments_by_group(shaper: Shaper, rows: Rows, name: str) -> Moments:
    """By group, since a group's sums depend on nothing but the group."""
    if name == FUSED:
        cells, y = shaper.cells(rows), shaper.values(rows)
        return shaper.sum_moments(rows, cells, y, shaper.fused(rows, cells, y))
    return moments_by_group(rows, rows.elements[name], shaper.raw(rows, name))


def _shaper(config: ShapingConfig, planned: Plan, recorded: Mapping[str, Moments]) -> Shaper:
    streams = {name: (config.streams or {})[name] for name in read_streams(config)}
    return Shaper(config=config, streams=streams, plan=planned, recorded=recorded)


def _read(table: pa.Table, starts_G1: Array, groups: slice, shaper: Shaper) -> Rows:
    first_row = int(starts_G1[groups.start])
    return read_rows(
        table, first_row, starts_G1[groups.start : groups.stop + 1] - first_row, shaper.plan,
        right_above=shaper.config.right_above,
    )  # fmt: skip


def _spans(
    table: pa.Table, planned: Plan, starts_G1: Array, config: ShapingConfig, *, workers: int = 1
) -> Iterator[slice]:
    """Slices of groups: a few for each worker, so that none waits long, and bounded, so that working memory is."""
    groups = len(starts_G1) - 1
    steps = next((source.values for source in planned.sources.values() if source.level == "step"), None)
    by_token = planned.per_token or not config.chunk or steps is None
    counted = table.column("loss_mask" if by_token or steps is None else steps)
    lengths_R = np.zeros(len(table), dtype=np.int64)
    if columns.is_list(counted.type):
        lengths_R = list_lengths(counted)
    costs_R1 = np.concatenate(([0], np.cumsum(lengths_R + ROW_VALUES)))
    costs_G1 = costs_R1[starts_G1]
    size = int(costs_R1[-1]) // (workers * SPANS_A_THREAD) + 1 if workers > 1 else MOST_SPAN_VALUES
    size = min(max(size, LEAST_SPAN_VALUES), MOST_SPAN_VALUES)
    first = 0
    while first < groups:
        last = int(np.searchsorted(costs_G1, costs_G1[first] + size, side="right")) - 1
        last = min(max(last, first + 1), groups)
        yield slice(first, last)
        first = last
