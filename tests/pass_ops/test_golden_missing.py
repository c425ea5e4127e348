"""What is missing, worked by hand: small groups, the arithmetic in the comments.

Most cases look at credits, with weight 1 for one stream only, so that a number stands for one rule.
"""

from __future__ import annotations

import math

import pytest
from golden import OUTCOME_ONLY, PROCESS_ONLY, F, T, credits, ends, shaped, steps, tokens

from pass_ops import Weights


class TestMissing:
    """Section 0a."""

    def test_a_null_makes_a_row_untrainable_with_one_chunk_of_nothing(self):
        group = (steps([1.0, 2.0], [1, 3], outcome=None), steps([3.0], [2], outcome=1.0))
        first = shaped(group, weights=Weights(format=0.0)).to_pylist()[0]
        assert first["trainable"] is False
        assert (first["chunk_ends"], first["chunk_credits"], first["chunk_advantages"]) == ([3], [0.0], [0.0])
        assert first["path_score"] is None

    def test_a_null_leaves_every_pool(self):
        # the second row's process scores 100 and outcome 100 would move both means
        group = (
            steps([1.0], [1], outcome=1.0, format=1.0),
            steps([100.0], [1], outcome=100.0, format=None),
            steps([3.0], [1], outcome=5.0, format=1.0),
        )
        assert credits(group, standardize="mean_only") == [[-1.0 - 2.0], [0.0], [1.0 + 2.0]]

    def test_a_null_leaves_g(self):
        # G = 1: the trace moves by 0.6 > 0.5; with the null row in G it would move by 0.3
        group = (tokens([0.0, 0.6]), tokens(None, mask=[T, T]))
        options = {"signal": "kl", "weights": PROCESS_ONLY, "standardize": "none", "eta": 0.5}
        assert ends(group, **options) == [[1, 2], [2]]

    def test_a_fully_masked_rollout_stays_in_g_and_in_the_reward_pools(self):
        # outcome {1, 3, 5} has mean 3; the middle row is masked
        group = (
            steps([0.0], [1], outcome=1.0),
            steps([7.0], [1], outcome=3.0, mask=[F]),
            steps([0.0], [1], outcome=5.0),
        )
        table = shaped(group, weights=Weights(format=0.0), standardize="mean_only")
        assert table["chunk_credits"].to_pylist() == [[-2.0], [0.0], [2.0]]
        assert table["trainable"].to_pylist() == [True, False, True]
        # G = 2 with the masked rollout: a move of 0.6 / 2 does not reach eta
        group = (tokens([0.0, 0.6]), tokens([9.0], mask=[F]))
        options = {"signal": "kl", "weights": PROCESS_ONLY, "standardize": "none", "eta": 0.5}
        assert ends(group, **options) == [[2], [1]]

    def test_an_empty_rollout_stays_in_the_reward_pools_and_has_no_chunk(self):
        group = (steps([0.0], [1], outcome=1.0), {"mask": [], "scores": [], "ends": [], "outcome": 3.0})
        table = shaped(group, weights=Weights(format=0.0), standardize="mean_only")
        assert table["chunk_credits"].to_pylist() == [[-1.0], []]
        assert table["trainable"].to_pylist() == [True, False]

    def test_an_empty_rollout_with_a_null_is_in_no_pool(self):
        group = (
            steps([0.0], [1], outcome=1.0),
            {"mask": [], "scores": None, "ends": None, "outcome": 3.0},
        )
        assert credits(group, weights=Weights(format=0.0), standardize="mean_only") == [[0.0], []]

    def test_a_null_in_a_stream_of_weight_0_does_not_count(self):
        group = (steps([1.0], [1], outcome=None), steps([3.0], [1], outcome=1.0))
        table = shaped(group, weights=PROCESS_ONLY, standardize="mean_only")
        assert table["chunk_credits"].to_pylist() == [[-1.0], [1.0]]
        assert table["trainable"].to_pylist() == [True, True]

    @pytest.mark.parametrize("estimator", ["pass", "reward_shaping", "grpo_process"])
    def test_a_null_process_signal_counts_even_at_weight_0(self, estimator):
        group = ({"mask": [T], "scores": None, "ends": None, "outcome": 1.0}, steps([3.0], [1], outcome=3.0))
        assert shaped(group, weights=OUTCOME_ONLY, estimator=estimator)["trainable"].to_pylist() == [False, True]

    def test_null_ends_make_the_process_signal_null(self):
        group = ({"mask": [T], "scores": [1.0], "ends": None}, steps([3.0], [1]))
        assert shaped(group, weights=PROCESS_ONLY)["trainable"].to_pylist() == [False, True]

    def test_grpo_outcome_reads_no_process_column(self):
        group = ({"mask": [T], "outcome": 1.0}, {"mask": [T], "outcome": 3.0})
        table = shaped(group, weights=OUTCOME_ONLY, estimator="grpo_outcome", standardize="mean_only")
        assert table["chunk_credits"].to_pylist() == [[-1.0], [1.0]]

    def test_a_null_indicator_makes_a_row_untrainable_under_pass_whatever_the_weight(self):
        group = (steps([1.0], [1], format=1.0, ok=None), steps([3.0], [1], format=1.0, ok=T))
        assert shaped(group, weights=PROCESS_ONLY)["trainable"].to_pylist() == [False, True]
        assert shaped(group, weights=PROCESS_ONLY, estimator="reward_shaping")["trainable"].to_pylist() == [True, True]

    def test_a_null_format_reward_counts_where_the_gate_applies(self):
        group = (steps([1.0], [1], format=None, ok=T), steps([3.0], [1], format=1.0, ok=T))
        assert shaped(group, weights=PROCESS_ONLY)["trainable"].to_pylist() == [False, True]

    def test_the_indicator_is_not_read_where_the_format_reward_is_and_nothing_is_gated(self):
        group = (steps([0.0], [1], format=1.0, ok=None), steps([0.0], [1], format=3.0, ok=F))
        weights = Weights(process=0.0, outcome=0.0, format=1.0)
        options = {"estimator": "grpo_outcome", "weights": weights, "standardize": "none"}
        assert credits(group, **options) == [[1.0], [3.0]]

    def test_a_whole_group_of_nulls_is_untrainable(self):
        group = (steps([1.0], [1], outcome=None), steps([2.0], [1], outcome=None))
        assert shaped(group, weights=Weights(format=0.0))["trainable"].to_pylist() == [False, False]

    @pytest.mark.parametrize("estimator", ["pass", "reward_shaping", "grpo_process", "grpo_outcome"])
    def test_what_is_masked_is_never_read(self, estimator):
        nan, inf = math.nan, math.inf
        group = (
            tokens([nan, 1.0, inf], mask=[F, T, F], outcome=1.0),
            tokens([nan, nan], mask=[F, F], outcome=0.0),
            tokens([3.0], outcome=0.0),
        )
        clean = (
            tokens([0.0, 1.0, 0.0], mask=[F, T, F], outcome=1.0),
            tokens([0.0, 0.0], mask=[F, F], outcome=0.0),
            tokens([3.0], outcome=0.0),
        )
        options = {"signal": "kl", "estimator": estimator, "weights": Weights(format=0.0)}
        made = ["chunk_ends", "chunk_credits", "chunk_advantages", "path_score", "trainable"]
        assert shaped(group, **options).select(made).equals(shaped(clean, **options).select(made))
