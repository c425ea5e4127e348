"""What `shape` accepts, what it leaves alone, and what a column of another type becomes."""

from __future__ import annotations

import subprocess
import sys

import pyarrow as pa
import pytest
from cases import to_table
from strategies import ESTIMATORS

from pass_ops import ShapingConfig, Weights, shape, token_advantages

MADE = ["chunk_ends", "chunk_credits", "chunk_advantages", "path_score", "trainable"]
TABLE = pa.table(
    {
        "rollout_id": ["a/0", "a/1", "b/0"],
        "group_id": ["a", "a", "b"],
        "text": ["x", "y", "z"],
        "loss_mask": pa.array([[True, True, False], [True], [False, True]], pa.list_(pa.bool_())),
        "process_scores": pa.array([[0.5, 1.0], [2.0], [-1.0]], pa.list_(pa.float32())),
        "process_ends": pa.array([[1, 3], [1], [2]], pa.list_(pa.int32())),
        "outcome_reward": pa.array([1.0, 0.0, 1.0], pa.float32()),
        "format_ok": [True, False, True],
    }
)
EXPECTED = shape(TABLE, ShapingConfig()).select(MADE)


def replaced(name, column):
    return TABLE.set_column(TABLE.schema.get_field_index(name), name, column)


def test_rows_columns_and_metadata_stay_and_the_results_come_last():
    table = TABLE.replace_schema_metadata({"stage": "score"})
    shaped = shape(table, ShapingConfig())
    assert shaped.column_names == [*TABLE.column_names, *MADE]
    assert shaped.schema.metadata == {b"stage": b"score"}
    assert shaped.select(TABLE.column_names).equals(TABLE)


def test_unchanged_columns_are_not_copied():
    shaped = shape(TABLE, ShapingConfig())
    for name in TABLE.column_names:
        before, after = (t[name].chunk(0).buffers() for t in (TABLE, shaped))
        assert [b and b.address for b in before] == [b and b.address for b in after]


def test_given_ends_are_the_chunk_ends_uncopied_where_every_step_is_a_chunk():
    unmasked = replaced("loss_mask", pa.array([[True] * 3, [True], [True] * 2], pa.list_(pa.bool_())))
    given = unmasked["process_ends"].chunk(0).values.buffers()[1]
    made = shape(unmasked, ShapingConfig())["chunk_ends"].chunk(0).values.buffers()[1]
    assert made.address == given.address
    assert shape(unmasked, ShapingConfig())["chunk_ends"].to_pylist() == [[1, 3], [1], [2]]


def test_columns_of_an_earlier_shaping_are_replaced_where_they_stand():
    shaped = shape(TABLE, ShapingConfig(k=0.0)).append_column("round", pa.array([1, 1, 1]))
    again = shape(shaped, ShapingConfig())
    assert again.column_names == shaped.column_names
    assert again.select(MADE).equals(EXPECTED)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("signal", ["prm", "kl"])
def test_a_table_without_rows(estimator, signal):
    shaped = shape(TABLE.slice(0, 0), ShapingConfig(estimator=estimator, signal=signal))
    assert len(shaped) == 0
    assert shaped.column_names == [*TABLE.column_names, *MADE]
    assert token_advantages(shaped).to_pylist() == []


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("signal", ["prm", "kl"])
def test_a_table_of_empty_completions(estimator, signal):
    group = [{"mask": [], "scores": [], "ends": [], "outcome": 1.0, "format": 1.0} for _ in range(3)]
    shaped = shape(to_table([group]), ShapingConfig(estimator=estimator, signal=signal))
    assert shaped["chunk_ends"].to_pylist() == [[], [], []]
    assert shaped["trainable"].to_pylist() == [False, False, False]


def test_many_groups_of_one():
    rows = 3_000
    table = pa.table(
        {
            "group_id": pa.array([str(i) for i in range(rows)]),
            "loss_mask": pa.array([[True, True]] * rows, pa.list_(pa.bool_())),
            "process_scores": pa.array([[1.0, -1.0]] * rows, pa.list_(pa.float32())),
        }
    )
    config = ShapingConfig(signal="kl", weights=Weights(outcome=0.0, format=0.0), std_ddof=0, std_eps=0.0, k=0.0)
    assert set(map(tuple, shape(table, config)["chunk_advantages"].to_pylist())) == {(0.0, -1.0)}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("group_id", pa.large_string()),
        ("group_id", pa.string_view()),
        ("group_id", pa.dictionary(pa.int32(), pa.string())),
        ("loss_mask", pa.large_list(pa.bool_())),
        ("loss_mask", pa.list_(pa.uint8())),
        ("process_scores", pa.large_list(pa.float32())),
        ("process_scores", pa.list_(pa.float64())),
        ("process_scores", pa.list_(pa.float16())),
        ("process_ends", pa.list_(pa.int64())),
        ("process_ends", pa.large_list(pa.uint16())),
        ("outcome_reward", pa.float64()),
        ("outcome_reward", pa.int8()),
        ("outcome_reward", pa.bool_()),
        ("format_ok", pa.int32()),
    ],
)
def test_other_types_are_cast_where_nothing_is_lost(name, kind):
    column = TABLE[name].combine_chunks()
    column = column.dictionary_encode() if pa.types.is_dictionary(kind) else column.cast(kind)
    assert shape(replaced(name, column), ShapingConfig()).select(MADE).equals(EXPECTED)


