"""What carries the credit: each stream's contribution to the fused advantage, and a rollout's squared advantages.

Axes: rollouts of a part (R), chunks (K), completion tokens (N).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pass_ops import ShapingConfig, Standardizers, Statistics, Weights, shape
from pass_ops.errors import OptionError
from pass_ops.options.config import Operator
from pass_ops.reading.ragged import list_lengths, list_values
from pipelines.inspect.moments import Moments

STREAMS = ("process", "outcome", "format")


def spread(table: pa.Table, config: ShapingConfig, *, statistics: Statistics | None) -> dict[str, Moments]:
    """What each stream contributes, over the chunks of the rows, which are trainable.

    statistics: what a first pass recorded of pools of the whole dataset. Empty where nothing is a sum of two streams.
    """
    return _three(table, config) if config.streams is None else _streams(table, config, statistics)


def _three(table: pa.Table, config: ShapingConfig) -> dict[str, Moments]:
    """What each stream alone contributes to the fused advantage, over the chunks of trainable rows; no format gate.

    `reward_shaping` standardizes the streams' sum, so there the contributions are the centred weighted raw streams.
    Empty for the estimators that have no sum of streams, and where fewer than two streams count.
    """
    streams = STREAMS if config.reads_process else STREAMS[1:]
    counted = [stream for stream in streams if getattr(config.weights, stream) != 0.0]
    method = config.method
    if method is None or len(counted) < 2 or len(table) == 0:
        return {}
    if method.returns or (method.pools == "sum" and not method.divides):
        return {}  # no sum of streams at each chunk
    shaping = replace(config, estimator="pass") if method.divides else config
    standardize: Standardizers | Operator = "mean_only" if method.pools == "sum" else config.standardize
    if "format_ok" in table.column_names:
        if "format_reward" not in table.column_names:
            table = table.append_column("format_reward", pc.cast(table["format_ok"], pa.float32()))
        table = table.drop_columns(["format_ok"])
    found = {}
    for stream in counted:
        alone = Weights(**{name: getattr(config.weights, name) if name == stream else 0.0 for name in STREAMS})
        only = shape(table, replace(shaping, standardize=standardize, weights=alone))
        found[stream] = Moments.of(list_values(only["chunk_credits"]))
    return found


def _streams(table: pa.Table, config: ShapingConfig, statistics: Statistics | None) -> dict[str, Moments]:
    """What each stream's weight alone contributes to the fused sum, before that is standardized, over the chunks of
    trainable rows. Empty where fewer than two streams count, or a transform cannot be imported here.
    """
    from pass_ops.streams.table import stream_contributions  # numba takes a second to import

    assert config.streams is not None
    counted = [name for name, stream in config.streams.items() if stream.weight != 0.0]
    if len(counted) < 2 or len(table) == 0:
        return {}
    found = dict.fromkeys(counted, Moments())
    try:
        for name, added_K in stream_contributions(table, config, statistics=statistics):
            found[name] += Moments.of(added_K)
    except OptionError:
        return {}
    return found


def squares(table: pa.Table) -> NDArray[np.float64]:
    """Each rollout's squared advantages, summed over the tokens that count."""
    ends, mask = table["chunk_ends"], table["loss_mask"]
    row_K = np.repeat(np.arange(len(table)), list_lengths(ends))
    start_R = np.cumsum(list_lengths(mask)) - list_lengths(mask)
    before_N1 = np.concatenate([[0], np.cumsum(list_values(mask))])  # tokens that count before each
    end_K = start_R[row_K] + list_values(ends)
    begin_K = np.concatenate([[0], end_K])[:-1]
    first_K = np.concatenate([[True], np.diff(row_K) > 0])[: len(row_K)]
    begin_K[first_K] = start_R[row_K[first_K]]
    tokens_K = before_N1[end_K] - before_N1[begin_K]
    squares_K = list_values(table["chunk_advantages"]).astype(np.float64) ** 2
    return np.bincount(row_K, weights=squares_K * tokens_K, minlength=len(table)).astype(np.float64)
