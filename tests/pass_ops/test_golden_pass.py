"""Standardization, fusion, chunks and length division, worked by hand: small groups, the arithmetic in the comments.

Most cases look at credits, with weight 1 for one stream only, so that a number stands for one rule.
"""

from __future__ import annotations

import math
from typing import ClassVar

import pyarrow as pa
import pytest
from cases import to_table
from golden import PROCESS_ONLY, F, T, approx, credits, ends, shaped, steps, tokens

from pass_ops import ShapingConfig, Standardizers, Weights, shape, token_advantages


class TestStandardization:
    """Section 1. The pool is {3, 1, 1, -1}, the scores of two rollouts with two steps each."""

    GROUP = (steps([3.0, 1.0], [1, 2]), steps([1.0, -1.0], [1, 2]))

    def test_masked_norm_divides_by_the_sample_deviation(self):
        # mean 1, squares 4 + 0 + 0 + 4 = 8, std = sqrt(8 / 3), (3 - 1) / sqrt(8 / 3) = sqrt(3 / 2)
        z = math.sqrt(1.5)
        assert credits(self.GROUP, weights=PROCESS_ONLY, std_eps=0.0) == approx([[z, 0.0], [0.0, -z]])

    def test_ddof_0_divides_by_the_population_deviation(self):
        # std = sqrt(8 / 4) = sqrt(2), 2 / sqrt(2) = sqrt(2)
        z = math.sqrt(2.0)
        assert credits(self.GROUP, weights=PROCESS_ONLY, std_eps=0.0, std_ddof=0) == approx([[z, 0.0], [0.0, -z]])

    def test_eps_is_added_to_the_deviation(self):
        # pool {1, -1}, ddof 0: std = 1, 1 / (1 + 1) = 1/2
        group = (steps([1.0, -1.0], [1, 2]),)
        assert credits(group, weights=PROCESS_ONLY, std_eps=1.0, std_ddof=0) == [[0.5, -0.5]]

    def test_the_default_eps_is_one_millionth(self):
        # pool {1e-6, -1e-6}, ddof 1: std = sqrt(2e-12), 1e-6 / (sqrt(2) * 1e-6 + 1e-6) = 1 / (sqrt(2) + 1)
        z = 1 / (math.sqrt(2) + 1)
        assert credits((steps([1e-6, -1e-6], [1, 2]),), weights=PROCESS_ONLY) == approx([[z, -z]])

    def test_abs_max_keeps_sign_and_zero(self):
        group = (steps([2.0, 0.0, -4.0], [1, 2, 3]),)
        assert credits(group, weights=PROCESS_ONLY, standardize="abs_max") == [[0.5, 0.0, -1.0]]

    def test_mean_only_subtracts_the_mean(self):
        assert credits(self.GROUP, weights=PROCESS_ONLY, standardize="mean_only") == [[2.0, 0.0], [0.0, -2.0]]

    def test_none_takes_scores_as_they_are(self):
        assert credits(self.GROUP, weights=PROCESS_ONLY, standardize="none") == [[3.0, 1.0], [1.0, -1.0]]

    def test_a_pool_of_one_value_is_0_under_masked_norm(self):
        assert credits((steps([5.0], [3]),), weights=PROCESS_ONLY) == [[0.0]]

    def test_a_pool_of_equal_values_is_0_under_masked_norm_even_without_eps(self):
        group = (steps([0.1, 0.1], [1, 2]), steps([0.1], [1]))
        assert credits(group, weights=PROCESS_ONLY, std_eps=0.0) == [[0.0, 0.0], [0.0]]

    def test_a_pool_of_zeros_is_0_under_abs_max(self):
        assert credits((steps([0.0, 0.0], [1, 2]),), weights=PROCESS_ONLY, standardize="abs_max") == [[0.0, 0.0]]

    def test_a_step_counts_once_however_long_it_is(self):
        # pool {4, 0}, mean 2; once per token it would be {4, 4, 4, 0} with mean 3
        assert credits((steps([4.0, 0.0], [3, 4]),), weights=PROCESS_ONLY, standardize="mean_only") == [[2.0, -2.0]]

    def test_a_token_counts_once_under_kl(self):
        # pool {4, 4, 4, 0}, mean 3
        group = (tokens([4.0, 4.0, 4.0, 0.0]),)
        options = {"signal": "kl", "weights": PROCESS_ONLY, "standardize": "mean_only"}
        assert credits(group, **options) == [[1.0, -3.0]]

    def test_a_step_without_unmasked_token_is_left_out_of_the_pool(self):
        # pool {1, 3}: the step of score 100 is masked
        group = (steps([1.0, 100.0, 3.0], [1, 3, 4], mask=[T, F, F, T]),)
        assert credits(group, weights=PROCESS_ONLY, standardize="mean_only") == [[-1.0, 1.0]]

    def test_groups_are_standardized_apart(self):
        groups = (steps([1.0, 3.0], [1, 2]),), (steps([10.0, 30.0], [1, 2]),)
        assert credits(*groups, weights=PROCESS_ONLY, standardize="mean_only") == [[-1.0, 1.0], [-10.0, 10.0]]

    def test_one_operator_for_each_stream(self):
        # process raw: 2, 4; outcome {1, 3} less its mean: -1, 1; format {1, 2} over its largest: 0.5, 1
        group = (
            steps([2.0], [1], outcome=1.0, format=1.0),
            steps([4.0], [1], outcome=3.0, format=2.0),
        )
        each = Standardizers(process="none", outcome="mean_only", format="abs_max")
        assert credits(group, standardize=each) == [[2.0 - 1.0 + 0.5], [4.0 + 1.0 + 1.0]]


