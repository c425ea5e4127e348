"""Tables as other libraries write them: columns that are all null, keys in dictionaries, several chunks, slices."""

from __future__ import annotations

import pyarrow as pa
import pytest
from malformed import STEPS, put

from pass_ops import ShapingConfig, Stream, shape

STATE = Stream(signal="outcome", pool="state", key="state", operator="mean_only")
#: q1's two rollouts are in one state: 1 and 0 around their mean
TOGETHER = [[0.5], [-0.5], [0.0]]


def advantages(table: pa.Table, **streams: Stream) -> list:
    return shape(table, ShapingConfig(streams=streams, k=0.0))["chunk_advantages"].to_pylist()


@pytest.mark.parametrize(
    "state",
    [
        pa.array(["x", "x", "x"]),
        pa.DictionaryArray.from_arrays(pa.array([0, 1, 0]), pa.array(["x", "x"])),
        pa.chunked_array(
            [
                pa.DictionaryArray.from_arrays(pa.array([1]), pa.array(["y", "x"])),
                pa.DictionaryArray.from_arrays(pa.array([0, 0]), pa.array(["x"])),
            ]
        ),
        pa.array([7, 7, 7], pa.uint8()),
    ],
    ids=["text", "a value twice in the dictionary", "a dictionary for each chunk", "integers"],
)
def test_equal_keys_are_one_state_however_they_are_stored(state) -> None:
    assert advantages(STEPS.append_column("state", state), a=STATE) == TOGETHER


@pytest.mark.parametrize(
    "state",
    [pa.array(["x", None, "x"]), pa.DictionaryArray.from_arrays(pa.array([0, 1, 0]), pa.array(["x", None]))],
    ids=["a null", "a null in the dictionary"],
)
def test_a_rollout_without_a_key_is_in_no_pool(state) -> None:
    shaped = shape(STEPS.append_column("state", state), ShapingConfig(streams={"a": STATE}))
    assert shaped["trainable"].to_pylist() == [True, False, True]


@pytest.mark.parametrize("signal", ["outcome", "process"])
def test_keys_that_are_all_null_make_no_rollout_trainable(signal) -> None:
    """pyarrow and pandas give such a column the type null, which says nothing of its level."""
    stream = Stream(signal=signal, pool="state", key="state")
    shaped = shape(STEPS.append_column("state", pa.nulls(3)), ShapingConfig(streams={"a": stream}))
    assert shaped["trainable"].to_pylist() == [False] * 3


def test_step_scores_that_are_all_null_are_those_of_steps() -> None:
    stream = Stream(signal="process", transform=("return_to_go",))
    shaped = shape(put("process_scores", pa.nulls(3)), ShapingConfig(streams={"a": stream}, chunk_by=("a",)))
    assert shaped["trainable"].to_pylist() == [False] * 3
    assert shaped["chunk_advantages"].to_pylist() == [[0.0]] * 3


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.large_list(pa.float64())], ids=str
)
def test_slices_of_chunks_of_wider_columns_give_the_same(kind) -> None:
    streams = {"a": Stream(signal="process"), "b": Stream(signal="outcome")}
    wide = put("process_scores", STEPS["process_scores"].cast(kind))
    pieces = pa.concat_tables([STEPS.slice(2), STEPS.slice(0, 1), STEPS.slice(1)])
    wide_pieces = pa.concat_tables([wide.slice(2), wide.slice(0, 1), wide.slice(1)])
    assert wide_pieces["process_scores"].num_chunks == 3
    assert advantages(wide_pieces.slice(1), **streams) == advantages(STEPS, **streams)
    assert advantages(pieces.slice(1), **streams) == advantages(STEPS, **streams)
