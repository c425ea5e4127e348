"""OPD and G-OPD: process signals from log-probabilities."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pass_ops import errors, g_opd_scores, opd_scores

LOGPROBS = st.lists(st.lists(st.floats(-64, 0, width=32), max_size=6), max_size=6)


def lists(values, kind=None):
    return pa.array(values, kind or pa.list_(pa.float32()))


def test_opd_is_teacher_less_policy():
    policy, teacher = lists([[-1.0, -2.0], [-0.5]]), lists([[-0.25, -3.0], [-0.5]])
    assert opd_scores(policy=policy, teacher=teacher).to_pylist() == [[0.75, -1.0], [0.0]]


def test_g_opd_extrapolates_beyond_the_teacher():
    # -[(-2 - -3) - 1.25 * (-1 - -3)] = -[1 - 2.5] = 1.5
    policy, base, teacher = lists([[-2.0]]), lists([[-3.0]]), lists([[-1.0]])
    assert g_opd_scores(policy=policy, base=base, teacher=teacher).to_pylist() == [[1.5]]
    # lambda 2: -[1 - 4] = 3; lambda 0: the negated log-ratio to the base, -1
    assert g_opd_scores(policy=policy, base=base, teacher=teacher, lam=2.0).to_pylist() == [[3.0]]
    assert g_opd_scores(policy=policy, base=base, teacher=teacher, lam=0).to_pylist() == [[-1.0]]


@settings(max_examples=100, deadline=None)
@given(values=LOGPROBS, seed=st.integers(0, 2**32 - 1))
def test_g_opd_with_lambda_1_has_the_bits_of_opd_whatever_the_base(values, seed):
    rng = np.random.default_rng(seed)
    policy = lists(values)
    teacher, base = (
        lists([[float(np.float32(-x)) for x in rng.exponential(size=len(v))] for v in values]) for _ in "tb"
    )
    assert g_opd_scores(policy=policy, base=base, teacher=teacher, lam=1.0).equals(
        opd_scores(policy=policy, teacher=teacher)
    )


@settings(max_examples=100, deadline=None)
@given(values=LOGPROBS, lam=st.floats(0, 4), seed=st.integers(0, 2**32 - 1))
def test_g_opd_is_equation_5(values, lam, seed):
    rng = np.random.default_rng(seed)
    teacher, base = ([[float(np.float32(-x)) for x in rng.exponential(size=len(v))] for v in values] for _ in "tb")
    scores = g_opd_scores(policy=lists(values), base=lists(base), teacher=lists(teacher), lam=lam).to_pylist()
    for p_row, b_row, t_row, row in zip(values, base, teacher, scores, strict=True):
        expected = [-((p - b) - lam * (t - b)) for p, b, t in zip(p_row, b_row, t_row, strict=True)]
        assert row == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_a_null_on_either_side_gives_null():
    policy, teacher = lists([[-1.0], None, [-3.0, -4.0], None]), lists([None, [-2.0], [-3.0, -2.0], None])
    assert opd_scores(policy=policy, teacher=teacher).to_pylist() == [None, None, [0.0, 2.0], None]


def test_lengths_of_null_rows_do_not_matter():
    policy = pa.ListArray.from_arrays(pa.array([0, 3, 4], pa.int32()), pa.array([-1.0, None, -1.0, -2.0], pa.float32()))
    hidden = pa.ListArray.from_arrays(policy.offsets, policy.values, mask=pa.array([True, False]))
    assert opd_scores(policy=hidden, teacher=lists([[], [-1.0]])).to_pylist() == [None, [1.0]]


def test_slices_and_chunks_are_read_as_they_are():
    policy, teacher = lists([[-9.0], [-1.0, -2.0], [], [-4.0]]), lists([[-1.0, -1.0], [], [-3.0], [-9.0]])
    chunked = pa.chunked_array([policy.slice(1, 1), policy.slice(2)])
    assert opd_scores(policy=chunked, teacher=teacher.slice(0, 3)).to_pylist() == [[0.0, 1.0], [], [1.0]]


def test_no_rows():
    assert opd_scores(policy=lists([]), teacher=lists([])).to_pylist() == []


def test_other_widths_are_cast_where_nothing_is_lost():
    wide = lists([[-1.5]], pa.large_list(pa.float64()))
    scores = opd_scores(policy=wide, teacher=lists([[-0.5]]))
    assert scores.type == pa.list_(pa.float32())
    assert scores.to_pylist() == [[1.0]]


BAD = {
    "rows differ": (
        {"policy": lists([[-1.0]]), "teacher": lists([])},
        errors.LengthMismatchError,
        "policy has 1 rows and teacher 0; give one list per rollout, in the same order",
    ),
    "lengths differ": (
        {"policy": lists([[-1.0], [-1.0]]), "teacher": lists([[-1.0], [-1.0, -2.0]])},
        errors.LengthMismatchError,
        "row 1: policy has 1 values and teacher 2; give one log-probability for each completion token",
    ),
    "null inside": (
        {"policy": lists([[-1.0], [-1.0, None]]), "teacher": lists([[-1.0], [-1.0, -1.0]])},
        errors.NullValueError,
        "row 1: policy holds a null inside its list; store 0.0 at masked tokens, or make the whole list null",
    ),
    "minus infinity": (
        {"policy": lists([[-1.0], [-1.0, -2.0]]), "teacher": lists([[-1.0], [-1.0, float("-inf")]])},
        errors.NonFiniteError,
        "row 1: teacher is not finite (-inf) at token 1; store 0.0 at masked tokens, and make the whole list null "
        "where a log-probability could not be computed",
    ),
    "nan after a null row": (
        {"policy": lists([None, [float("nan")]]), "teacher": lists([[-1.0], [-1.0]])},
        errors.NonFiniteError,
        "row 1: policy is not finite (nan) at token 0; store 0.0 at masked tokens, and make the whole list null where "
        "a log-probability could not be computed",
    ),
    "beyond float32": (
        {"policy": lists([[-3e38]]), "teacher": lists([[3e38]])},
        errors.OutputOverflowError,
        "row 0: the score is beyond float32 (inf) at token 0; store 0.0 at masked tokens, and make the whole list null "
        "where a log-probability could not be computed",
    ),
    "a float64 beyond float32": (
        {"policy": lists([[-0.1, -1e39]], pa.list_(pa.float64())), "teacher": lists([[-1.0, -1.0]])},
        errors.ColumnTypeError,
        "row 0: column 'policy' is list<float64>, expected list<float32>, and -1e+39 would become -inf; scale it down",
    ),
    "not an array": (
        {"policy": [[-1.0]], "teacher": lists([[-1.0]])},
        errors.ColumnTypeError,
        "policy is list, expected an Arrow list<float32> array (pyarrow, polars, pandas); pass table['logprobs'], say",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case):
    inputs, error, message = BAD[case]
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        opd_scores(**inputs)


@pytest.mark.parametrize("lam", [float("nan"), float("inf"), "1.25", True, None])
def test_lambda_is_a_finite_number(lam):
    message = re.escape(f"option lam: expected a finite number, got {lam!r}; the paper uses 1.25")
    with pytest.raises(errors.OptionError, match=f"^{message}$"):
        g_opd_scores(policy=lists([]), base=lists([]), teacher=lists([]), lam=lam)