class TestAdvantageFusion:
    """Section 2."""

    def test_three_streams_are_standardized_apart_and_added(self):
        # process {3, 1, 1, -1}: sqrt(3/2), 0, 0, -sqrt(3/2); outcome {1, 0}: mean 1/2, std sqrt(1/2), so +-sqrt(1/2);
        # format {0, 1} without an indicator: nothing is gated, -+sqrt(1/2)
        group = (
            steps([3.0, 1.0], [1, 2], outcome=1.0, format=0.0),
            steps([1.0, -1.0], [1, 2], outcome=0.0, format=1.0),
        )
        p, r = math.sqrt(1.5), math.sqrt(0.5)
        assert credits(group, std_eps=0.0) == approx([[p + r - r, r - r], [-r + r, -p - r + r]])

    def test_weights_multiply_after_standardization(self):
        # 2 * process + 3 * outcome + 5 * format, centred: process {1, -1}, outcome {1, -1}, format {1, -1}
        group = (
            steps([1.0], [1], outcome=2.0, format=4.0),
            steps([-1.0], [1], outcome=0.0, format=2.0),
        )
        weights = Weights(process=2.0, outcome=3.0, format=5.0)
        assert credits(group, standardize="mean_only", weights=weights) == [[10.0], [-10.0]]

    def test_failed_format_leaves_the_format_stream_times_all_weights(self):
        # format {1, 0} centred: 1/2, -1/2; W = 2 + 3 + 5 = 10; the failed rollout gets 10 * -1/2 on each of its steps.
        # the other: 2 * (1 - 0) + 3 * (0 - 1/2) + 5 * 1/2 = 3 with process {1, -2, 1} of mean 0
        group = (
            steps([1.0], [1], outcome=0.0, format=1.0, ok=T),
            steps([-2.0, 1.0], [1, 2], outcome=1.0, format=0.0, ok=F),
        )
        weights = Weights(process=2.0, outcome=3.0, format=5.0)
        assert credits(group, standardize="mean_only", weights=weights) == [[3.0], [-5.0, -5.0]]

    def test_the_gate_works_whatever_the_weight_of_the_format_stream(self):
        # W = 1 + 0 + 0; format centred: 1/2, -1/2; process {2, 4} centred: -1, 1
        group = (steps([2.0], [1], format=1.0, ok=T), steps([4.0], [1], format=0.0, ok=F))
        assert credits(group, standardize="mean_only", weights=PROCESS_ONLY) == [[-1.0], [-0.5]]

    def test_without_format_reward_the_indicator_stands_in(self):
        # indicator {1, 0} centred: 1/2, -1/2; w_fmt = 1, W = 2; process {2, 4} centred: -1, 1
        group = (steps([2.0], [1], ok=T), steps([4.0], [1], ok=F))
        weights = Weights(process=1.0, outcome=0.0, format=1.0)
        assert credits(group, standardize="mean_only", weights=weights) == [[-1.0 + 0.5], [2 * -0.5]]

    def test_abs_max_turns_a_zero_format_reward_into_no_gate(self):
        group = (steps([2.0], [1], format=1.0, ok=T), steps([4.0], [1], format=0.0, ok=F))
        assert credits(group, standardize="abs_max", weights=PROCESS_ONLY) == [[0.5], [0.0]]


