"""`shape`: a table of rollouts and signals in, the same table with chunks, credits and advantages out."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pass_ops import columns
from pass_ops.config import ShapingConfig
from pass_ops.errors import OptionError
from pass_ops.ragged import list_array
from pass_ops.rollouts import choose_streams, read_rollouts

if TYPE_CHECKING:
    from pass_ops.blocks import Chunks

LEAST_SPAN_TOKENS = 1 << 18
MOST_SPAN_TOKENS = 1 << 24
SPANS_A_THREAD = 4


def shape(table: pa.Table, config: ShapingConfig, *, threads: int | None = None) -> pa.Table:
    """Form the advantages of every rollout of `table` with the estimator that `config` names.

    Args:
        table: one row per rollout, the rows of a group adjacent: group_id; loss_mask, list<bool>, True where a token
            counts; process_scores, list<float32>, and for signal `prm` process_ends, list<int32>, exclusive token
            ends; outcome_reward and format_reward, float32; format_ok, bool. Which of these are needed follows from
            the options (a stream of weight 0 needs none). Other numeric widths are cast where no value changes. A
            null marks a rollout whose value could not be computed: it is not trainable and in no pool.
        config: the estimator and its options.
        threads: how many groups are worked on at a time; None takes pyarrow.cpu_count(). The result is the same bits
            for any number.

    Returns:
        The same rows and columns, not copied, and: chunk_ends list<int32> (exclusive token ends), chunk_credits and
        chunk_advantages list<float32> (one value per chunk), path_score float32 (null where there is none), trainable
        bool. Columns of these names that the table already has are replaced where they stand. Arithmetic is float64.

    Raises:
        ShapingError: one of its subclasses in `pass_ops.errors`; each names the rollout or option, what was found and
            what to do.
    """
    columns.require_table(table)
    if not isinstance(config, ShapingConfig):
        raise OptionError(f"config: expected a ShapingConfig, got {config!r}; build one, ShapingConfig(estimator=...)")
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise OptionError(f"threads: expected a whole number of at least 1, got {threads!r}; leave it out for all")
    from pass_ops.blocks import check_ends  # numba takes a second to import
    from pass_ops.estimators import estimator_of

    estimator = estimator_of(config)
    streams = choose_streams(table, config)
    starts_G1 = columns.group_starts(table, needed_by="shaping")
    workers = threads or pa.cpu_count()

    def work(groups: slice) -> Chunks:
        first_row = int(starts_G1[groups.start])
        rollouts = read_rollouts(table, first_row, starts_G1[groups.start : groups.stop + 1] - first_row, streams)
        check_ends(rollouts)
        return estimator(rollouts, config)

    spans = list(_spans(table, starts_G1, workers))
    if workers == 1 or len(spans) <= 1:
        shaped = [work(span) for span in spans]
    else:
        with ThreadPoolExecutor(min(workers, len(spans)), thread_name_prefix="shape") as pool:
            shaped = list(pool.map(work, spans))
    return _with_columns(table, shaped)


def _spans(table: pa.Table, starts_G1: np.ndarray, workers: int) -> Iterator[slice]:
    """Slices of groups: a few for each worker, so that none waits long, and bounded, so that working memory is."""
    groups = len(starts_G1) - 1
    if groups == 0:
        return
    tokens_G1 = _tokens_before(table.column("loss_mask"))[starts_G1]
    wanted = int(tokens_G1[-1]) // (workers * SPANS_A_THREAD) if workers > 1 else MOST_SPAN_TOKENS
    size = min(max(wanted, LEAST_SPAN_TOKENS), MOST_SPAN_TOKENS)
    first = 0
    while first < groups:
        last = int(np.searchsorted(tokens_G1, tokens_G1[first] + size, side="left"))
        last = min(max(last, first + 1), groups)
        yield slice(first, last)
        first = last


def _tokens_before(mask: pa.ChunkedArray) -> np.ndarray:
    """How many tokens lie before each row and, as the last value, in all."""
    tokens_R1 = np.zeros(len(mask) + 1, dtype=np.int64)
    kind = mask.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        np.cumsum(pc.fill_null(pc.list_value_length(mask), 0).to_numpy(), out=tokens_R1[1:])
    return tokens_R1


def _with_columns(table: pa.Table, shaped: list[Chunks]) -> pa.Table:
    made: dict[str, tuple[pa.DataType, list[pa.Array]]] = {
        "chunk_ends": (columns.LIST_OF_INT32, [list_array(c.starts_R1, c.ends_K) for c in shaped]),
        "chunk_credits": (columns.LIST_OF_FLOAT32, [list_array(c.starts_R1, c.credits_K) for c in shaped]),
        "chunk_advantages": (columns.LIST_OF_FLOAT32, [list_array(c.starts_R1, c.advantages_K) for c in shaped]),
        "path_score": (pa.float32(), [pa.array(c.path_R, mask=np.isnan(c.path_R)) for c in shaped]),
        "trainable": (pa.bool_(), [pa.array(c.trainable_R) for c in shaped]),
    }
    for name, (kind, arrays) in made.items():
        column = pa.chunked_array(arrays, type=kind)
        places = table.schema.get_all_field_indices(name)
        table = table.set_column(places[0], name, column) if places else table.append_column(name, column)
    return table
