"""Tables whose columns are missing, doubled or of a type that would lose something: each error with its message."""

from __future__ import annotations

from decimal import Decimal

import pyarrow as pa
import pytest
from malformed import STEPS, drop, put, refused, rename

from pass_ops import ShapingConfig, Weights, errors, shape

BAD = {
    # columns that are missing
    "no group_id": (
        drop("group_id"),
        {},
        errors.MissingColumnError,
        "column 'group_id' is missing: shaping needs it; add it to the columns rollout_id, loss_mask, "
        "process_scores, process_ends, outcome_reward, format_reward, format_ok",
    ),
    "no loss_mask": (
        drop("loss_mask"),
        {},
        errors.MissingColumnError,
        "column 'loss_mask' is missing: shaping needs it; add it to the columns rollout_id, group_id, "
        "process_scores, process_ends, outcome_reward, format_reward, format_ok",
    ),
    "no process_scores": (
        drop("process_scores"),
        {},
        errors.MissingColumnError,
        "column 'process_scores' is missing: signal 'prm' of estimator 'pass' needs it; add it to the columns"
        " rollout_id, group_id, loss_mask, process_ends, outcome_reward, format_reward, format_ok",
    ),
    "no process_scores though their weight is 0": (
        drop("process_scores"),
        {"weights": Weights(process=0.0)},
        errors.MissingColumnError,
        "column 'process_scores' is missing: signal 'prm' of estimator 'pass' needs it; add it to the columns"
        " rollout_id, group_id, loss_mask, process_ends, outcome_reward, format_reward, format_ok",
    ),
    "no process_ends": (
        drop("process_ends"),
        {},
        errors.MissingColumnError,
        "column 'process_ends' is missing: signal 'prm' of estimator 'pass' needs the exclusive token end of "
        "each step; add it, or set signal='kl' if process_scores holds one score per token",
    ),
    "no outcome_reward": (
        drop("outcome_reward"),
        {},
        errors.MissingColumnError,
        "column 'outcome_reward' is missing: weights.outcome=1 (0 leaves it out) needs it; add it to the "
        "columns rollout_id, group_id, loss_mask, process_scores, process_ends, format_reward, format_ok",
    ),
    "no format column": (
        drop("format_reward", "format_ok"),
        {},
        errors.MissingColumnError,
        "columns 'format_reward' and 'format_ok' are both missing: weights.format is 1; add one of them, or "
        "set weights.format=0 to shape without a format stream",
    ),
    "a column twice": (
        rename(format_reward="outcome_reward"),
        {"weights": Weights(format=0.0)},
        errors.MissingColumnError,
        "column 'outcome_reward' appears 2 times; keep the one that weights.outcome=1 (0 leaves it out) shall use",
    ),
    "no columns": (
        pa.table({}),
        {"estimator": "grpo_outcome", "weights": Weights(outcome=0.0, format=0.0)},
        errors.MissingColumnError,
        "column 'loss_mask' is missing: shaping needs it; add it to the columns (the table has none)",
    ),
    # types
    "not a table": (
        Decimal(1),
        {},
        errors.ShapingError,
        "expected a table (pyarrow, polars, pandas, or anything else with __arrow_c_stream__), got decimal.Decimal; "
        "convert it first (Hugging Face: dataset.with_format('arrow')[:], plain Python: pyarrow.table(columns))",
    ),
    "group_id is a float": (
        put("group_id", [1.0, 1.0, 2.0]),
        {},
        errors.ColumnTypeError,
        "column 'group_id' is float64, expected string; store the prompt_id as a string",
    ),
    "group_id is a list": (
        put("group_id", [["a"], ["a"], ["b"]]),
        {},
        errors.ColumnTypeError,
        "column 'group_id' is list<string>, expected string; store the prompt_id as a string",
    ),
    "loss_mask is one bool": (
        put("loss_mask", [True, True, True]),
        {},
        errors.ColumnTypeError,
        "column 'loss_mask' is bool, expected list<bool>, and there is no cast that loses nothing; store it "
        "as list<bool>",
    ),
    "loss_mask holds a 2": (
        put("loss_mask", [[1, 2, 0], [1, 1], [1]], pa.list_(pa.int8())),
        {},
        errors.ColumnTypeError,
        "rollout 'q1/0': column 'loss_mask' is list<int8>, expected list<bool>, and 2 would become True; "
        "store it as list<bool>",
    ),
    "loss_mask is a string": (
        put("loss_mask", ["110", "11", "1"]),
        {},
        errors.ColumnTypeError,
        "column 'loss_mask' is string, expected list<bool>, and there is no cast that loses nothing; store it"
        " as list<bool>",
    ),
    "process_scores is a number": (
        put("process_scores", [1.0, 2.0, 3.0], pa.float32()),
        {},
        errors.ColumnTypeError,
        "column 'process_scores' is float32, expected list<float32>, and there is no cast that loses nothing;"
        " store it as list<float32>",
    ),
    "process_scores is beyond float32": (
        put("process_scores", [[0.5, 1e39], [2.0], [-1.0]], pa.list_(pa.float64())),
        {},
        errors.ColumnTypeError,
        "rollout 'q1/0': column 'process_scores' is list<float64>, expected list<float32>, and 1e+39 would "
        "become inf; scale it down",
    ),
    "process_scores is text": (
        put("process_scores", [["a", "b"], ["c"], ["d"]]),
        {},
        errors.ColumnTypeError,
        "column 'process_scores' is list<string>, expected list<float32>, and there is no cast that loses "
        "nothing; store it as list<float32>",
    ),
    "process_scores is a list of lists": (
        put("process_scores", [[[1.0]], [[2.0]], [[3.0]]]),
        {},
        errors.ColumnTypeError,
        "column 'process_scores' is list<list<float64>>, expected list<float32>, and there is no cast that "
        "loses nothing; store it as list<float32>",
    ),
    "process_scores is a view": (
        put("process_scores", [[0.5, 1.0], [2.0], [-1.0]], pa.list_view(pa.float32())),
        {},
        errors.ColumnTypeError,
        "column 'process_scores' is list_view<item: float>, expected list<float32>, and there is no cast that"
        " loses nothing; store it as list<float32>",
    ),
    "process_ends has fractions": (
        put("process_ends", [[1.5, 3.0], [2.0], [1.0]], pa.list_(pa.float32())),
        {},
        errors.ColumnTypeError,
        "column 'process_ends' is list<float32>, expected list<int32>, and some value does not fit; store it "
        "as list<int32>",
    ),
    "process_ends has halves": (
        put("process_ends", pa.array([[1.5, 3.0], [2.0], [1.0]], pa.list_(pa.float32())).cast(pa.list_(pa.float16()))),
        {},
        errors.ColumnTypeError,
        "column 'process_ends' is list<float16>, expected list<int32>, and some value does not fit; store it as "
        "list<int32>",
    ),
    "outcome_reward is beyond float32 beside a null": (
        put("outcome_reward", [None, 1.0, -1e39], pa.float64()),
        {},
        errors.ColumnTypeError,
        "rollout 'q2/0': column 'outcome_reward' is float64, expected float32, and -1e+39 would become "
        "-inf; scale it down",
    ),
    "process_ends is beyond int32": (
        put("process_ends", [[1, 2**40], [2], [1]], pa.list_(pa.int64())),
        {},
        errors.ColumnTypeError,
        "column 'process_ends' is list<int64>, expected list<int32>, and some value does not fit; store it as"
        " list<int32>",
    ),
    "outcome_reward is too large an integer": (
        put("outcome_reward", [2**24 + 1, 0, 1]),
        {},
        errors.ColumnTypeError,
        "column 'outcome_reward' is int64, expected float32, and some value does not fit; store it as float32",
    ),
    "outcome_reward is text": (
        put("outcome_reward", ["1", "0", "1"]),
        {},
        errors.ColumnTypeError,
        "column 'outcome_reward' is string, expected float32, and there is no cast that loses nothing; store "
        "it as float32",
    ),
    "format_ok is a reward": (
        put("format_ok", [0.5, 1.0, 0.0]),
        {},
        errors.ColumnTypeError,
        "rollout 'q1/0': column 'format_ok' is float64, expected bool, and 0.5 would become True; store it as bool",
    ),
    "format_ok is text": (
        put("format_ok", ["yes", "no", "no"]),
        {},
        errors.ColumnTypeError,
        "column 'format_ok' is string, expected bool, and there is no cast that loses nothing; store it as bool",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_malformed_table_is_refused_with_its_message(case):
    refused(*BAD[case])


def test_a_value_that_does_not_fit_is_found_in_a_slice():
    scores = pa.array([[1e39, 1.0], [2.0], [1e39]], pa.list_(pa.float64()))
    table = STEPS.set_column(3, "process_scores", scores)
    with pytest.raises(errors.ColumnTypeError, match=r"^rollout 'q2/0'"):
        shape(table.slice(2), ShapingConfig())
