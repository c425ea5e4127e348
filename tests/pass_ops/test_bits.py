"""The same bits, however a table is cut, chunked, sliced, stored or worked on: floats are compared as integers."""

from __future__ import annotations

import itertools
import subprocess
import sys
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from cases import to_config, to_table
from hypothesis import given
from hypothesis import strategies as st
from strategies import ESTIMATORS, SIGNALS, USUAL, examples, groups, options

from pass_ops import blocks, shape, shaping, token_advantages

MADE = ["chunk_ends", "chunk_credits", "chunk_advantages", "path_score", "trainable"]
EACH = examples(60)


@st.composite
def tables(draw):
    """A table, the rows at which its groups start and end, and a configuration."""
    signal = draw(st.sampled_from(SIGNALS))
    chosen, columns = draw(options(draw(st.sampled_from(ESTIMATORS)), signal))
    some = draw(groups(signal, columns=columns, least=1, most=6, sizes=USUAL))
    return to_table(some), list(itertools.accumulate(map(len, some), initial=0)), to_config(chosen)


def bits(shaped):
    """What `shape` made, as integers and bytes."""
    found = {}
    for name in MADE:
        column = shaped[name].combine_chunks()
        if pa.types.is_list(column.type):
            found[name] = pc.list_value_length(column).to_pylist(), column.flatten().to_numpy().tobytes()
        else:
            kind = np.uint8 if name == "trainable" else np.uint32
            values = pc.fill_null(column, False if name == "trainable" else 0.0).to_numpy(zero_copy_only=False)
            found[name] = column.is_valid().to_pylist(), values.view(kind).tobytes()
    return found


def pieces(table, cuts):
    return [table.slice(a, b - a) for a, b in itertools.pairwise([0, *sorted(cuts), len(table)])]


def copied(table):
    """The same rows in memory of their own."""
    return pa.Table.from_pydict({name: table[name].combine_chunks() for name in table.column_names})


@EACH
@given(tables())
def test_a_rerun(case):
    table, _, config = case
    assert bits(shape(table, config)) == bits(shape(table, config))


@EACH
@given(case=tables(), threads=st.integers(1, 5), tokens=st.integers(1, 100), block=st.sampled_from((1, 10, 100)))
def test_any_number_of_threads_and_any_size_of_their_work(case, threads, tokens, block):
    table, _, config = case
    whole = bits(shape(table, config, threads=1))
    with mock.patch.object(shaping, "LEAST_SPAN_VALUES", tokens), mock.patch.object(blocks, "BLOCK_VALUES", block):
        assert bits(shape(table, config, threads=threads)) == whole


@EACH
@given(case=tables(), data=st.data())
def test_any_split_into_shards(case, data):
    table, bounds, config = case
    cuts = data.draw(st.sets(st.sampled_from(bounds)))
    shards = [shape(copied(shard), config) for shard in pieces(table, cuts)]
    assert bits(pa.concat_tables(shards)) == bits(shape(table, config))


@EACH
@given(case=tables(), data=st.data())
def test_columns_chunked_each_in_its_own_way_through_groups(case, data):
    table, _, config = case
    columns = {}
    for name in table.column_names:
        cuts = data.draw(st.sets(st.integers(0, len(table)), max_size=4))
        columns[name] = pa.chunked_array([c for t in pieces(table.select([name]), cuts) for c in t[name].chunks])
    assert bits(shape(pa.table(columns), config)) == bits(shape(table, config))


@EACH
@given(case=tables(), data=st.data())
def test_a_slice_of_a_larger_table(case, data):
    table, bounds, config = case
    first, last = sorted((data.draw(st.sampled_from(bounds)), data.draw(st.sampled_from(bounds))))
    part = table.slice(first, last - first)
    assert bits(shape(part, config)) == bits(shape(table, config).slice(first, last - first))


LOSSLESS = {
    "group_id": [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())],
    "loss_mask": [pa.large_list(pa.bool_()), pa.list_(pa.uint8()), pa.large_list(pa.int64())],
    "process_scores": [pa.large_list(pa.float32()), pa.list_(pa.float64()), "dictionary"],
    "process_ends": [pa.large_list(pa.int32()), pa.list_(pa.int64()), pa.large_list(pa.uint16()), "dictionary"],
    "outcome_reward": [pa.float64(), pa.dictionary(pa.int16(), pa.float32())],
    "format_reward": [pa.float64(), pa.dictionary(pa.int8(), pa.float64())],
    "format_ok": [pa.int8(), pa.float64()],
}


def stored_as(column, kind):
    array = column.combine_chunks()
    if kind == "dictionary":
        encoded = pa.ListArray.from_arrays(array.offsets, array.values.dictionary_encode(), mask=array.is_null())
        return pa.chunked_array([encoded])
    if pa.types.is_dictionary(kind):
        return pa.chunked_array([array.cast(kind.value_type).dictionary_encode()])
    return pa.chunked_array([array.cast(kind)])


@EACH
@given(case=tables(), data=st.data())
def test_other_types_that_lose_nothing(case, data):
    table, _, config = case
    other = table
    for name in set(LOSSLESS) & set(table.column_names):
        kind = data.draw(st.sampled_from([None, *LOSSLESS[name]]), label=name)
        if kind is not None:
            other = other.set_column(table.column_names.index(name), name, stored_as(table[name], kind))
    assert bits(shape(other, config)) == bits(shape(table, config))


@EACH
@given(case=tables(), data=st.data())
def test_token_advantages_of_sliced_and_chunked_tables(case, data):
    table, _, config = case
    shaped = shape(table, config)
    cut = data.draw(st.integers(0, len(table)))
    expected = token_advantages(shaped).to_pylist()
    assert token_advantages(shaped.slice(cut)).to_pylist() == expected[cut:]
    assert token_advantages(pa.concat_tables([shaped.slice(0, cut), shaped.slice(cut)])).to_pylist() == expected


@pytest.mark.parametrize("signal", SIGNALS)
def test_a_rerun_in_another_process(signal, tmp_path):
    rows = [
        {
            "mask": [t % 7 > 0 for t in range(n)],
            "scores": [np.sin(t * n) for t in range(n)],
            "outcome": n % 2,
            "format": 1,
        }
        | ({"ends": list(range(1, n + 1))} if signal == "prm" else {})
        for n in range(40)
    ]
    table = to_table([rows[:20], rows[20:]])
    with pa.ipc.new_file(tmp_path / "in.arrow", table.schema) as file:
        file.write_table(table)
    program = (
        "import sys, pyarrow as pa; from pass_ops import ShapingConfig, shape\n"
        "table = shape(pa.ipc.open_file(sys.argv[1]).read_all(), ShapingConfig(signal=sys.argv[3]), threads=1)\n"
        "with pa.ipc.new_file(sys.argv[2], table.schema) as file: file.write_table(table)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "in.arrow"), str(tmp_path / "out.arrow"), signal]
    subprocess.run(command, check=True, timeout=300)
    there = pa.ipc.open_file(tmp_path / "out.arrow").read_all()
    assert bits(there) == bits(shape(table, shaping.ShapingConfig(signal=signal), threads=3))
