"""Transforms, operators, pools and gates of streams, worked by hand (docs/spec/streams.md)."""

from __future__ import annotations

import itertools
import math
import sys
from types import ModuleType

import pyarrow as pa
import pytest

from pass_ops import Fused, ShapingConfig, Stream, Transform, shape

T, F = True, False


def table(*rows, **kinds):
    """Rollouts of group `q` (or of what `group_id` says), their loss mask True where none is given."""
    full = [{"group_id": "q", "loss_mask": [T] * len(row.get("s", [T])), **row} for row in rows]
    types = {
        "group_id": pa.string(), "loss_mask": pa.list_(pa.bool_()), "s": pa.list_(pa.float32()),
        "s_ends": pa.list_(pa.int32()), "r": pa.float32(), "outcome": pa.float32(), "format_ok": pa.bool_(), **kinds,
    }  # fmt: skip
    names = [name for name in types if any(name in row for row in full)]
    return pa.table({name: pa.array([row.get(name) for row in full], types[name]) for name in names})


def credits(given, *, streams=None, chunk=False, divide=False, fused=None, **stream):
    """The credit of every chunk; every token is a chunk, and no length division."""
    if streams is None:
        streams = {"one": Stream(**{"operator": "none", "signal": "s", **stream})}
    config = ShapingConfig(streams=streams, chunk=chunk, divide=divide, fused=fused)
    return shape(given, config)["chunk_credits"].to_pylist()


def near(*rows):
    return [pytest.approx(list(row), rel=1e-6, abs=1e-7) for row in rows]


class TestTransforms:
    @pytest.mark.parametrize(
        ("start", "first"), [(0.0, 2.0), (0.5, 1.5), ("first", 0.0), ("outcome", 2.0 - 0.75)], ids=str
    )
    def test_difference(self, start, first):
        rows = table({"s": [2.0, 5.0, 4.0], "outcome": 1.0}, {"s": [], "outcome": 0.5})
        assert credits(rows, transform=(Transform("difference", start=start),)) == near([first, 3.0, -1.0], [])

    def test_min_form(self):
        a, b = math.exp(-0.2 / 0.1), math.exp(-0.1 / 0.1)
        rows = table({"s": [0.2, 0.1]}, {"s": [7.0]})
        expected = near([0.2 * a / (a + b), 0.1 * b / (a + b)], [7.0])
        assert credits(rows, transform=("min_form",)) == expected

    def test_min_form_of_huge_values_takes_the_least(self):
        rows = table({"s": [1e30, -1e30]})
        assert credits(rows, transform=("min_form",)) == near([0.0, -1e30])

    def test_clip(self):
        rows = table({"s": [-3.0, 0.5, 4.0]})
        assert credits(rows, transform=(Transform("clip", low=-1.0, high=2.0),)) == near([-1.0, 0.5, 2.0])
        assert credits(rows, transform=(Transform("clip", low=-1.0),)) == near([-1.0, 0.5, 4.0])

    def test_compress(self):
        assert credits(table({"s": [3.0, -30.0]}), transform=(Transform("compress", scale=2.0),)) == near(
            [2 * math.tanh(1.5), -2 * math.tanh(15.0)]
        )

    def test_sparsify_keeps_what_reaches_the_quantile(self):
        rows = table({"s": [1.0, -4.0, 3.0, 0.5]}, {"s": [3.0]}, {"s": [2.0, -2.0, 1.0]})
        third = credits(rows, transform=(Transform("sparsify", keep=0.3),))  # 1 + floor(0.3 * 3) = 1
        assert third == near([0.0, -4.0, 0.0, 0.0], [3.0], [2.0, -2.0, 0.0])
        two = credits(rows, transform=(Transform("sparsify", keep=0.34),))  # 1 + floor(1.02) = 2
        assert two == near([0.0, -4.0, 3.0, 0.0], [3.0], [2.0, -2.0, 0.0])

    def test_sparsify_counts_like_arithmetic_does_and_not_like_float64(self):
        row = {"s": [float(n + 1) for n in range(101)]}
        assert sum(x != 0 for x in credits(table(row), transform=(Transform("sparsify", keep=0.29),))[0]) == 30

    def test_return_to_go(self):
        rows = table({"s": [1.0, 2.0, 4.0]})
        assert credits(rows, transform=("return_to_go",)) == near([7.0, 6.0, 4.0])
        assert credits(rows, transform=(Transform("return_to_go", discount=0.5),)) == near([3.0, 4.0, 4.0])

    def test_length_normalization_by_elements_and_by_unmasked_tokens(self):
        rows = table({"s": [1.0, 2.0, 3.0, 4.0], "r": 8.0, "loss_mask": [T, T, F, T]}, {"s": [2.0], "r": 5.0})
        by_root = (Transform("length_normalization", power=0.5),)
        root = math.sqrt(3.0)
        assert credits(rows, transform=by_root) == near([1 / root, 2 / root, 4 / root], [2.0])
        assert credits(rows, signal="r", transform=("length_normalization",)) == near([8 / 3] * 3, [5.0])

    def test_a_function_of_your_own(self, monkeypatch):
        module = ModuleType("my_transforms")
        module.doubled = lambda x: 2 * x
        monkeypatch.setitem(sys.modules, "my_transforms", module)
        rows = table({"s": [1.0, 9.0, 3.0], "loss_mask": [T, F, T]})
        own = (Transform("function", path="my_transforms:doubled"),)
        assert credits(rows, transform=own) == near([2.0, 6.0])

    def test_only_live_steps_exist(self):
        rows = table({"s": [1.0, 100.0, 5.0], "s_ends": [2, 3, 4], "loss_mask": [T, F, F, T]})
        assert credits(rows, transform=("difference",)) == near([1.0, 4.0])

    def test_they_run_in_order_before_and_after_the_operator(self):
        rows = table({"s": [1.0, 3.0]}, {"s": [4.0, 0.0]})
        found = credits(rows, transform=("return_to_go",), operator="mean_only", after=(Transform("clip", high=0.5),))
        assert found == near([0.5, 0.25], [0.5, -2.75])  # 4, 3; 4, 0 less their mean 2.75


