"""A small sound table to spoil, and how a spoiled one is looked at."""

from __future__ import annotations

import math
import re

import pyarrow as pa
import pytest

from pass_ops import ShapingConfig, errors, shape

NAN, INF = math.nan, math.inf
STEPS = pa.table(
    {
        "rollout_id": ["q1/0", "q1/1", "q2/0"],
        "group_id": ["q1", "q1", "q2"],
        "loss_mask": pa.array([[True, True, False], [True, True], [True]], pa.list_(pa.bool_())),
        "process_scores": pa.array([[0.5, 1.0], [2.0], [-1.0]], pa.list_(pa.float32())),
        "process_ends": pa.array([[1, 3], [2], [1]], pa.list_(pa.int32())),
        "outcome_reward": pa.array([1.0, 0.0, 1.0], pa.float32()),
        "format_reward": pa.array([1.0, 1.0, 0.0], pa.float32()),
        "format_ok": [True, True, False],
    }
)
TOKENS = STEPS.drop_columns(["process_ends"]).set_column(
    3, "process_scores", pa.array([[0.5, 1.0, 0.0], [2.0, 1.0], [-1.0]], pa.list_(pa.float32()))
)
KL = {"signal": "kl"}
F32, I32, BOOL = pa.list_(pa.float32()), pa.list_(pa.int32()), pa.list_(pa.bool_())


def put(name, values, kind=None, table=STEPS):
    column = values if isinstance(values, (pa.Array, pa.ChunkedArray)) else pa.array(values, kind)
    return table.set_column(table.schema.get_field_index(name), name, column)


def drop(*names, table=STEPS):
    return table.drop_columns(list(names))


def add(name, values, kind=None):
    return STEPS.append_column(name, pa.array(values, kind))


def rename(**names):
    return STEPS.rename_columns([names.get(n, n) for n in STEPS.column_names])


def refused(table, options, error, message):
    """`shape` raises exactly this error with exactly this message."""
    with pytest.raises(error, match=f"^{re.escape(message)}$") as caught:
        shape(table, ShapingConfig(**options))
    assert type(caught.value) is error
    assert isinstance(caught.value, (errors.PassError, ValueError))
