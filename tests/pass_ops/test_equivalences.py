"""Changes of the input or the options that must not change the result, or change it in a known way."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest
from cases import credits_table, made, to_config, to_table
from hypothesis import assume, given
from hypothesis import strategies as st
from oracle import Options, shape_group
from strategies import ESTIMATORS, MODERATE, SIGNALS, USUAL, examples, groups

from pass_ops import ShapingConfig, Weights, shape, token_advantages

QUICK = examples(40)
PROCESS_ONLY = Weights(outcome=0.0, format=0.0)


def tables(signal, *columns, **plan):
    return groups(signal, columns=frozenset(columns), **plan).map(to_table)


def replaced(table, name, values):
    return table.set_column(table.column_names.index(name), name, values)


@pytest.mark.parametrize("signal", SIGNALS)
class TestWeights:
    @pytest.mark.parametrize("estimator", ESTIMATORS)
    @QUICK
    @given(data=st.data())
    def test_weight_0_is_the_result_without_the_column(self, estimator, signal, data):
        table = data.draw(tables(signal, "outcome", "format"))
        options = {"estimator": estimator, "signal": signal, "weights": PROCESS_ONLY}
        without = table.drop_columns(["outcome_reward", "format_reward"])
        assert made(table, **options).equals(made(without, **options))

    @pytest.mark.parametrize("estimator", ESTIMATORS)
    @QUICK
    @given(data=st.data())
    def test_nulls_in_a_stream_of_weight_0_do_not_matter(self, estimator, signal, data):
        table = data.draw(tables(signal, "outcome"))
        other = replaced(table, "outcome_reward", pa.nulls(len(table), pa.float32()))
        options = {"estimator": estimator, "signal": signal, "weights": PROCESS_ONLY}
        assert made(table, **options).equals(made(other, **options))

    @pytest.mark.parametrize("estimator", ["pass", "reward_shaping", "grpo_process"])
    @QUICK
    @given(data=st.data())
    def test_process_scores_of_weight_0_give_no_credit(self, estimator, signal, data):
        table = data.draw(tables(signal, "outcome", "format", nulls=False))
        scores = table["process_scores"].combine_chunks()
        other = pa.ListArray.from_arrays(scores.offsets, pa.array(np.zeros(len(scores.values), np.float32)))
        options = {"estimator": estimator, "signal": signal, "weights": Weights(process=0.0), "chunk": False}
        assert made(table, **options).equals(made(replaced(table, "process_scores", other), **options))

    @QUICK
    @given(data=st.data())
    def test_the_process_weight_does_not_move_chunks(self, signal, data):
        table = data.draw(tables(signal, "outcome"))
        weights = [Weights(process=w, format=0.0) for w in (0.0, 3.0)]
        ends = [made(table, signal=signal, weights=w)["chunk_ends"].to_pylist() for w in weights]
        assert ends[0] == ends[1]

    @QUICK
    @given(data=st.data())
    def test_twice_the_weights_are_twice_the_advantages(self, signal, data):
        table = data.draw(tables(signal, "outcome", "format", "ok"))
        once, twice = (
            token_advantages(made(table, signal=signal, weights=w)).flatten().to_numpy()
            for w in (Weights(), Weights(process=2.0, outcome=2.0, format=2.0))
        )
        assert twice == pytest.approx(2 * once, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("signal", SIGNALS)
class TestOrder:
    @QUICK
    @given(data=st.data())
    def test_the_order_of_groups_does_not_matter(self, estimator, signal, data):
        some = data.draw(groups(signal, least=2, most=4, sizes=USUAL))
        order = data.draw(st.permutations(range(len(some))))
        bounds = list(itertools.accumulate([len(some[g]) for g in order], initial=0))
        there = made(to_table(some), estimator=estimator, signal=signal)
        moved = made(to_table([some[g] for g in order]), estimator=estimator, signal=signal)
        parts = {g: moved.slice(bounds[i], bounds[i + 1] - bounds[i]) for i, g in enumerate(order)}
        assert pa.concat_tables(parts[g] for g in range(len(some))).combine_chunks().equals(there.combine_chunks())

    @QUICK
    @given(data=st.data())
    def test_the_order_of_rollouts_does_not_matter_but_for_rounding(self, estimator, signal, data):
        (group,) = data.draw(groups(signal, least=1, most=1, magnitudes=(*MODERATE, 1e6), sizes=USUAL))
        order = data.draw(st.permutations(range(len(group))))
        options = Options(estimator=estimator, signal=signal)
        size = max((row.size for row in shape_group(group, options)), default=0.0)
        assume(not options.fragile)  # a pool or a trace that hangs on the last bit of a sum
        config = to_config(options)
        there = token_advantages(shape(to_table([group]), config)).to_pylist()
        moved = token_advantages(shape(to_table([[group[i] for i in order]]), config)).to_pylist()
        for place, i in enumerate(order):
            assert moved[place] == pytest.approx(there[i], rel=1e-6, abs=1e-12 * size)


@pytest.mark.parametrize("signal", SIGNALS)
class TestOperators:
    SCORES = st.lists(st.integers(-64, 64), min_size=2, max_size=12)

    def credits(self, signal, scores, **options):
        table = credits_table([float(s) for s in scores])
        return made(table, signal=signal, chunk=False, weights=PROCESS_ONLY, **options)["chunk_credits"].to_pylist()[0]

    @QUICK
    @given(scores=SCORES, shift=st.integers(-1000, 1000))
    def test_masked_norm_and_mean_only_ignore_shift(self, signal, scores, shift):
        for operator in ("masked_norm", "mean_only"):
            before = self.credits(signal, scores, standardize=operator)
            after = self.credits(signal, [s + shift for s in scores], standardize=operator)
            assert after == pytest.approx(before, rel=1e-6, abs=1e-9)

    @QUICK
    @given(scores=SCORES, scale=st.sampled_from([2.0**-100, 0.25, 2.0, 1000.0, 2.0**100]))
    def test_masked_norm_without_eps_and_abs_max_ignore_scale(self, signal, scores, scale):
        for options in ({"standardize": "masked_norm", "std_eps": 0.0}, {"standardize": "abs_max"}):
            before = self.credits(signal, scores, **options)
            after = self.credits(signal, [s * scale for s in scores], **options)
            assert after == pytest.approx(before, rel=1e-6, abs=1e-9)

    @QUICK
    @given(scores=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=12))
    def test_abs_max_keeps_sign_and_zero_and_has_largest_1(self, signal, scores):
        credits = self.credits(signal, scores, standardize="abs_max")
        largest = max(map(abs, scores))
        for score, credit in zip(scores, credits, strict=True):
            assert abs(credit) <= 1.0
            if score == 0 or abs(score) > 1e-30 * largest:
                assert np.sign(credit) == np.sign(score)
        assert max(map(abs, credits)) == (1.0 if largest > 0 else 0.0)

    @QUICK
    @given(scores=SCORES)
    def test_masked_norm_has_mean_0_and_without_eps_deviation_1(self, signal, scores):
        credits = self.credits(signal, scores, std_eps=0.0)
        assert sum(credits) == pytest.approx(0.0, abs=1e-5)
        assert np.std(credits, ddof=1) == pytest.approx(1.0 if len(set(scores)) > 1 else 0.0, rel=1e-6)


def test_defaults_are_the_papers():
    assert ShapingConfig() == ShapingConfig(
        estimator="pass",
        signal="prm",
        standardize="masked_norm",
        weights=Weights(process=1.0, outcome=1.0, format=1.0),
        k=0.7,
        eta=1e-8,
        chunk=True,
        std_ddof=1,
        std_eps=1e-6,
    )