class TestOperatorsAndPools:
    ROWS = ({"r": 1.0, "outcome": 1.0}, {"r": 3.0, "outcome": 0.0}, {"r": 8.0, "outcome": 1.0})

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({"operator": "mean_normalized"}, [-0.75, -0.25, 1.0]),
            ({"operator": "rank"}, [-1.0, 0.0, 1.0]),
            ({"operator": "mean_only", "pool": "right"}, [-3.5, -1.5, 3.5]),
            ({"operator": "mean_only", "pool": "wrong"}, [-2.0, 0.0, 5.0]),
            ({"operator": "masked_norm", "pool": "wrong"}, [0.0, 0.0, 0.0]),
            ({"operator": "abs_max", "pool": "wrong"}, [1 / 3, 1.0, 8 / 3]),
            ({"operator": "rank", "pool": "right"}, [-1.0, 0.0, 1.0]),
            ({"operator": "leave_one_out", "pool": "right", "gate": "right"}, [-7.0, 0.0, 7.0]),
            ({"operator": "mean_only", "pool": "dataset"}, [-3.0, -1.0, 4.0]),
        ],
        ids=str,
    )
    def test_of_one_group(self, options, expected):
        rows = table(*self.ROWS)
        assert credits(rows, signal="r", **options) == near(*([x] for x in expected))

    def test_mean_normalized_is_0_where_the_mean_is_not_above_0(self):
        assert credits(table({"r": -1.0}, {"r": 1.0}), signal="r", operator="mean_normalized") == near([0.0], [0.0])

    @pytest.mark.parametrize("rewards", itertools.permutations([-1.0, 0.0, 1.0]), ids=str)
    @pytest.mark.parametrize("pool", ["group", "dataset"])
    def test_mean_normalized_is_0_where_the_fused_sums_cancel_out(self, rewards, pool):
        """Around the first of them their mean comes to 1e-17, and the result would be 1e16."""
        found = credits(
            table(*({"r": reward} for reward in rewards)),
            streams={"one": Stream(signal="r", operator="none", weight=0.1)},
            fused=Fused(operator="mean_normalized", pool=pool),
        )
        assert found == near([0.0], [0.0], [0.0])

    def test_mean_normalized_keeps_the_smallest_share_of_right_rollouts(self):
        rows = table(*({"r": float(i == 0)} for i in range(4096)))
        found = credits(rows, signal="r", operator="mean_normalized")
        assert found == near([4095.0], *([-1.0] for _ in range(4095)))

    def test_ranks_of_equal_values_are_in_the_middle(self):
        rows = table({"r": 2.0}, {"r": 5.0}, {"r": 5.0}, {"r": 9.0}, {"r": 5.0})
        assert credits(rows, signal="r", operator="rank") == near([-1.0], [0.0], [0.0], [1.0], [0.0])

    def test_an_empty_pool_gives_0(self):
        rows = table({"r": 2.0, "outcome": 0.0}, {"r": 4.0, "outcome": 0.0})
        for operator in ("mean_only", "masked_norm", "abs_max", "rank", "mean_normalized"):
            assert credits(rows, signal="r", operator=operator, pool="right") == near([0.0], [0.0])

    def test_equal_states_are_a_pool_within_the_group(self):
        rows = table(
            {"s": [1.0, 2.0], "state": ["x", "y"]}, {"s": [5.0, 4.0], "state": ["y", "x"]},
            {"s": [7.0, 9.0], "state": ["x", "x"], "group_id": "p"},
            state=pa.list_(pa.string()),
        )  # fmt: skip
        found = credits(rows, operator="mean_only", pool="state", key="state")
        assert found == near([-1.5, -1.5], [1.5, 1.5], [-1.0, 1.0])

    def test_leave_one_out_among_equal_states_compares_rollouts(self):
        rows = table(
            {"s": [1.0, 3.0], "state": [7, 7]}, {"s": [5.0], "state": [7]}, {"s": [9.0], "state": [1]},
            state=pa.list_(pa.int64()),
        )  # fmt: skip
        found = credits(rows, operator="leave_one_out", pool="state", key="state")
        assert found == near([2 * (1 - 3.5), 2 * (3 - 3.5)], [2 * (5 - 3.5)], [0.0])

    def test_the_data_set_is_all_groups(self):
        rows = table({"r": 1.0}, {"r": 2.0}, {"r": 9.0, "group_id": "p"})
        assert credits(rows, signal="r", operator="mean_only", pool="dataset") == near([-3.0], [-2.0], [5.0])

    def test_joint_streams_share_one_pool(self):
        streams = {
            "steps": Stream(signal="s", operator="mean_only", pool="joint"),
            "end": Stream(signal="r", operator="mean_only", pool="joint", weight=10.0),
        }
        assert credits(table({"s": [1.0, 2.0], "r": 6.0}), streams=streams) == near([-2.0 + 30.0, -1.0 + 30.0])


