"""Chunks over tokens: whatever the threads, the same values; and no copy where every token is a chunk."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest
import torch
from malformed import F32, I32

from pass_ops import ShapingConfig, Weights, errors, spread_rows, token_advantages
from pass_ops.torch import token_advantages_from_batch


@pytest.fixture(params=[1, 3])
def threads(request, monkeypatch) -> int:
    monkeypatch.setattr(pa, "cpu_count", lambda: request.param)
    monkeypatch.setattr(spread_rows, "LEAST_SPAN_VALUES", 20)
    return request.param


def chunks(seed: int, *, longest: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    ends = [np.cumsum(rng.integers(1, longest + 1, rng.integers(0, 9))).tolist() for _ in range(60)]
    values = [rng.random(len(row)).astype(np.float32).tolist() for row in ends]
    return pa.table({"chunk_ends": pa.array(ends, I32), "chunk_advantages": pa.array(values, F32)})


@pytest.mark.parametrize("longest", [1, 2, 30])
@pytest.mark.parametrize("first", [0, 7])
def test_each_token_has_its_chunks_value_whatever_the_threads(longest, first, threads):
    table = chunks(longest, longest=longest).slice(first)
    expected = [
        [value for (start, end), value in zip(itertools.pairwise([0, *ends]), values, strict=True)
         for _ in range(start, end)]
        for ends, values in zip(*(table[name].to_pylist() for name in table.column_names), strict=True)
    ]  # fmt: skip
    assert token_advantages(table).to_pylist() == expected


@pytest.mark.parametrize("seed", range(20))
def test_runs_of_chunks_of_one_token_end_where_a_longer_one_begins(seed, threads):
    rng = np.random.default_rng(seed)
    lengths = []
    for tokens in rng.choice([1, 2, 3, 4, 31, 32, 33, 64, 100], 12):
        row = np.ones(tokens, np.int64)
        row[rng.integers(0, tokens, rng.integers(0, 4))] = rng.integers(1, 50)
        lengths.append(row)
    values = [rng.random(len(row)).astype(np.float32) for row in lengths]
    expected = [np.repeat(*row) for row in zip(values, lengths, strict=True)]
    ends = pa.array([np.cumsum(row).tolist() for row in lengths], I32)
    found = token_advantages(pa.table({"chunk_ends": ends, "chunk_advantages": pa.array(map(list, values), F32)}))
    assert found.to_pylist() == [row.tolist() for row in expected]

    order_R, longest = rng.permutation(12), max(map(len, expected))
    mask_R_T = rng.random((12, longest)) < rng.choice([0.0, 0.5, 0.9, 1.0])
    padded_B_T = np.full((12, longest), 7, np.float32)
    starts_R1 = np.concatenate([[0], np.cumsum([len(row) for row in lengths])])
    flat = np.asarray(ends.values), np.concatenate(values)
    assert spread_rows.spread_padded(0, 12, starts_R1, *flat, mask_R_T, order_R, padded_B_T)
    for row, mask_T, place in zip(expected, mask_R_T, order_R, strict=True):
        filled_T = np.pad(row, (0, longest - len(row)))
        np.testing.assert_array_equal(padded_B_T[place], np.where(mask_T, filled_T, 0))


@pytest.mark.parametrize("first", [0, 7])
def test_where_every_token_is_a_chunk_the_values_are_not_copied(first, threads):
    table = chunks(0, longest=1).slice(first)
    values = table["chunk_advantages"].chunk(0)
    found = token_advantages(table)
    assert found.equals(values)
    skipped = 4 * int(np.asarray(values.offsets)[0])
    assert found.values.buffers()[1].address == values.values.buffers()[1].address + skipped


@pytest.mark.parametrize("wrong", [[2, 1, 3], [1, 1, 3], [0, 2, 3], [-1, 2, 3], [1, 3, 2], [1, 5, 3], [3, 2, 1]])
def test_ends_that_fall_are_named_whichever_thread_meets_them(wrong, threads):
    right = [[1, 2, 3]] * 40
    for ends in ([*right, wrong], [wrong, [9, 11, 40], *right]):
        table = pa.table(
            {"chunk_ends": pa.array(ends, I32), "chunk_advantages": pa.array([[1.0, 2.0, 3.0]] * len(ends), F32)}
        )
        with pytest.raises(errors.StepEndsError, match=f"^row {ends.index(wrong)}: chunk_ends do not increase"):
            token_advantages(table)


@pytest.mark.parametrize(("place", "end"), [(0, 0), (0, -1), (20, 20), (20, 3), (20, 999), (40, 39)])
def test_ends_that_fall_among_long_runs_are_named(place, end, threads):
    """Runs of chunks of one token are searched for in rows like this one: forty of them, then one of twenty."""
    long = [*range(1, 41), 60]
    wrong = [*long[:place], end, *long[place + 1 :]]
    table = pa.table(
        {"chunk_ends": pa.array([long, wrong, long], I32), "chunk_advantages": pa.array([[1.0] * 41] * 3, F32)}
    )
    with pytest.raises(errors.StepEndsError, match=r"^row 1: chunk_ends do not increase"):
        token_advantages(table)


@pytest.mark.parametrize("longest", [1, 3])
def test_columns_of_several_arrays_are_read_where_they_lie(longest, threads):
    """Both columns need not be cut alike, and no row may be named by its place in its array."""
    whole = chunks(longest, longest=longest)
    ends, values = (whole[name].chunk(0) for name in whole.column_names)
    names = whole.column_names
    cut = pa.table(
        [pa.chunked_array([ends[:7], ends[7:7], ends[7:]]), pa.chunked_array([values[:40], values[40:]])], names
    )
    assert token_advantages(cut).equals(token_advantages(whole))
    assert token_advantages(whole.slice(0, 0)).to_pylist() == token_advantages(cut.slice(0, 0)).to_pylist() == []
    with pytest.raises(errors.ColumnTypeError, match="chunk_ends"):
        token_advantages(pa.table([pa.chunked_array([], pa.string()), pa.chunked_array([], F32)], names))

    short = pa.chunked_array([values[:52], pa.array([[0.5] * 20], F32), values[53:]])
    with pytest.raises(errors.LengthMismatchError, match=r"^row 52: "):
        token_advantages(pa.table([cut[0], short], names))
    null = pa.chunked_array([values[:52], pa.array([[None] * len(ends[52])], F32), values[53:]])
    with pytest.raises(errors.NullValueError, match=r"^row 52: chunk_advantages is or holds a null"):
        token_advantages(pa.table([cut[0], null], names))
    wrong = pa.chunked_array([ends[:52], pa.array([[2, 1]], I32), ends[53:]])
    fitting = pa.chunked_array([values[:52], pa.array([[0.5, 0.5]], F32), values[53:]])
    with pytest.raises(errors.StepEndsError, match=r"^row 52: "):
        token_advantages(pa.table([wrong, fitting], names))


def test_a_padded_batch_is_the_same_whatever_the_threads(threads):
    rng = torch.Generator().manual_seed(0)
    mask = torch.rand(24, 9, generator=rng) < 0.7
    scores = torch.randn(24, 9, generator=rng)
    groups = torch.arange(24) % 6
    config = ShapingConfig(signal="kl", weights=Weights(outcome=0.0, format=0.0), chunk=False)
    found = token_advantages_from_batch(scores, mask=mask, group_index=groups, config=config)
    assert torch.equal(found != 0, mask)
    for group in range(6):
        alone = groups == group
        one = token_advantages_from_batch(scores[alone], mask=mask[alone], group_index=groups[alone], config=config)
        assert torch.equal(found[alone], one)
