"""The neighbours of PASS by hand (test_published_methods has their own code's numbers); estimators by import path."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from cases import to_table

from pass_ops import ShapingConfig, Standardizers, Weights, shape, token_advantages
from pass_ops.errors import EstimatorError, NonFiniteError, OptionError, OutputOverflowError, StepEndsError

T, F = True, False
PROCESS_ONLY = Weights(outcome=0.0, format=0.0)
OUTCOME_ONLY = Weights(process=0.0, outcome=1.0, format=0.0)


def rollout(scores, *, mask=None, **rest):
    """One score a token."""
    return {"mask": [T] * len(scores) if mask is None else mask, "scores": scores, **rest}


def advantages(group, **options):
    return token_advantages(shape(to_table([group]), ShapingConfig(**options))).to_pylist()


def approx(expected, rel=2e-7):
    return [pytest.approx(row, rel=rel, abs=1e-12) for row in expected]


class TestLeaveOneOut:
    def test_a_reward_is_compared_with_the_mean_of_the_others(self):
        group = [{"mask": [T], "outcome": x} for x in (6.0, 0.0, 3.0)]
        # 6 - (0 + 3) / 2, 0 - (6 + 3) / 2, 3 - (6 + 0) / 2
        assert advantages(group, estimator="rloo", weights=OUTCOME_ONLY) == [[4.5], [-4.5], [0.0]]

    def test_a_process_score_is_compared_with_the_mean_of_the_rollouts_means(self):
        # means 2 and 5 (the masked 99 is out), m = 3.5; 2 / (2 - 1) * (1 - 3.5) and so on
        group = [rollout([1.0, 3.0]), rollout([5.0, 99.0], mask=[T, F])]
        options = {"signal": "kl", "standardize": "leave_one_out", "weights": PROCESS_ONLY, "chunk": False}
        table = shape(to_table([group]), ShapingConfig(**options))
        assert table["chunk_credits"].to_pylist() == [[-5.0, -1.0], [3.0]]

    def test_a_joined_pool_takes_each_rollouts_scores_and_rewards_together(self):
        # rollout means (1 + 3) / 2 = 2 and (6 + 0) / 2 = 3, m = 2.5, n / (n - 1) = 2
        group = [rollout([1.0], outcome=3.0), rollout([6.0], outcome=0.0)]
        options = {"signal": "kl", "standardize": "leave_one_out", "weights": Weights(format=0.0)}
        assert advantages(group, estimator="grpo_process", **options) == [[-3.0 + 1.0], [7.0 - 5.0]]

    def test_where_there_are_no_others_the_result_is_0(self):
        group = [rollout([1.0, 3.0], outcome=1.0), rollout([9.0], mask=[F], outcome=None)]
        weights = Weights(format=0.0)
        for estimator in ("pass", "rloo", "prime"):
            found = advantages(group, estimator=estimator, signal="kl", standardize="leave_one_out", weights=weights)
            assert found == [[0.0, 0.0], [0.0]]

    def test_equal_values_give_exactly_0(self):
        group = [rollout([0.1, 0.1], outcome=0.3) for _ in range(3)]
        options = {"signal": "kl", "standardize": "leave_one_out", "weights": Weights(process=0.7, format=0.0)}
        for estimator in ("pass", "reward_shaping", "prime"):
            assert advantages(group, estimator=estimator, **options) == [[0.0, 0.0]] * 3

    @pytest.mark.parametrize("estimator", ["pass", "reward_shaping", "grpo_process"])
    def test_equal_values_give_exactly_0_under_masked_norm_too(self, estimator):
        group = [rollout([0.1, 0.1], outcome=0.1, format=0.1) for _ in range(3)]
        weights = Weights(process=0.7, outcome=0.3, format=0.9)
        options = {"signal": "kl", "weights": weights, "std_eps": 0.0, "estimator": estimator}
        if estimator == "grpo_process":  # one pool, of raw values
            options["weights"] = Weights()
        assert advantages(group, **options) == [[0.0, 0.0]] * 3

    def test_scores_without_weight_are_in_no_pool_and_have_to_be_finite_all_the_same(self):
        # outcomes 6 and 0: 2 / (2 - 1) * (6 - 3); the scores count for nothing
        weights = Weights(process=0.0, format=0.0)
        options = {"signal": "kl", "standardize": "leave_one_out", "weights": weights, "estimator": "grpo_process"}
        assert advantages([rollout([1.0, 3.0], outcome=6.0), rollout([5.0], outcome=0.0)], **options) == [
            [6.0] * 2,
            [-6.0],
        ]
        for scores in ([math.nan], [math.inf], [0.0, math.nan]):
            for group in ((scores, [5.0]), ([5.0], scores)):
                with pytest.raises(NonFiniteError, match="it would spoil its whole group"):
                    advantages([rollout(s, outcome=1.0) for s in group], **options)


class TestNames:
    def test_no_advantage_is_minus_zero(self):
        group = [{"mask": [T], "outcome": -0.0}, {"mask": [T], "outcome": 2.0}]
        for operator in ("none", "abs_max"):
            ((zero,), _) = advantages(group, estimator="grpo_outcome", standardize=operator, weights=OUTCOME_ONLY)
            assert math.copysign(1.0, zero) == 1.0

    GROUP = (rollout([1.0], outcome=3.0, format=0.0), rollout([2.0], outcome=1.0, format=1.0))

    @pytest.mark.parametrize(("name", "operator"), [("rloo", "leave_one_out"), ("dr_grpo", "mean_only")])
    def test_rloo_and_dr_grpo_are_grpo_outcome_with_their_operator(self, name, operator):
        for ignored in ("masked_norm", Standardizers(outcome="abs_max")):
            named = advantages(self.GROUP, estimator=name, standardize=ignored)
            assert named == advantages(self.GROUP, estimator="grpo_outcome", standardize=operator)

    def test_gdpo_standardizes_before_it_adds_up(self):
        # outcome {3, 1}: +1, -1 about the mean 2; format {0, 1}: -1/2, +1/2
        weights = Weights(process=9.0, outcome=2.0, format=4.0)
        options = {"estimator": "gdpo", "standardize": "mean_only"}
        assert advantages(self.GROUP, weights=weights, **options) == [[2.0 - 2.0], [-2.0 + 2.0]]
        per_stream = Standardizers(outcome="mean_only", format="none")
        options["standardize"] = per_stream
        assert advantages(self.GROUP, weights=weights, **options) == [[2.0], [-2.0 + 4.0]]

    def test_gdpo_has_one_chunk_a_rollout_and_reads_no_process_column(self):
        group = [{"mask": [T, F, T], "outcome": 1.0}, {"mask": [T], "outcome": 0.0}]
        options = {"estimator": "gdpo", "weights": Weights(format=0.0), "std_eps": 0.0}
        row = shape(to_table([group]), ShapingConfig(**options)).to_pylist()[0]
        assert row["chunk_ends"] == [3]
        assert row["chunk_advantages"] == pytest.approx([math.sqrt(0.5)])
        assert row["path_score"] is None


class TestPrime:
    def test_by_hand(self):
        # process: means 2 and 4, m = 3, twice: {-4, 0} and {2}; outcome {1, 0}: m = 1/2, twice: {1, -1}
        # return-to-go: -4 + 0 + 1 = -3, 0 + 1 = 1 and 2 - 1 = 1; mean -1/3, deviations -8/3, 4/3, 4/3
        # sample variance (64 + 16 + 16) / 9 / 2 = 16/3
        group = [rollout([1.0, 3.0], outcome=1.0), rollout([4.0], outcome=0.0)]
        std = math.sqrt(16 / 3)
        expected = approx([[-8 / 3 / std, 4 / 3 / std], [4 / 3 / std]])
        assert advantages(group, estimator="prime", signal="kl", weights=Weights(format=0.0), std_eps=0.0) == expected

    def test_a_score_lies_at_the_last_token_of_its_step_and_rewards_at_the_last_token(self):
        group = [
            {"mask": [T, T, T, F], "scores": [1.0, 3.0], "ends": [2, 4], "outcome": 1.0},
            {"mask": [T], "scores": [4.0], "ends": [1], "outcome": 0.0},
        ]
        # return-to-go: -3, -3 on the first step, 1 on the second, 1 on the other rollout: mean -1, squares 4+4+4+4
        std = math.sqrt(16 / 3)
        expected = [[-2 / std, -2 / std, 2 / std, 2 / std], [2 / std]]
        found = advantages(group, estimator="prime", weights=Weights(format=0.0), std_eps=0.0)
        assert found == approx(expected)

    def test_weights_multiply_each_source(self):
        group = [rollout([1.0, 3.0], outcome=1.0, format=0.5), rollout([4.0], outcome=0.0, format=0.0)]
        wide = [{**r, "scores": [2.0 * s for s in r["scores"]], "outcome": 4.0 * r["outcome"]} for r in group]
        options = {"estimator": "prime", "signal": "kl", "std_eps": 0.0}
        weighted = advantages(group, weights=Weights(process=2.0, outcome=4.0, format=0.0), **options)
        assert weighted == approx(advantages(wide, weights=Weights(format=0.0), **options))
        assert weighted != advantages(group, weights=Weights(process=2.0, outcome=4.0, format=1.0), **options)

    def test_without_a_process_weight_no_process_column_is_read(self):
        group = [{"mask": [T, T], "outcome": 1.0}, {"mask": [T, T], "outcome": 0.0}]
        # returns 1, 1, -1, -1: sample variance 4/3
        z = math.sqrt(3 / 4)
        assert advantages(group, estimator="prime", weights=OUTCOME_ONLY, std_eps=0.0) == approx([[z, z], [-z, -z]])


# --- estimators by import path -----------------------------------------------------------------------------------

OWN = """
import numpy as np

