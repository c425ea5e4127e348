"""A stream's transforms in plain Python (docs/spec/streams.md section 3), for `streams`; each number with its rounding.

x_1 .. x_n are the live elements of one rollout; a rollout without any keeps none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pass_ops.options.streams import Transform
from pass_ops.streams.transforms import load_transform
from pipelines.inspect.explain.pools import Number

UNIT = 4e-16  # about two roundings of float64 in a row, relative to what enters


@dataclass(frozen=True, kw_only=True)
class About:
    """What transforms know of a rollout: the stream's level, its tokens that count, and the group's mean outcome."""

    level: str
    counting: int
    mean_outcome: float


def transformed(xs: Sequence[Number], transforms: Sequence[Any], about: About) -> list[Number]:
    """The values after all transforms, in order. Raises OptionError where a function cannot be imported."""
    found = list(xs)
    for one in transforms:
        found = _TRANSFORMS[one.name](found, one, about) if found else []
    return found


def sum_of(terms: Sequence[Number]) -> Number:
    """Their exact sum, and how far a sum in another order may be from it."""
    size = math.fsum(abs(x.value) for x in terms)
    return Number(math.fsum(x.value for x in terms), math.fsum(x.rounding for x in terms) + len(terms) * UNIT * size)


def _difference(xs: list[Number], one: Transform, about: About) -> list[Number]:
    if one.start == "first":
        before = xs[0]
    elif one.start == "outcome":
        before = Number(about.mean_outcome, 1e3 * UNIT * abs(about.mean_outcome))
    else:
        assert isinstance(one.start, float)
        before = Number(one.start)
    return [_less(x, last) for last, x in zip([before, *xs], xs, strict=False)]


def _less(x: Number, y: Number) -> Number:
    """The difference x - y; exactly 0 for one and the same number."""
    return Number(0.0) if x is y else sum_of([x, y.times(-1.0)])


def _min_form(xs: list[Number], one: Transform, about: About) -> list[Number]:  # noqa: ARG001
    """exp(-x / T) over its sum is the same for x - min(x), which does not overflow."""
    assert one.temperature is not None
    temperature, low = one.temperature, min(x.value for x in xs)
    exponents = [(x.value - low) / temperature for x in xs]
    parts = [math.exp(-exponent) for exponent in exponents]
    total = math.fsum(parts)
    # Of an exponent's error, the exponential's relative error; that of the sum is at most that of its worst term.
    entering = 2.0 * max(x.rounding for x in xs) / temperature
    errors = [entering + UNIT * (exponent + 2) for exponent in exponents]
    worst = math.fsum(part * error for part, error in zip(parts, errors, strict=True)) / total + len(xs) * UNIT
    return [
        Number(x.value * part / total, part / total * (x.rounding + abs(x.value) * math.expm1(min(error + worst, 1.0))))
        for x, part, error in zip(xs, parts, errors, strict=True)
    ]


def _clip(xs: list[Number], one: Transform, about: About) -> list[Number]:  # noqa: ARG001
    low = -math.inf if one.low is None else one.low
    high = math.inf if one.high is None else one.high
    return [Number(min(max(x.value, low), high), x.rounding) for x in xs]


def _compress(xs: list[Number], one: Transform, about: About) -> list[Number]:  # noqa: ARG001
    assert one.scale is not None
    found = [(x, one.scale * math.tanh(x.value / one.scale)) for x in xs]
    return [Number(y, x.rounding + 4 * UNIT * abs(y)) for x, y in found]


def _sparsify(xs: list[Number], one: Transform, about: About) -> list[Number]:  # noqa: ARG001
    """The m largest sizes stay, and all that equal the least of them, m = 1 + floor(keep * (n - 1))."""
    assert one.keep is not None
    ordered = sorted(xs, key=lambda x: -abs(x.value))
    least = ordered[math.floor(round(one.keep * (len(xs) - 1), 9))]
    near = [x for x in xs if abs(abs(x.value) - abs(least.value)) <= x.rounding + least.rounding]
    doubt = len(near) > 1 and any(x.rounding for x in near)  # which of them is the least is up to rounding
    found = []
    for x in xs:
        kept = abs(x.value) >= abs(least.value)
        slack = abs(x.value) if doubt and any(x is other for other in near) else 0.0
        found.append(Number(x.value if kept else 0.0, slack + (x.rounding if kept else 0.0)))
    return found


def _return_to_go(xs: list[Number], one: Transform, about: About) -> list[Number]:  # noqa: ARG001
    assert one.discount is not None
    found: list[Number] = []
    rest, size = Number(0.0), 0.0
    for x in reversed(xs):
        size = abs(x.value) + one.discount * size
        value = x.value + one.discount * rest.value
        own = 0.0 if not found and not x.rounding else UNIT * size
        rest = Number(value, x.rounding + one.discount * rest.rounding + own)
        found.append(rest)
    return found[::-1]


def _length_normalization(xs: list[Number], one: Transform, about: About) -> list[Number]:
    assert one.power is not None
    count = about.counting if about.level == "rollout" else len(xs)
    divisor = max(count, 1) ** one.power
    return [Number(x.value / divisor, (x.rounding + 4 * UNIT * abs(x.value) * (divisor != 1.0)) / divisor) for x in xs]


def _function(xs: list[Number], one: Transform, about: About) -> list[Number]:  # noqa: ARG001
    """The user's function; how it passes rounding on is tried out, since nobody knows it."""
    assert one.path is not None
    function = load_transform(one.path)
    values, slack = np.array([x.value for x in xs]), np.array([x.rounding for x in xs])

    def asked(given: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.asarray(function(given), dtype=np.float64)

    found = asked(values.copy())
    if not slack.any():
        return [Number(float(y)) for y in found]
    moved = np.maximum(abs(asked(values + slack) - found), abs(asked(values - slack) - found))
    moved += 4.0 * slack.max() + UNIT * abs(found)
    return [Number(float(y), float(error)) for y, error in zip(found, moved, strict=True)]


_TRANSFORMS: dict[str, Callable[[list[Number], Transform, About], list[Number]]] = {
    "difference": _difference,
    "min_form": _min_form,
    "clip": _clip,
    "compress": _compress,
    "sparsify": _sparsify,
    "return_to_go": _return_to_go,
    "length_normalization": _length_normalization,
    "function": _function,
}


def shown(transforms: Sequence[Any]) -> str:
    """The transforms in words: their names with what is not at its default; a function by its path."""
    return ", ".join(map(_shown, transforms))


def _shown(one: Transform) -> str:
    options = {name: value for name, value in one.plain().items() if name != "name"}
    if one.name == "function":
        return f"function {options['path']}"
    listed = ", ".join(f"{name} {value if isinstance(value, str) else f'{value:g}'}" for name, value in options.items())
    return f"{one.name} ({listed})" if listed else one.name
