"""Whether two expressions that math-verify read are the same, where the library's own comparison is too lenient.

It rounds differences absolutely, so that 5.63e-34 equals 6.63e-34. Here numbers are compared by their digits first, and
what the library calls equal is refused where its parts or its values at sample points differ. Needs sympy.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import sympy
from latex2sympy2_extended.sets import FiniteSet
from math_verify import LatexExtractionConfig, parse
from math_verify.grader import get_pct_val, is_assignment_relation, take_last_relation, verify
from sympy.core.evalf import PrecisionExhausted
from sympy.core.function import AppliedUndef

# It warns about switched-off limits and about every answer it cannot parse.
logging.getLogger("math_verify").setLevel(logging.CRITICAL)

_FORMULA = (LatexExtractionConfig(boxed_match_priority=-1),)
_DIGITS = 200  # digits to which exact numbers are evaluated; numbers that agree to more are told apart as fractions
_EQUAL_FLOATS = 1e-12  # relative; what is left of a product such as 6.02 x 10^23 in double precision
_SAMPLES = tuple(sympy.Rational(*pair) for pair in ((7, 5), (31, 17), (12, 11), (53, 29), (19, 8), (41, 30)))


def parsed(latex: str) -> Any:
    """The sympy object of an expression; None where the library cannot parse the whole of it."""
    found = parse(f"${latex}$", _FORMULA, parsing_timeout=None)
    return found[0] if found and not isinstance(found[0], str) else None


def same(expected: Any, found: Any, *, precision: int) -> bool:
    """Whether two sympy objects are equal; floats to `precision` decimals, and small ones to as many digits less 2."""
    verdict = same_number(expected, found, precision=precision)
    if verdict is not None:
        return verdict
    equal = verify(expected, found, float_rounding=precision, timeout_seconds=None)
    return bool(equal) and not differ(expected, found, precision=precision)


def same_number(a: Any, b: Any, *, precision: int) -> bool | None:
    """Whether two numbers are the same; None where one of them is none, or not a finite one."""
    if not (_is_number(a) and _is_number(b)):
        return None
    verdicts = [_same_value(x, y, precision=precision) for x in _values(a) for y in _values(b)]
    return None if None in verdicts else any(verdicts)


def differ(a: Any, b: Any, *, precision: int) -> bool:
    """Whether two expressions that were found equal are not, by their parts or at sample points."""
    a, b = _unwrapped(a), _unwrapped(b)
    verdict = same_number(a, b, precision=precision)
    if verdict is not None:
        return not verdict
    if (parts := _parts(a, b)) is not None:
        return any(differ(x, y, precision=precision) for x, y in parts)
    return any(same_number(x, y, precision=precision) is False for x, y in _samples(a, b))


def _is_number(x: Any) -> bool:
    return isinstance(x, sympy.Expr) and not x.free_symbols and not x.has(AppliedUndef, sympy.oo, sympy.zoo, sympy.nan)


def _values(x: Any) -> list[Any]:
    """The number; with a percent sign also the number before it, for 28% answers 28 as well as 0.28."""
    before = get_pct_val(x)
    return [x] if before is None else [before, before / sympy.Integer(100)]


def _same_value(a: Any, b: Any, *, precision: int) -> bool | None:
    if a.is_Rational and b.is_Rational:
        return bool(a == b)
    exact = not (a.has(sympy.Float) or b.has(sympy.Float))
    digits = _DIGITS if exact else 30
    try:
        # strict raises where no digit is certain: a zero in disguise, which the library recognises by its form
        x, y = a.evalf(digits, strict=exact), b.evalf(digits, strict=exact)
        scale, gap = max(abs(x).evalf(15), abs(y).evalf(15)), abs(x - y).evalf(15)
        if exact:
            return bool(gap <= scale * sympy.Float(10) ** (10 - digits))
        close = gap <= scale * 10.0 ** (2 - precision) and x.round(precision) == y.round(precision)
        return bool(close or gap <= scale * _EQUAL_FLOATS)
    except (TypeError, ValueError, ArithmeticError, PrecisionExhausted):
        return None


def _unwrapped(x: Any) -> Any:
    """The value of `x = 5`."""
    return take_last_relation(x).rhs if is_assignment_relation(x) else x


def _parts(a: Any, b: Any) -> list[tuple[Any, Any]] | None:
    """The parts of two containers, in pairs; None where there are none to pair."""
    if isinstance(a, sympy.Interval) and isinstance(b, sympy.Interval):
        return [(a.start, b.start), (a.end, b.end)]
    if isinstance(a, sympy.MatrixBase) and isinstance(b, sympy.MatrixBase):
        return list(zip(a.flat(), b.flat(), strict=True)) if a.shape == b.shape else None
    if all(isinstance(x, (sympy.FiniteSet, FiniteSet, sympy.Tuple, sympy.Interval)) for x in (a, b)):
        x, y = _members(a), _members(b)
        return list(zip(x, y, strict=True)) if x is not None and y is not None and len(x) == len(y) else None
    return None


def _members(x: Any) -> list[Any] | None:
    """The numbers of a container in order of size, for a set has none of its own; None where not all are real."""
    members = [_unwrapped(member) for member in ((x.start, x.end) if isinstance(x, sympy.Interval) else x.args)]
    if not all(_is_number(member) and member.evalf(15).is_real for member in members):
        return None
    return sorted(members, key=lambda member: member.evalf(30))


def _samples(a: Any, b: Any) -> Iterator[tuple[Any, Any]]:
    """The values of two expressions of the same symbols at two points, where they are finite there."""
    if not (isinstance(a, sympy.Expr) and isinstance(b, sympy.Expr)) or a.free_symbols != b.free_symbols:
        return
    symbols = sorted(a.free_symbols, key=str)
    for shift in (0, 1):
        at = {symbol: _SAMPLES[(index + shift) % len(_SAMPLES)] for index, symbol in enumerate(symbols)}
        yield a.subs(at), b.subs(at)