class TestGates:
    ROWS = (
        {"r": 1.0, "outcome": 1.0, "format_ok": T}, {"r": 1.0, "outcome": 0.0, "format_ok": F},
        {"r": 1.0, "outcome": 0.5, "format_ok": T, "group_id": "p"},
    )  # fmt: skip

    @pytest.mark.parametrize(
        ("gate", "expected"),
        [
            ("always", [1, 1, 1]), ("right", [1, 0, 1]), ("wrong", [0, 1, 0]), ("single_outcome", [0, 0, 1]),
            ("mixed", [1, 1, 0]), ("format", [1, 0, 1]),
        ],
        ids=str,
    )  # fmt: skip
    def test_each(self, gate, expected):
        assert credits(table(*self.ROWS), signal="r", gate=gate) == near(*([x] for x in expected))

    def test_of_several_all_must_be_open(self):
        found = credits(table(*self.ROWS), signal="r", gate=["format", "mixed"])
        assert found == near([1], [0], [0])
        assert Stream(signal="r", gate=["right"]) == Stream(signal="r", gate="right")

    def test_right_is_what_is_above_the_threshold(self):
        config = ShapingConfig(
            streams={"one": Stream(signal="r", operator="none", gate="right")}, right="outcome", right_above=0.5
        )
        assert shape(table(*self.ROWS), config)["chunk_credits"].to_pylist() == near([1], [0], [0])

    def test_a_closed_gate_hands_the_weight_on_until_one_is_open(self):
        streams = {
            "a": Stream(signal="r", operator="none", weight=1.0, gate="right", otherwise="b"),
            "b": Stream(signal="t", operator="none", weight=10.0, gate="format", otherwise="c"),
            "c": Stream(signal="u", operator="none", weight=0.0),
        }
        rows = table(*({**row, "t": 2.0, "u": 3.0} for row in self.ROWS), t=pa.float32(), u=pa.float32())
        assert credits(rows, streams=streams) == near([1 + 20.0], [11 * 3.0], [1 + 20.0])


