"""Divide-Length and what the paper proves about it: Eq. 7, Eq. 8 and Theorem 1, as properties of path scores."""

from __future__ import annotations

import numpy as np
import pytest
from cases import credits_table, made, to_table
from hypothesis import given
from hypothesis import strategies as st
from strategies import SIGNALS, USUAL, WITH_CHUNKS, examples, groups

from pass_ops import Weights

QUICK = examples(40)
PROCESS_ONLY = Weights(outcome=0.0, format=0.0)


def paths(k, *rollouts):
    """Path scores of rollouts with these chunk credits."""
    table = made(credits_table(*rollouts), k=k, standardize="none", weights=PROCESS_ONLY)
    return table["path_score"].to_pylist()


def tables(signal):
    return groups(signal, sizes=USUAL).map(to_table)


def close(credits):
    """How far float32 credits are from the float64 ones they are stored from, added up."""
    return 1e-6 * np.abs(credits).sum() + 1e-42


@pytest.mark.parametrize("estimator", WITH_CHUNKS)
@pytest.mark.parametrize("signal", SIGNALS)
class TestDivideLength:
    @QUICK
    @given(data=st.data())
    def test_k_0_is_the_return_to_go_of_the_credits(self, estimator, signal, data):
        for row in made(data.draw(tables(signal)), estimator=estimator, signal=signal, k=0.0).to_pylist():
            credits = np.array(row["chunk_credits"])
            togo = credits[::-1].cumsum()[::-1]
            assert row["chunk_advantages"] == pytest.approx(togo, rel=1e-6, abs=close(credits))

    @QUICK
    @given(data=st.data())
    def test_k_1_is_the_running_average_of_the_credits(self, estimator, signal, data):
        for row in made(data.draw(tables(signal)), estimator=estimator, signal=signal, k=1.0).to_pylist():
            credits = np.array(row["chunk_credits"])
            average = credits[::-1].cumsum()[::-1] / np.arange(len(credits), 0, -1)
            assert row["chunk_advantages"] == pytest.approx(average, rel=1e-6, abs=close(credits))

    @QUICK
    @given(data=st.data(), k=st.floats(0, 1))
    def test_the_last_chunk_keeps_its_credit_and_the_first_has_the_path_score(self, estimator, signal, data, k):
        for row in made(data.draw(tables(signal)), estimator=estimator, signal=signal, k=k).to_pylist():
            if row["trainable"]:
                assert row["chunk_advantages"][-1] == row["chunk_credits"][-1]
                assert row["chunk_advantages"][0] == row["path_score"]


class TestTheorem1:
    CREDITS = st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=12)

    @QUICK
    @given(credits=CREDITS, extra=st.lists(st.floats(0.125, 4, width=32), min_size=1, max_size=300))
    def test_with_k_0_more_chunks_of_positive_worth_pay_for_ever(self, credits, extra):
        before, after = paths(0.0, credits, credits + extra)
        assert after >= before + len(extra) * min(extra) - 1e-4

    @QUICK
    @given(k=st.floats(0.125, 1.0), average=st.floats(1, 4), share=st.floats(0.05, 0.8))
    def test_with_k_above_0_it_stops_paying_when_the_average_is_above_worth_over_k(self, k, average, share):
        count = 64
        worth = np.float32(share * k * average)
        before, after = paths(k, [average] * count, [average] * count + [worth] * 8)
        assert after < before

    @QUICK
    @given(k=st.floats(0.125, 1.0), average=st.floats(1, 4), more=st.floats(1.25, 4))
    def test_with_k_above_0_it_pays_while_the_average_is_below(self, k, average, more):
        count = 64
        worth = np.float32(more * k * average)
        before, after = paths(k, [average] * count, [average] * count + [worth])
        assert after > before

    @QUICK
    @given(k=st.floats(0.25, 0.875), worth=st.floats(0.125, 4, width=32))
    def test_chunks_of_equal_worth_pay_only_as_their_number_to_the_power_of_1_less_k(self, k, worth):
        short, long = paths(k, [worth] * 10, [worth] * 160)
        assert long == pytest.approx(short * 16 ** (1 - k), rel=1e-5)


@QUICK
@given(k=st.floats(0, 1), average=st.floats(-2, 2, width=32), worth=st.floats(-4, 4, width=32))
def test_eq_8_the_marginal_value_of_a_chunk(k, average, worth):
    # S(K + 1) - S(K) = (d - k * sum / K) / K^k up to terms of order 1 / K
    count = 2000
    before, after = paths(k, [average] * count, [average] * count + [worth])
    marginal = (worth - k * average) / count**k
    underflow = 1e-30  # what a stored float32 cannot tell from 0
    error = (abs(worth) + abs(average)) * 2 / count ** (1 + k) + 1e-6 * abs(before) + underflow
    assert after - before == pytest.approx(marginal, abs=error)