def test_dictionary_encoded_values_are_decoded():
    scores = TABLE["process_scores"].chunk(0)
    encoded = pa.ListArray.from_arrays(scores.offsets, scores.values.dictionary_encode())
    rewards = TABLE["outcome_reward"].chunk(0).dictionary_encode()
    table = replaced("process_scores", encoded)
    table = table.set_column(table.schema.get_field_index("outcome_reward"), "outcome_reward", rewards)
    assert shape(table, ShapingConfig()).select(MADE).equals(EXPECTED)


def test_fixed_size_lists_are_lists():
    table = pa.table(
        {
            "group_id": ["a", "a"],
            "loss_mask": pa.array([[True, True], [True, False]], pa.list_(pa.bool_(), 2)),
            "process_scores": pa.array([[1.0, 2.0], [3.0, 0.0]], pa.list_(pa.float32(), 2)),
        }
    )
    config = ShapingConfig(signal="kl", weights=Weights(outcome=0.0, format=0.0), standardize="none", k=0.0)
    assert shape(table, config)["chunk_advantages"].to_pylist() == [[3.0, 2.0], [3.0]]


def test_a_float64_nan_at_a_masked_token_survives_the_cast():
    table = pa.table(
        {
            "group_id": ["a"],
            "loss_mask": [[True, False]],
            "process_scores": pa.array([[1.0, float("nan")]], pa.list_(pa.float64())),
        }
    )
    config = ShapingConfig(signal="kl", weights=Weights(outcome=0.0, format=0.0), standardize="none")
    assert shape(table, config)["chunk_credits"].to_pylist() == [[1.0]]


def test_a_null_beside_values_of_another_type_stays_one():
    shaped = [
        shape(replaced("outcome_reward", pa.array([1.0, None, 0.5], kind)), ShapingConfig()).select(MADE)
        for kind in (pa.float32(), pa.float64())
    ]
    assert shaped[0].equals(shaped[1])
    assert shaped[0]["trainable"].to_pylist() == [True, False, True]


def test_an_all_null_column_without_a_type():
    shaped = shape(replaced("outcome_reward", pa.nulls(3)), ShapingConfig())
    assert shaped["trainable"].to_pylist() == [False, False, False]


def test_values_behind_a_null_list_are_not_read():
    scores = pa.array([[float("nan"), None, 7.0], [2.0], [-1.0]], pa.list_(pa.float32()))
    hidden = pa.ListArray.from_arrays(scores.offsets, scores.values, mask=pa.array([True, False, False]))
    shaped = shape(replaced("process_scores", hidden), ShapingConfig())
    plain = pa.array([None, [2.0], [-1.0]], pa.list_(pa.float32()))
    assert shaped.select(MADE).equals(shape(replaced("process_scores", plain), ShapingConfig()).select(MADE))


@pytest.mark.deep
@pytest.mark.parametrize("estimator", ["pass", "grpo_outcome"])
def test_a_million_groups_of_one(estimator):
    rows = 1_000_000
    offsets = pa.array(range(rows + 1), pa.int32())
    table = pa.table(
        {
            "group_id": pa.array(range(rows)).cast(pa.string()),
            "loss_mask": pa.ListArray.from_arrays(offsets, pa.array([True] * rows)),
            "process_scores": pa.ListArray.from_arrays(
                offsets, pa.array([float(r % 7) for r in range(rows)], pa.float32())
            ),
            "outcome_reward": pa.array([1.0] * rows, pa.float32()),
        }
    )
    shaped = shape(table, ShapingConfig(estimator=estimator, signal="kl", weights=Weights(format=0.0)))
    assert shaped["trainable"].to_pylist() == [True] * rows
    assert set(shaped["chunk_advantages"].combine_chunks().values.to_pylist()) == {0.0}


def test_importing_the_package_imports_no_engine():
    heavy = "'numba', 'apache_beam', 'torch', 'vllm', 'transformers', 'polars', 'pydantic', 'pandas'"
    program = f"import sys, pass_ops; print([m for m in ({heavy}) if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
    assert run.stdout.strip() == "[]"


def test_public_names():
    import pass_ops

    assert set(pass_ops.__all__) == {
        "Fused",
        "Group",
        "ShapingConfig",
        "Standardizers",
        "Statistics",
        "Stream",
        "Transform",
        "Weights",
        "g_opd_scores",
        "opd_scores",
        "pool_statistics",
        "shape",
        "token_advantages",
    }
    assert all(getattr(pass_ops, name) for name in pass_ops.__all__)


def test_the_reference_says_of_each_estimator_what_the_table_says():
    from pathlib import Path

    from pass_ops.options.config import ESTIMATORS
    from pass_ops.options.methods import METHODS

    page = (Path(__file__).parents[2] / "docs/reference/estimators.md").read_text(encoding="utf-8")
    assert set(METHODS) == set(ESTIMATORS)
    for name, method in METHODS.items():
        assert f"| `{name}` | {method.summary} |" in page