class TestTogether:
    def test_chunks_end_where_a_stream_of_chunk_by_does(self):
        rows = table(
            {"s": [1.0, 2.0], "s_ends": [2, 5], "v": [4.0, 8.0], "v_ends": [3, 5], "loss_mask": [T] * 5},
            v=pa.list_(pa.float32()), v_ends=pa.list_(pa.int32()),
        )  # fmt: skip
        streams = {"s": Stream(signal="s", operator="none"), "v": Stream(signal="v", operator="none")}
        both = shape(rows, ShapingConfig(streams=streams, k=1.0))
        assert both["chunk_ends"].to_pylist() == [[2, 3, 5]]
        assert both["chunk_credits"].to_pylist() == near([5.0, 6.0, 10.0])
        assert both["chunk_advantages"].to_pylist() == near([7.0, 8.0, 10.0])
        one = shape(rows, ShapingConfig(streams=streams, chunk_by=("s",), k=0.0))
        assert one["chunk_ends"].to_pylist() == [[2, 5]]
        assert one["chunk_credits"].to_pylist() == near([5.0, 10.0])
        assert one["path_score"].to_pylist() == [15.0]

    def test_the_fused_sum_is_standardized_over_pieces_or_tokens(self):
        rows = table({"s": [1.0, 4.0], "s_ends": [1, 3], "loss_mask": [T, T, T]})
        streams = {"s": Stream(signal="s", operator="none")}
        assert credits(rows, streams=streams, chunk=True, fused=Fused(operator="mean_only")) == near([-1.5, 1.5])
        by_token = credits(rows, streams=streams, chunk=True, fused=Fused(operator="mean_only", per="token"))
        assert by_token == near([-2.0, 1.0])

    def test_the_fused_sum_over_the_data_set(self):
        rows = table({"r": 1.0}, {"r": 3.0}, {"r": 8.0, "group_id": "p"})
        streams = {"r": Stream(signal="r", operator="mean_only")}
        found = credits(rows, streams=streams, fused=Fused(operator="masked_norm", pool="dataset"))
        assert found == near([-1 / 1.000001], [1 / 1.000001], [0.0])

    def test_a_null_leaves_the_rollout_out_of_every_pool(self):
        rows = table({"r": 1.0, "outcome": 1.0}, {"r": 3.0, "outcome": 1.0}, {"r": 100.0, "outcome": None})
        streams = {"r": Stream(signal="r", operator="mean_only", gate="right")}
        found = shape(rows, ShapingConfig(streams=streams))
        assert found["chunk_credits"].to_pylist() == near([-1.0], [1.0], [0.0])
        assert found["trainable"].to_pylist() == [T, T, F]

    def test_weights_by_round(self):
        config = ShapingConfig(streams={"r": Stream(signal="r", operator="none", weight={"0": 1.0, "1": 0.5})})
        found = [
            shape(table({"r": 8.0}), config.at_round(number))["chunk_credits"][0][0].as_py() for number in (0, 1, 7)
        ]
        assert found == [8.0, 4.0, 4.0]
