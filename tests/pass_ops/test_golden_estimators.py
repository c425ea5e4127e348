"""The other estimators of the paper, worked by hand: small groups, the arithmetic in the comments.

Most cases look at credits, with weight 1 for one stream only, so that a number stands for one rule.
"""

from __future__ import annotations

from typing import ClassVar

from golden import OUTCOME_ONLY, PROCESS_ONLY, F, T, approx, credits, ends, shaped, steps, tokens

from pass_ops import Weights, token_advantages


class TestRewardShaping:
    """Section 5: raw sums first, then one standardization."""

    def test_one_standardization_over_the_steps_of_the_sums(self):
        # 2 * process + 3 * outcome + format: first 2 + 3 + 1 = 6 and 4 + 3 + 1 = 8, second 4 + 0 + 0 = 4; mean 6
        group = (
            steps([1.0, 2.0], [1, 2], outcome=1.0, format=1.0),
            steps([2.0], [3], outcome=0.0, format=0.0),
        )
        options = {"estimator": "reward_shaping", "standardize": "mean_only", "k": 0.0}
        weights = Weights(process=2.0, outcome=3.0, format=1.0)
        table = shaped(group, weights=weights, **options)
        assert table["chunk_credits"].to_pylist() == [[0.0, 2.0], [-2.0]]
        assert table["chunk_advantages"].to_pylist() == [[2.0, 2.0], [-2.0]]
        assert table["path_score"].to_pylist() == [2.0, -2.0]

    def test_once_per_unmasked_token_under_kl(self):
        # sums 0 + 1, 3 + 1, 2 + 0 (the masked 100 is out): mean 7 / 3
        group = (tokens([0.0, 3.0], outcome=1.0), tokens([100.0, 2.0], mask=[F, T], outcome=0.0))
        options = {"estimator": "reward_shaping", "signal": "kl", "standardize": "mean_only"}
        assert credits(group, weights=Weights(format=0.0), **options) == approx([[1 - 7 / 3, 4 - 7 / 3], [2 - 7 / 3]])

    def test_no_format_gate(self):
        group = (steps([1.0], [1], format=0.0, ok=F), steps([3.0], [1], format=0.0, ok=T))
        options = {"estimator": "reward_shaping", "standardize": "mean_only"}
        assert credits(group, weights=PROCESS_ONLY, **options) == [[-1.0], [1.0]]

    def test_the_trace_is_that_of_pass(self):
        # process over abs_max 4: trace 1/4, 1/2, 1; the outcome 96 would shrink the moves below eta
        group = (tokens([1.0, 2.0, 4.0], outcome=96.0),)
        options = {"estimator": "reward_shaping", "signal": "kl", "standardize": "abs_max", "eta": 0.2}
        table = shaped(group, weights=Weights(format=0.0), **options)
        assert table["chunk_ends"].to_pylist() == [[1, 2, 3]]
        assert table["chunk_credits"].to_pylist() == approx([[0.97, 0.98, 1.0]])