seen = []

def remember(group, config):
    seen.append((group, config))
    return [np.arange(len(mask)) for mask in group.mask]

def outcome(group, config):
    return [np.full(len(mask), x) for mask, x in zip(group.mask, group.outcome)]

def minus_zero(group, config):
    return [np.full(len(mask), -0.0) for mask in group.mask]

def one_too_few(group, config):
    return outcome(group, config)[1:]

def too_short(group, config):
    return [x[:-1] for x in outcome(group, config)]

def nan(group, config):
    return [np.where(mask, np.nan, 0.0) for mask in group.mask]

def huge(group, config):
    return [np.full(len(mask), 1e39) for mask in group.mask]

def broken(group, config):
    raise ZeroDivisionError("mine")
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The module above on the import path."""
    import importlib
    import sys

    (tmp_path / "own_estimators.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("own_estimators")
    del sys.modules["own_estimators"]


STEPS = (
    {"mask": [T, T, F], "scores": [1.0, math.nan], "ends": [2, 3], "outcome": 1.0, "format": 9.0},
    {"mask": [T], "scores": None, "ends": None, "outcome": 5.0, "format": 9.0},
    {"mask": [F, F], "scores": [7.0], "ends": [2], "outcome": 2.0, "format": 9.0},
    {"mask": [], "scores": [], "ends": [], "outcome": 3.0, "format": 9.0},
)


class TestByImportPath:
    def test_it_sees_the_rollouts_that_lack_nothing(self, own):
        config = ShapingConfig(estimator="own_estimators:remember", weights=Weights(format=0.0))
        shape(to_table([STEPS]), config)
        ((group, given),) = own.seen
        assert given is config
        assert group.group_id == "g0"
        assert [m.tolist() for m in group.mask] == [[T, T, F], [F, F], []]
        assert [s.tolist() for s in group.scores] == [[1.0, 0.0], [0.0], []]
        assert [e.tolist() for e in group.ends] == [[2, 3], [2], []]
        assert [x.tolist() for x in group.live] == [[T, F], [F], []]
        assert group.outcome.tolist() == [1.0, 2.0, 3.0]
        assert group.format.tolist() == [0.0, 0.0, 0.0]
        assert {a.dtype for a in group.scores} == {np.dtype(np.float64)}
        assert {a.dtype for a in group.ends} == {np.dtype(np.int64)}

    def test_under_kl_each_token_ends_its_score(self, own):
        weights = Weights(outcome=0.0, format=0.0)
        config = ShapingConfig(estimator="own_estimators:remember", signal="kl", weights=weights)
        shape(to_table([[rollout([1.0, math.nan, 2.0], mask=[T, F, T])]]), config)
        ((group, _),) = own.seen
        assert group.ends[0].tolist() == [1, 2, 3]
        assert group.scores[0].tolist() == [1.0, 0.0, 2.0]
        assert group.live[0].tolist() == [T, F, T]

    def test_without_a_process_weight_no_process_column_is_read(self, own):
        config = ShapingConfig(estimator="own_estimators:remember", weights=OUTCOME_ONLY)
        shape(to_table([[{"mask": [T, T], "outcome": 1.0}]]), config)
        assert [(len(g.scores[0]), len(g.ends[0]), len(g.live[0])) for g, _ in own.seen] == [(0, 0, 0)]

    def test_chunks_are_runs_of_one_advantage_that_begin_at_tokens_that_count(self, own):
        config = ShapingConfig(estimator="own_estimators:remember", weights=Weights(format=0.0))
        rows = shape(to_table([STEPS]), config).to_pylist()
        assert [row["chunk_ends"] for row in rows] == [[1, 3], [1], [2], []]
        assert [row["chunk_advantages"] for row in rows] == [[0.0, 1.0], [0.0], [0.0], []]
        assert [row["chunk_credits"] for row in rows] == [row["chunk_advantages"] for row in rows]
        assert [row["path_score"] for row in rows] == [None] * 4
        assert [row["trainable"] for row in rows] == [True, False, False, False]

    def test_a_group_comes_under_its_own_id(self, own):
        config = ShapingConfig(estimator="own_estimators:remember", weights=OUTCOME_ONLY)
        row = {"mask": [T], "outcome": 1.0}
        lacking = {"mask": [T], "outcome": None}
        shape(to_table([[row], [lacking, row], [row]]), config)
        assert [group.group_id for group, _ in own.seen] == ["g0", "g1", "g2"]

    def test_its_minus_zero_is_stored_as_zero(self, own):
        (found,) = advantages(
            [{"mask": [T], "outcome": 1.0}], estimator="own_estimators:minus_zero", weights=OUTCOME_ONLY
        )
        assert math.copysign(1.0, found[0]) == 1.0

    def test_it_can_be_what_a_named_one_is(self, own):
        group = [{"mask": [T, T], "outcome": 1.0}, {"mask": [T], "outcome": 3.0}]
        named = {"estimator": "grpo_outcome", "standardize": "none"}
        mine = advantages(group, estimator="own_estimators:outcome", weights=OUTCOME_ONLY)
        assert mine == advantages(group, weights=OUTCOME_ONLY, **named)

    @pytest.mark.parametrize(
        ("name", "error", "message"),
        [
            ("one_too_few", EstimatorError, "'g0/0': .* gave 0 arrays for the 1 rollouts of its group; return one"),
            (
                "too_short",
                EstimatorError,
                r"^rollout 'g0/0': estimator 'own_estimators:too_short' gave an array of shape \(1,\) for a completion "
                "of 2 tokens; return one advantage for each token, or one number for all$",
            ),
            (
                "nan",
                EstimatorError,
                "^rollout 'g0/0': estimator 'own_estimators:nan' gave NaN at unmasked token 1; it would reach the "
                "policy's weights; return a number there, 0 where there is nothing to learn$",
            ),
            ("huge", OutputOverflowError, "'g0/0': .* beyond float32"),
        ],
    )
    def test_a_result_that_cannot_be_is_refused(self, own, name, error, message):
        config = ShapingConfig(estimator=f"own_estimators:{name}", weights=OUTCOME_ONLY)
        with pytest.raises(error, match=message):
            shape(to_table([[{"mask": [F, T], "outcome": 1.0}]]), config)

    def test_what_it_raises_says_where(self, own):
        config = ShapingConfig(estimator="own_estimators:broken", weights=OUTCOME_ONLY)
        with pytest.raises(ZeroDivisionError, match="mine") as caught:
            shape(to_table([[{"mask": [T], "outcome": 1.0}]]), config)
        assert caught.value.__notes__ == ["in estimator 'own_estimators:broken', at the group of rollout 'g0/0'"]

    def test_bad_input_is_refused_as_for_any_other(self, own):
        config = ShapingConfig(estimator="own_estimators:outcome", weights=Weights(format=0.0))
        with pytest.raises(NonFiniteError, match="process_scores is nan at unmasked step 0"):
            shape(to_table([[{"mask": [T], "scores": [math.nan], "ends": [1], "outcome": 1.0}]]), config)
        with pytest.raises(StepEndsError, match="process_ends is"):
            shape(to_table([[{"mask": [T], "scores": [0.0], "ends": [2], "outcome": 1.0}]]), config)

    @pytest.mark.parametrize(
        ("path", "message"),
        [
            ("own_estimators:grpo", "'own_estimators:grpo' cannot be imported .*has no 'grpo'"),
            ("no_such_module:grpo", "'no_such_module:grpo' cannot be imported .*No module named 'no_such_module'"),
            ("math:pi", "'math:pi' is 3.14.*, which cannot be called"),
        ],
    )
    def test_a_path_to_no_function_is_refused_when_it_shapes(self, own, path, message):
        config = ShapingConfig(estimator=path, weights=OUTCOME_ONLY)
        with pytest.raises(OptionError, match=f"^option estimator: {message}"):
            shape(to_table([[{"mask": [T], "outcome": 1.0}]]), config)

    def test_building_a_configuration_imports_nothing(self, tmp_path, monkeypatch):
        monkeypatch.syspath_prepend(tmp_path)
        (tmp_path / "fails_at_import.py").write_text("raise RuntimeError('imported')")
        ShapingConfig(estimator="fails_at_import:f")
        assert "fails_at_import" not in sys.modules