class TestChunkByStep:
    """Section 3 under `prm`."""

    def test_steps_split_even_between_equal_scores(self):
        assert ends((steps([1.0, 1.0, 2.0], [2, 3, 6]),), weights=PROCESS_ONLY) == [[2, 3, 6]]

    def test_a_boundary_falls_right_before_an_unmasked_token(self):
        # the second step is tokens 2..4, of which 2 and 3 are masked: they stay with the first chunk
        group = (steps([1.0, 2.0], [2, 5], mask=[T, T, F, F, T]),)
        assert ends(group, weights=PROCESS_ONLY) == [[4, 5]]

    def test_masked_tokens_at_the_start_join_the_first_chunk_and_at_the_end_the_last(self):
        group = (steps([9.0, 1.0, 2.0, 9.0], [2, 3, 4, 6], mask=[F, F, T, T, F, F]),)
        assert ends(group, weights=PROCESS_ONLY) == [[3, 6]]

    def test_a_wholly_masked_step_between_two_joins_the_one_before(self):
        group = (steps([1.0, 9.0, 3.0], [1, 3, 4], mask=[T, F, F, T]),)
        assert ends(group, weights=PROCESS_ONLY) == [[3, 4]]
        assert credits(group, weights=PROCESS_ONLY, standardize="none") == [[1.0, 3.0]]

    def test_without_cv_every_unmasked_token_is_a_chunk(self):
        # tokens 1, 3, 4 count; the leading masked token joins the first chunk, token 2 the one before it
        group = (steps([1.0, 2.0], [2, 5], mask=[F, T, F, T, T]),)
        options = {"weights": PROCESS_ONLY, "standardize": "none", "chunk": False}
        assert ends(group, **options) == [[3, 4, 5]]
        assert credits(group, **options) == [[1.0, 2.0, 2.0]]


class TestChunkByTrace:
    """Section 3 under `kl`; the operator is `none`, so that the trace is the mean of the scores."""

    OPTIONS: ClassVar = {"signal": "kl", "weights": PROCESS_ONLY, "standardize": "none"}

    def test_the_trace_is_the_mean_over_the_group(self):
        # sums 0, 0, 4, 4: a cut before token 2 in both, though the first rollout moves at token 1 and the second too
        group = (tokens([1.0, 2.0, 3.0, 3.0]), tokens([-1.0, -2.0, 1.0, 1.0]))
        assert ends(group, **self.OPTIONS) == [[2, 4], [2, 4]]

    def test_the_credit_is_the_advantage_at_the_last_token_of_the_chunk(self):
        group = (tokens([1.0, 2.0, 3.0, 3.0]), tokens([-1.0, -2.0, 1.0, 1.0]))
        assert credits(group, **self.OPTIONS) == [[2.0, 3.0], [-2.0, 1.0]]

    def test_the_comparison_is_with_the_first_value_of_the_chunk(self):
        # 0, 0.3, 0.6 with eta 0.5: neighbours differ by 0.3, but 0.6 - 0 > 0.5
        assert ends((tokens([0.0, 0.25, 0.75]),), **self.OPTIONS, eta=0.5) == [[2, 3]]

    def test_a_move_of_exactly_eta_does_not_cut(self):
        assert ends((tokens([0.0, 0.5, 0.0]),), **self.OPTIONS, eta=0.5) == [[3]]
        assert ends((tokens([0.0, 9.0, 0.5], mask=[T, F, T]),), **self.OPTIONS, eta=0.5) == [[3]]

    def test_eta_is_held_to_the_mean_of_the_tables_own_group(self):
        # sums 0, 1 over two rollouts: a move of 1/2 cuts at eta 0.4, in whichever group of the table
        group = [tokens([0.0, 1.0]), tokens([0.0, 0.0])]
        config = ShapingConfig(**self.OPTIONS, eta=0.4)
        assert shape(to_table([group] * 3), config)["chunk_ends"].to_pylist() == [[1, 2]] * 6

    def test_the_default_eta(self):
        # steps of 1.5e-8 cut at 1e-8, steps of 0.5e-8 do not
        assert ends((tokens([0.0, 1.5e-8]),), **self.OPTIONS) == [[1, 2]]
        assert ends((tokens([0.0, 0.5e-8]),), **self.OPTIONS) == [[2]]

    def test_a_shorter_rollout_adds_0_and_the_divisor_stays(self):
        # trace: (1 + 1)/2, (1 + 1)/2, 1/2: a cut before token 2 although the long rollout's score is constant
        group = (tokens([1.0, 1.0, 1.0]), tokens([1.0, 1.0]))
        assert ends(group, **self.OPTIONS) == [[2, 3], [2]]
        # a move of 1 - 1/2 does not reach eta 0.6
        assert ends(group, **self.OPTIONS, eta=0.6) == [[3], [2]]

    def test_a_masked_token_adds_0_to_the_trace_and_is_not_compared(self):
        # trace: 1, 1/2, 1. In the first rollout token 1 is masked: its tokens 0 and 2 are equal, no cut.
        group = (tokens([1.0, 9.0, 1.0], mask=[T, F, T]), tokens([1.0, 1.0, 1.0]))
        assert ends(group, **self.OPTIONS) == [[3], [1, 2, 3]]

    def test_masked_tokens_stay_with_the_chunk_before(self):
        # tokens 1 and 4 count beside 0: values 0, 5, 7; the boundary falls right before an unmasked token
        group = (tokens([0.0, 5.0, 9.0, 9.0, 7.0, 9.0], mask=[T, T, F, F, T, F]),)
        assert ends(group, **self.OPTIONS) == [[1, 4, 6]]
        assert credits(group, **self.OPTIONS) == [[0.0, 5.0, 7.0]]

    def test_the_credit_is_taken_at_the_last_unmasked_token(self):
        group = (tokens([9.0, 2.0, 2.0, 9.0], mask=[F, T, T, F]),)
        assert ends(group, **self.OPTIONS) == [[4]]
        assert credits(group, **self.OPTIONS) == [[2.0]]

    def test_the_trace_is_standardized(self):
        # pool {0, 2, 4, 2}: mean 2, trace (0 + 4)/2 - 2 = 0 and (2 + 2)/2 - 2 = 0: one chunk
        group = (tokens([0.0, 2.0]), tokens([4.0, 2.0]))
        assert ends(group, signal="kl", weights=PROCESS_ONLY, standardize="masked_norm") == [[2], [2]]

    def test_eta_is_in_units_of_the_standardized_trace(self):
        # 0, 50, 100 over 100: 0, 0.5, 1
        group = (tokens([0.0, 50.0, 100.0]),)
        assert ends(group, signal="kl", weights=PROCESS_ONLY, standardize="abs_max", eta=0.75) == [[2, 3]]

    def test_without_cv_every_unmasked_token_is_a_chunk(self):
        group = (tokens([9.0, 1.0, 9.0, 1.0], mask=[F, T, F, T]),)
        assert ends(group, **self.OPTIONS, chunk=False) == [[3, 4]]


