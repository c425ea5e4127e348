"""The same bits, however the table is cut, chunked, sliced or worked on."""

from __future__ import annotations

import itertools
import random

import pyarrow as pa
import pytest
from cases import ESTIMATORS, Plan, make_groups, to_table

import pass_ops
from pass_ops import ShapingConfig, blocks, shape, shaping

MADE = ["chunk_ends", "chunk_credits", "chunk_advantages", "path_score", "trainable"]
SIGNALS = ("prm", "kl")


@pytest.fixture(scope="module", params=SIGNALS)
def groups(request):
    plan = Plan(seed=11, signal=request.param, groups=40, most_rollouts=8, most_tokens=60, masked=0.3)
    return request.param, make_groups(plan)


@pytest.fixture(scope="module", params=[*ESTIMATORS, "pass without CV"])
def config(request, groups):
    estimator = request.param.split()[0]
    return ShapingConfig(estimator=estimator, signal=groups[0], chunk=request.param == estimator)


@pytest.fixture(scope="module")
def table(groups):
    return to_table(groups[1])


@pytest.fixture(scope="module")
def whole(table, config):
    return made(table, config)


def made(table, config, **options):
    """The shaped columns as bytes of Arrow: floats are compared bit by bit, the sign of zero too."""
    shaped = shape(table, config, **options).select(MADE).combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, shaped.schema) as stream:
        stream.write_table(shaped, max_chunksize=len(shaped))
    return shaped.to_pydict(), sink.getvalue().to_pybytes()


def bounds(groups):
    return list(itertools.accumulate([len(g) for g in groups[1]], initial=0))


def test_a_rerun(table, config, whole):
    assert made(table, config) == whole


def test_any_number_of_threads_and_any_size_of_their_work(table, config, whole, monkeypatch):
    monkeypatch.setattr(shaping, "LEAST_SPAN_VALUES", 50)
    assert all(made(table, config, threads=threads) == whole for threads in (1, 2, 5))


def test_any_size_of_the_blocks(table, config, whole, monkeypatch):
    for tokens in (1, 100, 1000):
        monkeypatch.setattr(blocks, "BLOCK_VALUES", tokens)
        assert made(table, config) == whole


def test_a_table_cut_into_shards(table, groups, config, whole):
    cuts = [0, *sorted(random.Random(1).sample(bounds(groups)[1:-1], 5)), len(table)]
    shards = [table.slice(a, b - a) for a, b in itertools.pairwise(cuts)]
    shaped = pa.concat_tables([shape(shard, config).select(MADE) for shard in shards])
    assert shaped.to_pydict() == whole[0]
    assert all(made(pa.concat_tables([shard]).combine_chunks(), config) == made(shard, config) for shard in shards)


def test_chunked_columns_that_cut_through_groups(table, config, whole):
    cuts = sorted(random.Random(2).sample(range(1, len(table)), 12))
    pieces = [table.slice(a, b - a).combine_chunks() for a, b in itertools.pairwise([0, *cuts, len(table)])]
    assert made(pa.concat_tables(pieces), config) == whole


def test_columns_chunked_each_in_its_own_way(table, config, whole):
    columns = {}
    for seed, name in enumerate(table.column_names):
        cut = random.Random(seed).randrange(1, len(table))
        columns[name] = pa.chunked_array([*table[name].slice(0, cut).chunks, *table[name].slice(cut).chunks])
    assert made(pa.table(columns), config) == whole


def test_a_slice_of_a_larger_table(table, groups, config, whole):
    first, last = bounds(groups)[5], bounds(groups)[30]
    assert made(table.slice(first, last - first), config)[0] == {
        name: values[first:last] for name, values in whole[0].items()
    }


def test_one_group_by_itself(table, groups, config, whole):
    for first, last in itertools.islice(itertools.pairwise(bounds(groups)), 0, 40, 7):
        alone = made(table.slice(first, last - first), config)[0]
        assert alone == {name: values[first:last] for name, values in whole[0].items()}


def test_token_advantages_of_sliced_and_chunked_tables(table, config):
    shaped = shape(table, config)
    expected = pass_ops.token_advantages(shaped).to_pylist()
    assert pass_ops.token_advantages(shaped.slice(7)).to_pylist() == expected[7:]
    assert pass_ops.token_advantages(pa.concat_tables([shaped.slice(0, 9), shaped.slice(9)])).to_pylist() == expected
