"""What carries the credit: each stream's contribution to the fused advantage, and a rollout's squared advantages.

Axes: chunks (K), completion tokens (N).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pass_ops import ShapingConfig, Standardizers, Statistics, Weights, shape, token_advantages
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
    mask_N = list_values(table["loss_mask"])
    row_N = np.repeat(np.arange(len(table)), list_lengths(table["loss_mask"]))
    squares_N = list_values(token_advantages(table)).astype(np.float64) ** 2
    return np.bincount(row_N[mask_N], weights=squares_N[mask_N], minlength=len(table)).astype(np.float64)