class TestDivideLength:
    """Section 4; credits are the scores 3, 1, 4."""

    GROUP = (steps([3.0, 1.0, 4.0], [1, 2, 3]),)

    def advantages(self, k):
        row = shaped(self.GROUP, weights=PROCESS_ONLY, standardize="none", k=k).to_pylist()[0]
        return row["chunk_advantages"], row["path_score"]

    def test_k_0_is_the_return_to_go(self):
        assert self.advantages(0.0) == ([8.0, 5.0, 4.0], 8.0)

    def test_k_1_is_the_average_of_what_is_to_come(self):
        # 8 / 3, 5 / 2, 4 / 1
        advantages, path = self.advantages(1.0)
        assert advantages == pytest.approx([8 / 3, 2.5, 4.0])
        assert path == pytest.approx(8 / 3)

    def test_k_one_half_divides_by_the_root(self):
        advantages, path = self.advantages(0.5)
        assert advantages == pytest.approx([8 / math.sqrt(3), 5 / math.sqrt(2), 4.0])
        assert path == pytest.approx(8 / math.sqrt(3))

    def test_the_default_k(self):
        row = shaped(self.GROUP, weights=PROCESS_ONLY, standardize="none").to_pylist()[0]
        assert row["chunk_advantages"] == pytest.approx([8 / 3**0.7, 5 / 2**0.7, 4.0])

    def test_each_token_gets_the_value_of_its_chunk(self):
        table = shaped((steps([3.0, 1.0], [1, 4]),), weights=PROCESS_ONLY, standardize="none", k=0.0)
        assert token_advantages(table).to_pylist() == [[4.0, 1.0, 1.0, 1.0]]


def test_pass_from_end_to_end():
    # process {1, 0, 0, 1}: mean 1/2, std sqrt((4 * 1/4) / 3) = sqrt(1/3), so +-sqrt(3)/2
    # outcome {1, 0}: +-sqrt(1/2); format {1, 1}: all equal, 0; weights 1, k = 0.7
    group = (
        steps([1.0, 0.0], [2, 5], outcome=1.0, format=1.0, ok=T),
        steps([0.0, 1.0], [1, 2], outcome=0.0, format=1.0, ok=T),
    )
    p, r = math.sqrt(3) / 2, math.sqrt(0.5)
    first, second = shaped(group, std_eps=0.0).to_pylist()
    assert first["chunk_credits"] == pytest.approx([p + r, -p + r])
    assert first["chunk_advantages"] == pytest.approx([2 * r / 2**0.7, -p + r])
    assert first["path_score"] == pytest.approx(2 * r / 2**0.7)
    assert second["chunk_credits"] == pytest.approx([-p - r, p - r])
    assert second["chunk_advantages"] == pytest.approx([-2 * r / 2**0.7, p - r])


def test_output_columns_have_the_types_of_the_contract():
    table = shaped((steps([1.0], [1]),), weights=PROCESS_ONLY)
    kinds = {name: table.schema.field(name).type for name in table.column_names[-5:]}
    assert kinds == {
        "chunk_ends": pa.list_(pa.int32()),
        "chunk_credits": pa.list_(pa.float32()),
        "chunk_advantages": pa.list_(pa.float32()),
        "path_score": pa.float32(),
        "trainable": pa.bool_(),
    }
