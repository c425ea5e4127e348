"""Anything with `__arrow_c_stream__` is a table, and float64, which frames and Python lists hold, becomes float32."""

from __future__ import annotations

import math

import numpy as np
import pandas
import polars
import pyarrow as pa
import pytest

from pass_ops import ShapingConfig, Weights, errors, g_opd_scores, opd_scores, shape, token_advantages

COLUMNS = {
    "rollout_id": ["q1/0", "q1/1", "q2/0"],
    "group_id": ["q1", "q1", "q2"],
    "loss_mask": [[True, True, False], [True, True], [True]],
    "process_scores": [[0.1, 1.0], [0.7], [-1.3]],
    "process_ends": [[1, 3], [2], [1]],
    "outcome_reward": [0.1, 0.3, 1.0],
    "format_reward": [1.0, 1.0, 0.0],
    "format_ok": [True, True, False],
}
NARROW = pa.schema(
    [
        ("process_scores", pa.list_(pa.float32())),
        ("process_ends", pa.list_(pa.int32())),
        ("outcome_reward", pa.float32()),
        ("format_reward", pa.float32()),
    ]
)
ONLY = Weights(outcome=0.0, format=0.0)
MADE = ["chunk_ends", "chunk_credits", "chunk_advantages", "path_score", "trainable"]
EXPECTED = shape(
    pa.table({name: pa.array(v, NARROW.field(name).type) if name in NARROW.names else v for name, v in COLUMNS.items()})
)
FRAMES = {
    "pyarrow": pa.table(COLUMNS),
    "pyarrow record batch": pa.record_batch(pa.table(COLUMNS).to_batches()[0]),
    "polars": polars.DataFrame(COLUMNS),
    "polars, categories": polars.DataFrame(COLUMNS).with_columns(polars.col("group_id").cast(polars.Categorical)),
    "polars, in pieces": polars.concat([polars.DataFrame(COLUMNS)[:1], polars.DataFrame(COLUMNS)[1:]], rechunk=False),
    "pandas": pandas.DataFrame(COLUMNS),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_a_frame_is_shaped_as_its_float32_table_is(kind):
    shaped = shape(FRAMES[kind])
    assert type(shaped) is pa.Table
    assert shaped.select(MADE).equals(EXPECTED.select(MADE))
    assert shaped.column_names[: len(COLUMNS)] == list(COLUMNS)


def test_a_reader_is_consumed():
    assert shape(FRAMES["pyarrow"].to_reader()).select(MADE).equals(EXPECTED.select(MADE))


def test_a_hugging_face_dataset_is_shaped_after_the_conversion_that_the_error_names():
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_dict(COLUMNS)
    if not hasattr(dataset, "__arrow_c_stream__"):
        with pytest.raises(errors.ShapingError, match=r"dataset\.with_format\('arrow'\)\[:\]"):
            shape(dataset)
        dataset = dataset.with_format("arrow")[:]
    assert shape(dataset).select(MADE).equals(EXPECTED.select(MADE))


def test_without_a_config_it_is_pass():
    assert shape(FRAMES["pyarrow"]).equals(shape(FRAMES["pyarrow"], ShapingConfig(estimator="pass")))


def test_a_missing_value_of_pandas_is_a_null():
    frame = FRAMES["pandas"].assign(outcome_reward=[0.1, None, 1.0])
    assert shape(frame)["trainable"].to_pylist() == [True, False, True]


@pytest.mark.parametrize("frame", [polars.DataFrame, pandas.DataFrame])
def test_token_advantages_takes_a_shaped_frame(frame):
    shaped = frame(EXPECTED.select(["chunk_ends", "chunk_advantages"]).to_pydict())
    assert token_advantages(shaped).equals(token_advantages(EXPECTED))


@pytest.mark.parametrize("series", [polars.Series, pandas.Series])
def test_log_probabilities_are_taken_from_a_series(series):
    policy, teacher, base = [[-0.1, -2.3], [-0.7]], [[-0.2, -1.1], [-0.4]], [[-0.3, -0.3], [-0.3]]
    given = {"policy": series(policy), "teacher": series(teacher)}
    arrays = {"policy": pa.array(policy, NARROW[0].type), "teacher": pa.array(teacher, NARROW[0].type)}
    assert opd_scores(**given).equals(opd_scores(**arrays))
    expected = g_opd_scores(**arrays, base=pa.array(base, NARROW[0].type))
    assert g_opd_scores(**given, base=series(base)).equals(expected)


def test_rounding_is_numpys():
    values = [float(np.nextafter(np.float32(0.1), 1)), 0.1, 1e-46, 3.4028235e38, -0.0]
    table = pa.table({"group_id": ["a"], "loss_mask": [[True] * 5], "process_scores": [values]})
    found = shape(table, ShapingConfig(signal="kl", estimator="grpo_process", standardize="none", weights=ONLY))
    steps = np.float32(values).astype(np.float64)
    assert found["chunk_credits"].to_pylist()[0][0] == np.float32(steps[::-1].cumsum()[-1])


@pytest.mark.parametrize("value", [1e39, -1e39, 3.5e38])
def test_a_float64_beyond_float32_names_row_and_value(value):
    frame = polars.DataFrame({**COLUMNS, "outcome_reward": [0.0, value, 0.0]})
    message = (
        rf"^rollout 'q1/1': column 'outcome_reward' is float64, .* and {value:.9g}.* would become -?inf; scale it down$"
    )
    with pytest.raises(errors.ColumnTypeError, match=message.replace("+", r"\+")):
        shape(frame)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_float64_that_is_not_finite_is_refused_as_a_float32_is(value):
    for name, given in (("outcome_reward", [0.0, value, 0.0]), ("process_scores", [[0.0, 0.0], [value], [0.0]])):
        messages = []
        for kind in (pa.float64(), pa.float32()):
            column = pa.array(given, pa.list_(kind) if name == "process_scores" else kind)
            table = FRAMES["pyarrow"].set_column(list(COLUMNS).index(name), name, column)
            with pytest.raises(errors.NonFiniteError, match=rf"^rollout 'q1/1': {name} is {value}") as caught:
                shape(table)
            messages.append(str(caught.value))
        assert messages[0] == messages[1]


@pytest.mark.parametrize("given", [[{"group_id": "a"}], {"group_id": ["a"]}, np.zeros(2), "rollouts.parquet", None])
def test_what_speaks_no_arrow_is_refused(given):
    for call in (shape, token_advantages):
        with pytest.raises(errors.ShapingError, match=r"^expected a table .*__arrow_c_stream__"):
            call(given)
    with pytest.raises(errors.ColumnTypeError, match=r"^policy is .*, expected an Arrow list<float32> array"):
        opd_scores(policy=given, teacher=pa.array([[0.0]]))
