"""`shape`: a table of rollouts and signals in, the same table with chunks, credits and advantages out."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pass_ops.errors import OptionError
from pass_ops.options.config import ShapingConfig
from pass_ops.reading import columns
from pass_ops.reading.ragged import list_array
from pass_ops.reading.rollouts import Streams, choose_streams, read_rollouts

if TYPE_CHECKING:
    from pass_ops.blocks import Chunks
    from pass_ops.streams.statistics import Statistics

LEAST_SPAN_VALUES = 1 << 20  # less is not worth a thread: the calls around the kernels hold the interpreter
MOST_SPAN_VALUES = 1 << 24  # bounds what is held beside inputs and outputs
SPANS_A_THREAD = 2
MADE = ("chunk_ends", "chunk_credits", "chunk_advantages", "path_score", "trainable")


def shape(
    table: columns.ArrowStream,
    config: ShapingConfig = ShapingConfig(),
    *,
    threads: int | None = None,
    statistics: Statistics | None = None,
) -> pa.Table:
    """Form the advantages of every rollout of `table` with the estimator that `config` names.

    Args:
        table: a pyarrow Table, or anything with `__arrow_c_stream__` (a polars or pandas frame). One row per rollout,
            the rows of a group adjacent: group_id; loss_mask, list<bool>, True where a token counts; process_scores,
            list<float32>, and for signal `prm` process_ends, list<int32>, exclusive token ends; outcome_reward and
            format_reward, float32; format_ok, bool. Which of these are needed follows from the options (a stream of
            weight 0 needs none). float64 scores and rewards are rounded to float32; other numeric widths are cast
            where no value changes. A null marks a rollout whose value could not be computed: it is not trainable and
            belongs to no pool.
        config: the estimator and its options; by default PASS with the paper's.
        threads: how many groups are worked on at a time; None takes pyarrow.cpu_count(). The result has the same bits
            for any number.
        statistics: what `pool_statistics` recorded of the whole data set, where `table` is a part of it and a pool is
            "dataset"; None takes `table` for the data set.

    Returns:
        A pyarrow Table of the same rows and columns, which are not copied, and: chunk_ends list<int32> (exclusive token
        ends), chunk_credits and chunk_advantages list<float32> (one value per chunk), path_score float32 (null where
        there is none), trainable bool. Columns of these names that the table already has are replaced where they
        stand. Arithmetic is float64.

    Raises:
        OptionError: `config` or `threads` is of another type, or the estimator's import path leads to no function.
        MissingColumnError: a column that the options need is missing, or there twice.
        ColumnTypeError: a column has a type that cannot be cast without loss, or a float64 value beyond float32.
        NullValueError: a null inside a list, in group_id or in loss_mask.
        GroupOrderError: the rows of one group are not adjacent.
        LengthMismatchError: the lists of a rollout have different lengths.
        StepEndsError: process_ends do not increase strictly from above 0 to the completion's length.
        NonFiniteError: NaN or infinity in a reward, or in a process score at an unmasked token.
        EstimatorError: an estimator of your own returned something else than one advantage for each token.
        OutputOverflowError: a credit, advantage or path score is beyond float32.
        StatisticsError: `statistics` were recorded with other options.
        ShapingError: `table` is no table. All of the above are ShapingErrors, and name the rollout or option.
    """
    table = columns.to_table(table)
    if not isinstance(config, ShapingConfig):
        raise OptionError(f"config: expected a ShapingConfig, got {config!r}; build one, ShapingConfig(estimator=...)")
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise OptionError(f"threads: expected a whole number of at least 1, got {threads!r}; leave it out for all")
    workers = threads or pa.cpu_count()
    if config.streams is not None:
        from pass_ops.streams.table import shape_streams

        return _with_columns(table, shape_streams(table, config, workers=workers, statistics=statistics))
    if statistics is not None:
        raise OptionError(
            "statistics: only streams of pool 'dataset' read them, and there are no streams; leave it out"
        )
    from pass_ops.blocks import check_ends  # numba takes a second to import
    from pass_ops.estimators import estimator_of
    from pass_ops.reading.groups import group_starts

    estimator = estimator_of(config)
    streams = choose_streams(table, config)
    starts_G1 = group_starts(table, needed_by="shaping")
    spans = list(_spans(streams, starts_G1, workers))
    whole = read_rollouts(table, 0, starts_G1, streams) if streams.in_one_piece else None

    def work(groups: slice) -> Chunks:
        if whole is not None:
            rollouts = whole if len(spans) == 1 else whole.part(groups)
        else:
            first_row = int(starts_G1[groups.start])
            rollouts = read_rollouts(table, first_row, starts_G1[groups.start : groups.stop + 1] - first_row, streams)
        check_ends(rollouts)
        return estimator(rollouts, config)

    if workers == 1 or len(spans) <= 1:
        shaped = [work(span) for span in spans]
    else:
        with ThreadPoolExecutor(min(workers, len(spans)), thread_name_prefix="shape") as pool:
            shaped = list(pool.map(work, spans))
    return _with_columns(table, shaped)


def _spans(streams: Streams, starts_G1: np.ndarray, workers: int) -> Iterator[slice]:
    """Slices of groups: a few for each worker, so that none waits long, and bounded, so that working memory is."""
    groups = len(starts_G1) - 1
    if groups == 0:
        return
    values_R1 = _values_before(streams.columns.get("process_scores", streams.columns["loss_mask"]))
    values = int(values_R1[-1] - values_R1[0])
    size = values // (workers * SPANS_A_THREAD) + 1 if workers > 1 else MOST_SPAN_VALUES
    size = min(max(size, LEAST_SPAN_VALUES), MOST_SPAN_VALUES)
    if values <= size:
        yield slice(0, groups)
        return
    values_G1 = values_R1[starts_G1]
    first = 0
    while first < groups:
        last = int(np.searchsorted(values_G1, values_G1[first] + size, side="left"))
        last = min(max(last, first + 1), groups)
        yield slice(first, last)
        first = last


def _values_before(column: pa.ChunkedArray) -> np.ndarray:
    """Numbers whose differences say how many values the rows have."""
    kind = column.type
    if pa.types.is_list(kind) and column.num_chunks == 1 and len(column):
        return np.asarray(column.chunk(0).offsets)
    values_R1 = np.zeros(len(column) + 1, dtype=np.int64)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        np.cumsum(pc.fill_null(pc.list_value_length(column), 0).to_numpy(), out=values_R1[1:])
    return values_R1


def _with_columns(table: pa.Table, shaped: list[Chunks]) -> pa.Table:
    made = (
        pa.chunked_array([list_array(c.starts_R1, c.ends_K) for c in shaped], type=columns.LIST_OF_INT32),
        pa.chunked_array([list_array(c.starts_R1, c.credits_K) for c in shaped], type=columns.LIST_OF_FLOAT32),
        pa.chunked_array([list_array(c.starts_R1, c.advantages_K) for c in shaped], type=columns.LIST_OF_FLOAT32),
        pa.chunked_array([_path_scores(c) for c in shaped], type=pa.float32()),
        pa.chunked_array([pa.array(c.trainable_R) for c in shaped], type=pa.bool_()),
    )
    for name, column in zip(MADE, made, strict=True):
        places = table.schema.get_all_field_indices(name)
        table = table.set_column(places[0], name, column) if places else table.append_column(name, column)
    return table


def _path_scores(chunks: Chunks) -> pa.Array:
    missing_R = np.isnan(chunks.path_R)
    return pa.array(chunks.path_R, mask=missing_R if missing_R.any() else None)
