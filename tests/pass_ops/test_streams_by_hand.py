"""Streams worked by hand from docs/spec/streams.md: the oracle gives these numbers, and so does `shape`."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from cases_streams import MADE, to_config, to_table
from oracle_streams import Fused, Options, Stream, Table, shape_table

import pass_ops

KINDS = {"_ok": "bool", "_ends": "ends", "_reward": "number", "state": "whole", "states": "wholes"}


def table(*groups: list[dict]) -> Table:
    """Groups of rollouts; "mask" is True everywhere where it is left out, over as many tokens as `tokens` says."""
    made = [[{"mask": [True] * r.get("tokens", 1), **r} for r in group] for group in groups]
    names = [name for name in made[0][0] if name not in ("mask", "tokens")]
    return Table(made, {name: next((k for end, k in KINDS.items() if name.endswith(end)), "numbers") for name in names})


def rewards(*values: float, **more: list) -> list[dict]:
    """Rollouts of one token with these outcomes."""
    return [{"outcome_reward": x, **{name: column[i] for name, column in more.items()}} for i, x in enumerate(values)]


def one(**stream: object) -> dict[str, Stream]:
    return {"a": Stream(**{"signal": "outcome", **stream})}


def spread(row: dict) -> list[float]:
    """The advantage of each token."""
    pairs = itertools.pairwise([0, *row["chunk_ends"]])
    return [a for (start, end), a in zip(pairs, row["chunk_advantages"], strict=True) for _ in range(start, end)]


def check(of: Table, streams: dict[str, Stream], *expected: list[float], **options: object) -> None:
    """The token advantages of every rollout, first by the oracle, then by `shape`."""
    o = replace(Options(streams, divide=False, eps=0.0), **options)
    shaped = [one for group in shape_table(of, o) for one in group]
    rows = [{"chunk_ends": s.ends, "chunk_advantages": [a.x for a in s.advantages]} for s in shaped]
    assert [spread(row) for row in rows] == [pytest.approx(tokens, rel=1e-12, abs=1e-14) for tokens in expected]
    found = pass_ops.shape(to_table(of), to_config(o)).select(MADE).to_pylist()
    assert [spread(row) for row in found] == [pytest.approx(tokens, rel=1e-6, abs=1e-9) for tokens in expected]
    assert [row["chunk_ends"] for row in found] == [s.ends for s in shaped]


def steps(*values: float, ends: list[int] | None = None, **more: object) -> dict:
    ends = ends or list(range(1, len(values) + 1))
    return {"tokens": ends[-1], "process_scores": list(values), "process_ends": ends, **more}


def tokens(*values: float, **more: object) -> dict:
    return {"tokens": len(values), "teacher_logprobs": list(values), **more}


class TestOperators:
    def test_rank(self):
        check(table(rewards(1, 2, 2, 5)), one(operator="rank"), [-1], [0], [0], [1])

    def test_rank_outside_its_pool(self):
        of = table(rewards(1, 1, 0, 0, 0, score_reward=[2, 4, 10, 1, 3]))
        check(of, one(signal="score", operator="rank", pool="right"), [-1], [1], [1], [-1], [0])

    def test_mean_normalized(self):
        check(table(rewards(0, 1, 3, 0)), one(operator="mean_normalized"), [-1], [0], [2], [-1])

    def test_mean_normalized_where_the_mean_is_not_above_0(self):
        check(table(rewards(-1, 1)), one(operator="mean_normalized"), [0], [0])
        check(table(rewards(-1, 0)), one(operator="mean_normalized"), [0], [0])

    def test_masked_norm(self):
        check(table(rewards(0, 2, 4)), one(), [-1], [0], [1])
        check(table(rewards(0, 2)), one(), [-1], [1], ddof=0)
        check(table(rewards(-3, 3)), one(), [-0.75], [0.75], ddof=0, eps=1.0)
        check(table(rewards(3, 3)), one(), [0], [0])

    def test_abs_max(self):
        check(table(rewards(-4, 2)), one(operator="abs_max"), [-1], [0.5])
        check(table(rewards(0, 0)), one(operator="abs_max"), [0], [0])

    def test_leave_one_out_is_over_means_of_rollouts(self):
        of = table([steps(1, 3), steps(6)])
        check(of, one(signal="process", operator="leave_one_out"), [-6, -2], [4])
        check(table([steps(1, 3)]), one(signal="process", operator="leave_one_out"), [0, 0])

    def test_none(self):
        check(table(rewards(3, 4)), one(operator="none", weight=-2.0), [-6], [-8])


class TestPools:
    def test_right_and_wrong(self):
        of = table(rewards(1, 1, 0, score_reward=[2, 4, 10]))
        check(of, one(signal="score", operator="mean_only", pool="right"), [-1], [1], [7])
        check(of, one(signal="score", operator="mean_only", pool="wrong"), [-8], [-6], [0])

    def test_an_empty_pool_gives_0(self):
        of = table(rewards(1, 1, score_reward=[2, 4]))
        check(of, one(signal="score", operator="mean_only", pool="wrong"), [0], [0])
        check(of, one(signal="score", operator="none", pool="wrong"), [2], [4])

    def test_right_is_above_the_threshold_as_float32(self):
        of = table(rewards(0.1, 0.0, score_reward=[2, 4]))
        of.groups[0][0]["outcome_reward"] = 0.10000000149011612
        check(of, one(signal="score", operator="mean_only", pool="right"), [0], [2], right_above=0.1)

    def test_another_signal_can_say_what_is_right(self):
        of = table(rewards(0, 0, 0, x_ok=[True, True, False], score_reward=[2, 4, 10]))
        check(of, one(signal="score", operator="mean_only", pool="right"), [-1], [1], [7], right="x")

    def test_states_of_steps(self):
        of = table([steps(1, 2, process_states=[7, 8]), steps(3, 6, process_states=[7, 8])])
        check(of, one(signal="process", operator="mean_only", pool="state", key="process_states"), [-1, -2], [1, 2])

    def test_states_of_rollouts(self):
        of = table(rewards(1, 3, 9, x_state=[1, 1, 2]), rewards(5, x_state=[1]))
        check(of, one(operator="mean_only", pool="state", key="x_state"), [-1], [1], [0], [0])

    def test_joint(self):
        of = table(rewards(1, 3, score_reward=[5, 7]))
        pair = {
            "a": Stream("outcome", operator="mean_only", pool="joint"),
            "b": Stream("score", operator="mean_only", pool="joint", weight=10.0),
        }
        check(of, pair, [-3 + 10], [-1 + 30])

    def test_the_data_set(self):
        of = table(rewards(1, 2), rewards(6))
        check(of, one(operator="mean_only", pool="dataset"), [-2], [-1], [3])
        check(of, one(operator="leave_one_out", pool="dataset"), [-3], [-1.5], [4.5])
        check(of, one(operator="abs_max", pool="dataset"), [1 / 6], [1 / 3], [1])
        check(of, one(operator="mean_normalized", pool="dataset"), [-2 / 3], [-1 / 3], [1])
        std = math.sqrt(7)
        check(of, one(pool="dataset"), [-2 / std], [-1 / std], [3 / std])

    def test_a_data_set_of_equal_values(self):
        of = table(rewards(*[0.10000000149011612] * 5), rewards(*[0.10000000149011612] * 2))
        check(of, one(pool="dataset"), *[[0.0]] * 7)

    def test_a_data_set_whose_mean_is_0(self):
        of = table(rewards(0.5, 0.25, -0.125), rewards(-0.625), rewards(3, -3, 0))
        check(of, one(operator="mean_normalized", pool="dataset"), *[[0.0]] * 7)

    def test_masked_steps_are_in_no_pool_and_never_read(self):
        of = table([{**steps(1, math.nan, 5), "mask": [True, False, True]}, steps(3)])
        check(of, one(signal="process", operator="mean_only"), [-2, -2, 2], [0])

    def test_fully_masked_rollouts_stay_in_rollout_pools(self):
        of = table(
            [{"outcome_reward": 1.0}, {"outcome_reward": 3.0, "mask": [False]}, {"outcome_reward": 8.0, "mask": []}]
        )
        check(of, one(operator="mean_only"), [-3], [0], [])

    def test_a_null_leaves_its_rollout_out(self):
        of = table(rewards(1, None, 3))
        check(of, one(operator="mean_only"), [-1], [0], [1])


class TestTransforms:
    def test_difference(self):
        of = table([tokens(1, 3, 2, outcome_reward=1.0), tokens(5, outcome_reward=0.0)])

        def differ(*expected: list[float], **options: object) -> None:
            stream = one(signal="teacher", operator="none", transform=(("difference", options),))
            check(of, stream, *expected, chunk=False)

        differ([1, 2, -1], [5])
        differ([-1, 2, -1], [3], start=2.0)
        differ([0, 2, -1], [0], start="first")
        differ([0.5, 2, -1], [4.5], start="outcome")

    def test_difference_skips_what_is_masked(self):
        of = table([{**tokens(1, 9, 2), "mask": [True, False, True]}])
        check(of, one(signal="teacher", operator="none", transform=(("difference", {}),)), [1, 1, 1])

    def test_min_form(self):
        of = table([steps(0, 1)])
        stream = one(signal="process", operator="none", transform=(("min_form", {"temperature": 0.5}),))
        check(of, stream, [0, math.exp(-2) / (1 + math.exp(-2))])

    def test_min_form_of_large_values(self):
        of = table([steps(-1000, 1000), steps(1000)])
        check(of, one(signal="process", operator="none", transform=(("min_form", {}),)), [-1000, 0], [1000])

    def test_clip_and_compress_in_order(self):
        of = table(rewards(-3, 1, 4))
        first = (("clip", {"low": -1.0, "high": 2.0}), ("compress", {"scale": 2.0}))
        check(
            of, one(operator="none", transform=first), [2 * math.tanh(-0.5)], [2 * math.tanh(0.5)], [2 * math.tanh(1)]
        )
        other = (("compress", {"scale": 2.0}), ("clip", {"low": -1.0}))
        check(of, one(operator="none", transform=other), [-1], [2 * math.tanh(0.5)], [2 * math.tanh(2)])

    def test_sparsify(self):
        of = table([steps(1, -3, 3)])
        for keep, expected in ((0.5, [0, -3, 3]), (0.01, [0, -3, 3]), (1.0, [1, -3, 3])):
            check(of, one(signal="process", operator="none", transform=(("sparsify", {"keep": keep}),)), expected)

    def test_sparsify_is_the_interpolated_quantile(self):
        of = table([steps(1, 2, -4, 8)])
        for keep, least in ((0.3, 8), (0.34, 4), (0.67, 2)):  # quantiles 4.4, 3.96 and 1.99
            expected = [x if abs(x) >= least else 0 for x in (1, 2, -4, 8)]
            check(of, one(signal="process", operator="none", transform=(("sparsify", {"keep": keep}),)), expected)

    def test_sparsify_is_not_misled_by_rounding(self):
        assert (1 - 0.7) * 10 > 3  # and yet the quantile is the fourth value
        stream = one(signal="process", operator="none", transform=(("sparsify", {"keep": 0.7}),))
        check(table([steps(*range(1, 12))]), stream, [0] * 3 + list(range(4, 12)))

    def test_return_to_go(self):
        of = table([{**steps(1, 9, 2, 4), "mask": [True, False, True, True]}])
        half = one(signal="process", operator="none", transform=(("return_to_go", {"discount": 0.5}),))
        check(of, half, [3, 3, 4, 4])
        whole = one(signal="process", operator="none", after=(("return_to_go", {}),))
        check(of, whole, [7, 7, 6, 4])

    def test_length_normalization(self):
        of = table([steps(2, 6, ends=[2, 4], outcome_reward=8.0), steps(3, outcome_reward=5.0)])
        check(of, one(signal="process", operator="none", transform=(("length_normalization", {}),)), [1, 1, 3, 3], [3])
        root = (("length_normalization", {"power": 0.5}),)
        check(of, one(operator="none", transform=root), [4] * 4, [5])

    def test_length_normalization_of_a_rollout_without_tokens(self):
        of = table([{"outcome_reward": 6.0, "mask": [False]}, {"outcome_reward": 8.0, "tokens": 2}])
        check(of, one(operator="mean_only", transform=(("length_normalization", {}),)), [0], [-1, -1])

    def test_a_function_of_the_users(self):
        of = table([steps(1, -3, 3)])
        path = {"path": "stream_functions:from_the_last"}
        check(of, one(signal="process", operator="none", transform=(("function", path),)), [-2, -6, 0])

    def test_transforms_come_before_and_after_the_operator(self):
        of = table(rewards(0, 4))
        limit = (("clip", {"high": 2.0}),)
        check(of, one(operator="mean_only", transform=limit), [-1], [1])
        check(of, one(operator="mean_only", after=(("clip", {"high": 0.5}),)), [-2], [0.5])


class TestGates:
    def test_each_gate(self):
        of = table(
            rewards(1, 0, format_ok=[True, False]), rewards(1, 1, format_ok=[False, True]), rewards(0, format_ok=[True])
        )
        of.columns["format_ok"] = "bool"
        for gate, is_open in {
            "always": (1, 1, 1, 1, 1),
            "right": (1, 0, 1, 1, 0),
            "wrong": (0, 1, 0, 0, 1),
            "single_outcome": (0, 0, 1, 1, 1),
            "mixed": (1, 1, 0, 0, 0),
            "format": (1, 0, 0, 1, 1),
        }.items():
            ones = one(operator="none", transform=(("clip", {"low": 1.0}),), gate=gate)
            check(of, ones, *[[float(x)] for x in is_open])

    def test_gates_do_not_change_pools(self):
        check(table(rewards(1, 0)), one(operator="mean_only", gate="right"), [0.5], [0])

    def test_a_weight_goes_to_the_next_open_gate(self):
        of = table(
            rewards(1, 1, 0, 0, format_ok=[True, False] * 2, x_reward=[100] * 4, y_reward=[10] * 4, z_reward=[1] * 4)
        )
        streams = {
            "z": Stream("x", operator="none", gate="right", otherwise="y"),
            "y": Stream("y", weight=2.0, operator="none", gate="format", otherwise="c"),
            "c": Stream("z", weight=4.0, operator="none"),
        }
        check(of, streams, [100 + 20 + 4], [100 + 6], [30 + 4], [7])

    def test_a_weight_without_an_heir_is_lost(self):
        of = table(rewards(1, 0, x_reward=[100, 100]))
        streams = {
            "a": Stream("x", operator="none", gate="right", otherwise="b"),
            "b": Stream("outcome", weight=0.0, operator="none", gate="right"),
        }
        check(of, streams, [100], [0])


class TestFused:
    """Step ends at 2 and 4 with 1 and 3, and at 1 and 4 with 10 and 20: the sums are 11, 21, 23, 23."""

    def two(self, **more: object) -> tuple[Table, dict[str, Stream]]:
        r = {
            "tokens": 4,
            "process_scores": [1, 3],
            "process_ends": [2, 4],
            "b_scores": [10, 20],
            "b_ends": [1, 4],
            **more,
        }
        return table([r]), {"a": Stream("process", operator="none"), "b": Stream("b", operator="none")}

    def test_per_element_takes_each_piece_once(self):
        of, streams = self.two()
        m = (11 + 21 + 23) / 3
        check(of, streams, [11 - m, 21 - m, 23 - m, 23 - m], fused=Fused("mean_only"))

    def test_per_token_takes_each_token(self):
        of, streams = self.two()
        check(of, streams, [-8.5, 1.5, 3.5, 3.5], fused=Fused("mean_only", per="token"))

    def test_masked_pieces_are_left_out(self):
        of, streams = self.two(mask=[True, False, True, False])
        check(of, streams, [-6, -6, 6, 6], fused=Fused("mean_only"))

    def test_a_token_level_stream_makes_every_token_an_element(self):
        of, streams = self.two(teacher_logprobs=[0.0] * 4)
        streams["c"] = Stream("teacher", operator="none")
        check(of, streams, [-8.5, 1.5, 3.5, 3.5], fused=Fused("mean_only"))

    def test_a_stream_of_weight_0_divides_no_pieces(self):
        of, streams = self.two()
        streams["b"] = replace(streams["b"], weight=0.0)
        check(of, streams, [-1, -1, 1, 1], fused=Fused("mean_only"), chunk_by=("a", "b"))

    def test_a_stream_that_may_inherit_weight_does(self):
        of, streams = self.two(outcome_reward=1.0)
        streams["b"] = replace(streams["b"], weight=0.0)
        streams["a"] = replace(streams["a"], gate="right", otherwise="b")
        m = (1 + 1 + 3) / 3
        check(of, streams, [1 - m, 1 - m, 3 - m, 3 - m], fused=Fused("mean_only"))

    def test_rollout_level_streams_count_every_used_rollout_once(self):
        of = table([{"outcome_reward": 1.0, "tokens": 3}, {"outcome_reward": 3.0, "mask": [False]}])
        check(of, one(operator="none"), [-1] * 3, [0], fused=Fused("mean_only"))
        check(of, one(operator="none"), [0] * 3, [0], fused=Fused("mean_only", per="token"))

    def test_the_data_set(self):
        of = table(rewards(1, 2), rewards(6))
        check(of, one(operator="none", weight=2.0), [-4], [-2], [6], fused=Fused("mean_only", pool="dataset"))


class TestChunks:
    def credits(self, of: Table, streams: dict[str, Stream], **options: object) -> list[tuple[list[int], list[float]]]:
        o = replace(Options(streams, divide=False), **options)
        found = pass_ops.shape(to_table(of), to_config(o)).select(MADE).to_pylist()
        expected = [s for group in shape_table(of, o) for s in group]
        assert [row["chunk_ends"] for row in found] == [s.ends for s in expected]
        assert [row["chunk_credits"] for row in found] == [[pytest.approx(c.x) for c in s.credits] for s in expected]
        return [(s.ends, [c.x for c in s.credits]) for s in expected]

    def two(self) -> tuple[Table, dict[str, Stream]]:
        r = {"process_scores": [1, 3], "process_ends": [2, 5], "b_scores": [10, 20], "b_ends": [3, 5]}
        of = table([{"mask": [False, True, True, False, True], **r}])
        return of, {"a": Stream("process", operator="none"), "b": Stream("b", operator="none")}

    def test_every_stream_with_steps_cuts_by_default(self):
        assert self.credits(*self.two()) == [([2, 4, 5], [11, 13, 23])]

    def test_named_streams_cut(self):
        assert self.credits(*self.two(), chunk_by=("b",)) == [([4, 5], [13, 23])]

    def test_without_chunks_every_unmasked_token_is_one(self):
        assert self.credits(*self.two(), chunk=False) == [([2, 4, 5], [11, 13, 23])]

    def test_a_rollout_level_stream_cuts_nothing(self):
        of = table([{"outcome_reward": 1.0, "tokens": 3}])
        assert self.credits(of, one(operator="none")) == [([3], [1])]

    def test_the_trace_is_the_groups_mean_before_gate_and_weight(self):
        # u = (1 + 2) / 4, (1 + 0) / 4, 0.5 / 4; of four used rollouts one is empty and one is masked
        group = [
            tokens(1, 1, 0.5, outcome_reward=1.0),
            {**tokens(2, 5, 0), "outcome_reward": 0.0, "mask": [True, False, True]},
            {**tokens(9), "outcome_reward": 0.0, "mask": [False]},
            {**tokens(), "outcome_reward": 0.0, "mask": []},
        ]
        streams = one(signal="teacher", operator="none", weight=100.0, gate="right")
        expected = [([1, 3], [100, 50]), ([2, 3], [0, 0]), ([1], [0]), ([], [])]
        assert self.credits(table(group), streams, eta=0.2) == expected

    def test_each_detector_has_its_own_value(self):
        r = {"teacher_logprobs": [0.0, 0.2, 0.4], "outcome_reward": 0.0, "b_scores": [1, 2], "b_ends": [1, 3]}
        streams = {"a": Stream("teacher", operator="none"), "b": Stream("b", operator="none")}
        # 0.4 is far from 0.0; would the cut of b at 1 set v = 0.2, there were none at 2
        assert [ends for ends, _ in self.credits(table([{"tokens": 3, **r}]), streams, eta=0.3)] == [[1, 2, 3]]

    def test_divide(self):
        of = table([steps(1, 2)])
        o = Options(one(signal="process", operator="none"), k=1.0)
        (shaped,) = shape_table(of, o)[0]
        assert ([a.x for a in shaped.advantages], shaped.path.x) == ([1.5, 2.0], 1.5)
        row = pass_ops.shape(to_table(of), to_config(o)).select(MADE).to_pylist()[0]
        assert row == {
            "chunk_ends": [1, 2],
            "chunk_credits": [1.0, 2.0],
            "chunk_advantages": [1.5, 2.0],
            "path_score": 1.5,
            "trainable": True,
        }
        undivided = pass_ops.shape(to_table(of), to_config(replace(o, divide=False)))
        assert undivided["path_score"].to_pylist() == [None]


class TestColumns:
    def test_ends_belong_to_their_own_value_column(self):
        """judge_ends are not the ends of judge_process_scores: these are of tokens."""
        r = {"tokens": 2, "judge_process_scores": [1.0, 3.0], "judge_ends": [1, 2]}
        m = one(signal="judge", operator="none", transform=(("length_normalization", {}),))
        check(table([r]), m, [0.5, 1.5])

    def test_the_first_column_is_read(self):
        r = {"x_reward": 5.0, "x_format_reward": None, "x_outcome_reward": None}
        check(table([r]), one(signal="x", operator="none"), [5])

    def test_format_ok_counts_where_there_is_no_format_reward(self):
        of = table([{"format_ok": True}, {"format_ok": False}])
        check(of, one(signal="format", operator="none"), [1], [0])
        of = table([{"format_reward": 3.0, "format_ok": True}])
        check(of, one(signal="format", operator="none"), [3])
