"""The bounds that the oracle of streams computes with: exact arithmetic and other orders lie within them."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import bounded
import pytest
from bounded import ZERO, Bounded, Doubt, above, equal, same, total
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

SMALL = 2.0**-20
NUMBERS = st.one_of(
    st.floats(-1e6, 1e6, width=32),
    st.floats(-SMALL, SMALL, width=32),
    st.sampled_from((0.5, -0.5, 1.0, 0.1, -0.1, 3.0)),
)
LISTS = st.lists(NUMBERS, min_size=2, max_size=20)


def near(exact: Fraction, a: Bounded) -> bool:
    return abs(exact - Fraction(a.x)) <= Fraction(a.err)


@examples(200)
@given(values=LISTS, divisor=NUMBERS.filter(bool), shift=NUMBERS, seed=st.integers(0, 99))
def test_the_exact_value_and_every_other_order_lie_within_the_bound(values, divisor, shift, seed):
    def formula(order):
        return [(x - shift) * x / divisor for x in order]

    a = total((Bounded(x) - Bounded(shift)) * Bounded(x) / Bounded(divisor) for x in values)
    exact = [(Fraction(x) - Fraction(shift)) * Fraction(x) / Fraction(divisor) for x in values]
    assert near(sum(exact), a)
    shuffled = random.Random(seed).sample(values, len(values))
    assert near(Fraction(sum(formula(shuffled))), a)


@pytest.mark.parametrize(
    ("name", "function"), [("sqrt", math.sqrt), ("tanh", math.tanh), ("exp", lambda x: math.exp(-x))]
)
@examples(50)
@given(values=LISTS, seed=st.integers(0, 99))
def test_functions_keep_the_bound(name, function, values, seed):
    values = [abs(x) % 50 for x in values]
    a = total(map(Bounded, values))
    a = getattr(bounded, name)(-a if name == "exp" else a)
    shuffled = random.Random(seed).sample(values, len(values))
    assert near(Fraction(function(sum(shuffled))), a)


def test_sums_of_halves_are_exact_and_of_tenths_are_not():
    assert total(map(Bounded, (0.5, 1.0, -1.5))).err == 0
    assert 0 < total(map(Bounded, (0.1, 0.2, -0.3))).err < 1e-15
    assert total(map(Bounded, (2.0**60, 0.5))).err > 0


def test_equal_derivations_are_equal_and_close_ones_are_in_doubt():
    a, b, c = map(Bounded, (0.1, 0.2, 0.3))
    assert equal(total([a, b]), total([a, b]))
    assert not same(Bounded(-1.0), Bounded(-2.0))
    with pytest.raises(Doubt):
        equal(total([a, b]), c)
    with pytest.raises(Doubt):
        above(total([a, b]) - c, ZERO)
    with pytest.raises(Doubt):
        a / (total([a, b]) - c)
    assert above(c, b)
    assert not above(b, c)


def test_a_limit_takes_what_is_beyond_it():
    assert bounded.within(-1.0, Bounded(3.0), 1.0).x == 1.0
    assert bounded.within(-1.0, Bounded(-3.0), None).x == -1.0
    assert bounded.within(None, Bounded(-3.0), 1.0).x == -3.0
