"""What holds for the chunks of any rollout, and for spreading them over its tokens."""

from __future__ import annotations

import itertools

import pyarrow as pa
import pytest
from cases import made, to_table
from hypothesis import given
from hypothesis import strategies as st
from strategies import ESTIMATORS, SIGNALS, USUAL, examples, groups

from pass_ops import token_advantages

QUICK = examples(40)


def tables(signal):
    return groups(signal, least=1, sizes=USUAL).map(to_table)


@pytest.mark.parametrize("chunk", [True, False])
@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@QUICK
@given(data=st.data())
def test_chunks_partition_each_completion_and_begin_at_unmasked_tokens(estimator, signal, chunk, data):
    table = data.draw(tables(signal))
    shaped = made(table, estimator=estimator, signal=signal, chunk=chunk).to_pylist()
    for mask, row in zip(table["loss_mask"].to_pylist(), shaped, strict=True):
        ends = row["chunk_ends"]
        assert len(row["chunk_credits"]) == len(row["chunk_advantages"]) == len(ends)
        assert all(a < b for a, b in itertools.pairwise([0, *ends]))
        assert ends[-1:] == [len(mask)][: len(mask)]
        assert all(mask[end] for end in ends[:-1])
        if not row["trainable"]:
            assert len(ends) == min(len(mask), 1)
            assert set(row["chunk_advantages"]) <= {0.0}


@QUICK
@given(table=tables("kl"))
def test_a_prm_of_one_step_a_token_is_pass_without_cv(table):
    ends = pa.array([list(range(1, len(m) + 1)) for m in table["loss_mask"].to_pylist()], pa.list_(pa.int32()))
    by_step = made(table.append_column("process_ends", ends), signal="prm")
    assert made(table, signal="kl", chunk=False).equals(by_step)


@QUICK
@given(table=tables("kl"))
def test_a_huge_eta_leaves_one_chunk_a_rollout(table):
    ends = made(table, signal="kl", eta=1e300)["chunk_ends"].to_pylist()
    assert all(len(e) <= 1 for e in ends)


@QUICK
@given(table=tables("kl"), eta=st.sampled_from((1e-8, 0.1, 1.0)))
def test_a_larger_eta_never_gives_more_chunks_than_without_cv(table, eta):
    chunked, tokens = (
        made(table, signal="kl", **o)["chunk_ends"].to_pylist() for o in ({"eta": eta}, {"chunk": False})
    )
    assert all(set(few) <= set(many) for few, many in zip(chunked, tokens, strict=True))


@QUICK
@given(table=tables("kl"))
def test_spreading_gives_each_token_its_chunks_advantage(table):
    shaped = made(table, signal="kl")
    for row, spread in zip(shaped.to_pylist(), token_advantages(shaped).to_pylist(), strict=True):
        bounds = itertools.pairwise([0, *row["chunk_ends"]])
        expected = [a for (s, e), a in zip(bounds, row["chunk_advantages"], strict=True) for _ in range(s, e)]
        assert spread == expected
