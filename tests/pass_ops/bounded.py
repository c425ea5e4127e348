"""Float64 numbers that know how far another order of the same arithmetic may be from them.

The slow oracle of streams computes with these instead of floats. A `Bounded` is a value `x`, a bound `err` (the same
formula in float64, evaluated in whatever order, lies within x - err .. x + err) and a `key`: two numbers of equal keys
came from equal inputs by the same formula, so an implementation has the same bits for both. Sums whose every order is
exact (small integers, halves, most rewards) have err 0.

Where a decision (is x above y, are they equal) hangs on less than the bounds, `Doubt` is raised: the definition then
does not say what float64 must do, and the group cannot be compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

U = 2.0**-53  # half a unit in the last place of 1.0
TINY = 5e-324


class Doubt(Exception):
    """A result hangs on the last bits of a sum."""


class Bounded:
    __slots__ = ("err", "key", "x")

    def __init__(self, x: float, err: float = 0.0, key: object = None) -> None:
        if not (math.isfinite(x) and math.isfinite(err)):
            raise Doubt(f"{x} +- {err}")
        self.x = x
        self.err = err
        self.key = hash((key, "not exact")) if err else hash((x + 0.0).hex())  # hash(-1.0) is hash(-2.0)

    def __repr__(self) -> str:
        return f"{self.x!r} +- {self.err:.1g}"

    def __add__(self, other: Bounded) -> Bounded:
        return total([self, other])

    def __sub__(self, other: Bounded) -> Bounded:
        if same(self, other):
            return ZERO
        return total([self, -other])

    def __neg__(self) -> Bounded:
        return Bounded(-self.x, self.err, ("-", self.key))

    def __abs__(self) -> Bounded:
        return self if self.x >= 0 else -self

    def __mul__(self, other: Bounded) -> Bounded:
        if is_zero(self) or is_zero(other):
            return ZERO
        x = self.x * other.x
        err = abs(self.x) * other.err + abs(other.x) * self.err + self.err * other.err
        return Bounded(x, err + _rounding(x, self, other), ("*", self.key, other.key))

    def __truediv__(self, other: Bounded) -> Bounded:
        if is_zero(self):
            return ZERO
        if abs(other.x) <= 2 * other.err:
            raise Doubt(f"{self} / {other}")
        x = self.x / other.x
        err = (self.err + abs(x) * other.err) / (abs(other.x) - other.err)
        return Bounded(x, err + _rounding(x, self, other), ("/", self.key, other.key))


def _rounding(x: float, a: Bounded, b: Bounded) -> float:
    """Of a product or quotient; exact if the second factor is a power of 2, as most weights are."""
    if a.err == b.err == 0 and abs(x) > 1e-290 and (math.frexp(b.x)[0] in (0.5, -0.5)):
        return 0.0
    return 4 * U * abs(x) + TINY


ZERO = Bounded(0.0)


def is_zero(a: Bounded) -> bool:
    """Whether it is exactly 0."""
    return a.x == 0 and a.err == 0


def same(a: Bounded, b: Bounded) -> bool:
    """Whether an implementation must have equal bits for both."""
    return a.key == b.key


def equal(a: Bounded, b: Bounded) -> bool:
    """Whether a = b; they are not where neither could be the other's rounding."""
    if same(a, b):
        return True
    if abs(a.x - b.x) <= a.err + b.err:
        raise Doubt(f"{a} = {b}?")
    return False


def all_equal(terms: Sequence[Bounded]) -> bool:
    first = terms[0]
    return all(abs(a.x - first.x) <= a.err + first.err for a in terms) and all(equal(a, first) for a in terms)


def above(a: Bounded, b: Bounded) -> bool:
    return not equal(a, b) and a.x > b.x


def total(terms: Iterable[Bounded]) -> Bounded:
    """The sum of the terms; zeros change nothing."""
    terms = [a for a in terms if not is_zero(a)]
    if len(terms) < 2:
        return terms[0] if terms else ZERO
    values = [a.x for a in terms]
    entered = math.fsum(abs(x) for x in values)
    err = math.fsum(a.err for a in terms)
    if err or not _exact_in_any_order(values, entered):
        err += (len(terms) + 2) * U * entered + TINY
    return Bounded(math.fsum(values), err, ("+", *(a.key for a in terms)))


def _exact_in_any_order(values: Sequence[float], entered: float) -> bool:
    """Every partial sum is a multiple of the lowest bit that is set in a value, and below 2^53 of them."""
    return entered < min(_lowest_bit(x) for x in values) * 2.0**53


def _lowest_bit(x: float) -> float:
    mantissa, exponent = math.frexp(x)
    whole = int(mantissa * 2**53)
    return math.ldexp((whole & -whole) or 1, exponent - 53) if x else math.inf


def mean(terms: Sequence[Bounded]) -> Bounded:
    return total(terms) / Bounded(float(len(terms)))


def sqrt(a: Bounded) -> Bounded:
    if is_zero(a):
        return ZERO
    x = math.sqrt(max(a.x, 0.0))
    err = math.sqrt(a.err) if a.x <= 2 * a.err else a.err / x
    return Bounded(x, err + 2 * U * x, ("sqrt", a.key))


def exp(a: Bounded) -> Bounded:
    """e^a for a <= 0."""
    x = math.exp(a.x)
    return Bounded(x, x * math.expm1(min(a.err, 1.0)) + 4 * U * x + TINY, ("exp", a.key)) if a.x or a.err else ONE


def tanh(a: Bounded) -> Bounded:
    if is_zero(a):
        return ZERO
    x = math.tanh(a.x)
    return Bounded(x, min(a.err, 2.0) + 4 * U * abs(x) + TINY, ("tanh", a.key))


ONE = Bounded(1.0)


def power(base: int, exponent: float) -> Bounded:
    """base^exponent for base of at least 1."""
    x = float(base) ** exponent
    exact = exponent in (0.0, 1.0) or base == 1
    return Bounded(x, 0.0 if exact else 8 * U * x, ("power", base, exponent))


def largest(terms: Sequence[Bounded]) -> Bounded:
    top = max(terms, key=lambda a: a.x)
    return Bounded(top.x, max(a.err for a in terms), ("largest", *sorted(a.key for a in terms)))


def within(low: float | None, a: Bounded, high: float | None) -> Bounded:
    """min(max(a, low), high)"""
    for bound, beyond in ((low, low is not None and a.x < low), (high, high is not None and a.x > high)):
        if beyond:
            assert bound is not None
            # A value that rounding could put on the other side of the bound differs from it by less than its err.
            return Bounded(bound, a.err if abs(a.x - bound) <= a.err else 0.0, ("within", low, a.key, high))
    return a