class TestGrpoProcess:
    """Section 5, Eq. 1-3."""

    OPTIONS: ClassVar = {"estimator": "grpo_process", "standardize": "mean_only"}

    def test_one_pool_of_all_streams_and_the_sum_of_what_lies_ahead(self):
        # pool {1, 2, 6} + outcome {3, 0} + format {3, 3}: mean 18 / 7; take it off each
        group = (
            steps([1.0, 2.0], [2, 3], outcome=3.0, format=3.0),
            steps([6.0], [2], outcome=0.0, format=3.0),
        )
        m = 18 / 7
        last = (2 - m) + (3 - m) + (3 - m)
        assert credits(group, **self.OPTIONS) == approx([[(1 - m) + last, last], [(6 - m) + (0 - m) + (3 - m)]])

    def test_weights_multiply_after_standardization(self):
        # pool {1, 5} + outcome {3, 3}: mean 3; first 2 * -2 + 4 * 0, second 2 * 2
        group = (steps([1.0], [1], outcome=3.0), steps([5.0], [1], outcome=3.0))
        weights = Weights(process=2.0, outcome=4.0, format=0.0)
        assert credits(group, weights=weights, **self.OPTIONS) == [[-4.0], [4.0]]

    def test_a_score_lies_at_the_last_token_of_its_step(self):
        # every token of the first step sees both, those of the second one only
        table = shaped((steps([1.0, 2.0], [2, 4]),), estimator="grpo_process", standardize="none", weights=PROCESS_ONLY)
        assert token_advantages(table).to_pylist() == [[3.0, 3.0, 2.0, 2.0]]

    def test_outcome_lies_at_the_last_token_even_if_it_is_masked(self):
        group = (steps([1.0, 9.0], [1, 2], mask=[T, F], outcome=5.0),)
        options = {"estimator": "grpo_process", "standardize": "none", "weights": Weights(format=0.0)}
        assert credits(group, **options) == [[6.0]]  # the wholly masked step adds nothing, 1 + 5
        assert ends(group, **options) == [[2]]

    def test_a_masked_token_adds_nothing_under_kl(self):
        group = (tokens([1.0, 9.0, 2.0], mask=[T, F, T]),)
        options = {"estimator": "grpo_process", "signal": "kl", "standardize": "none", "weights": PROCESS_ONLY}
        assert credits(group, **options) == [[3.0, 2.0]]
        assert ends(group, **options) == [[2, 3]]

    def test_a_chunk_starts_where_the_advantage_differs(self):
        # the step of score 0 adds nothing to what lies ahead: its successor has the same advantage
        group = (steps([1.0, 0.0, 2.0], [1, 2, 3]),)
        options = {"estimator": "grpo_process", "standardize": "none", "weights": PROCESS_ONLY}
        assert ends(group, **options) == [[1, 3]]
        assert credits(group, **options) == [[3.0, 2.0]]

    def test_credits_are_the_advantages_and_there_is_no_path_score(self):
        table = shaped((steps([1.0, 2.0], [2, 3]),), weights=PROCESS_ONLY, **self.OPTIONS)
        assert table["chunk_credits"].equals(table["chunk_advantages"])
        assert table["path_score"].to_pylist() == [None]

    def test_no_format_gate(self):
        group = (steps([1.0], [1], format=0.0, ok=F), steps([3.0], [1], format=0.0, ok=T))
        assert credits(group, weights=PROCESS_ONLY, **self.OPTIONS) == [[-1.0], [1.0]]

    def test_a_process_stream_of_weight_0_is_in_no_pool(self):
        # pool {1, 3} of outcomes only; the steps share one advantage, one chunk
        group = (steps([50.0, 60.0], [1, 2], outcome=1.0), steps([70.0], [1], outcome=3.0))
        assert credits(group, weights=OUTCOME_ONLY, **self.OPTIONS) == [[-1.0], [1.0]]

    def test_fully_masked_rollouts_stay_in_the_pool_with_their_rewards(self):
        # pool {3} + outcomes {0, 6}: mean 3
        group = (steps([3.0], [1], outcome=0.0), steps([9.0], [1], mask=[F], outcome=6.0))
        assert credits(group, weights=Weights(format=0.0), **self.OPTIONS) == [[0.0 - 3.0], [0.0]]


class TestGrpoOutcome:
    """Section 5, GRPO(ORM)."""

    def test_the_sum_is_standardized_over_the_rollouts(self):
        # 2 * outcome + format: 3, 1, 2; mean 2, sample std 1
        group = (
            {"mask": [T, T], "outcome": 1.0, "format": 1.0},
            {"mask": [T], "outcome": 0.0, "format": 1.0},
            {"mask": [T, F, T], "outcome": 1.0, "format": 0.0},
        )
        weights = Weights(process=7.0, outcome=2.0, format=1.0)
        table = shaped(group, estimator="grpo_outcome", weights=weights, std_eps=0.0)
        assert table["chunk_ends"].to_pylist() == [[2], [1], [3]]
        assert table["chunk_advantages"].to_pylist() == [[1.0], [-1.0], [0.0]]
        assert table["chunk_credits"].equals(table["chunk_advantages"])
        assert table["path_score"].to_pylist() == [None, None, None]

    def test_no_format_gate(self):
        group = ({"mask": [T], "outcome": 1.0, "ok": F}, {"mask": [T], "outcome": 3.0, "ok": T})
        options = {"estimator": "grpo_outcome", "weights": OUTCOME_ONLY, "standardize": "mean_only"}
        assert credits(group, **options) == [[-1.0], [1.0]]

    def test_a_single_rollout_gets_0(self):
        assert credits(({"mask": [T], "outcome": 1.0},), estimator="grpo_outcome", weights=OUTCOME_ONLY) == [[0.0]]
