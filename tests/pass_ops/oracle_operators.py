"""Sections 3 and 4 of docs/spec/streams.md, the transforms and the operators, for the oracle of streams."""

from __future__ import annotations

import math
from dataclasses import dataclass

import bounded
from bounded import ONE, ZERO, Bounded, above, equal, mean, total

Transform = tuple[str, dict]  # its name and its options


# --- 3. transforms ------------------------------------------------------------------------------------------------


@dataclass
class Rollout:
    """What transforms know of a used rollout."""

    level: str  # of the stream's signal
    unmasked: int
    outcomes: list[float] | None  # of the group: the raw values of `right`


def transformed(xs: list[Bounded], chain: tuple[Transform, ...], rollout: Rollout) -> list[Bounded]:
    for name, options in chain:
        xs = TRANSFORMS[name](xs, rollout, **options)
    return xs


def difference(xs: list[Bounded], rollout: Rollout, start: float | str = 0.0) -> list[Bounded]:
    if not xs:
        return []
    if start == "first":
        b = xs[0]
    elif start == "outcome":
        assert rollout.outcomes is not None
        b = mean([Bounded(x) for x in rollout.outcomes])
    else:
        b = Bounded(float(start))
    return [x - before for before, x in zip([b, *xs], xs, strict=False)]


def min_form(xs: list[Bounded], _: Rollout, temperature: float = 0.1) -> list[Bounded]:
    if not xs:
        return []
    # exp(-x/T) over its sum is the same for x - min(x), and that does not overflow.
    low = min(xs, key=lambda x: x.x)
    parts = [bounded.exp((low - x) / Bounded(temperature)) for x in xs]
    whole = total(parts)
    return [x * (part / whole) for x, part in zip(xs, parts, strict=True)]


def clip(xs: list[Bounded], _: Rollout, low: float | None = None, high: float | None = None) -> list[Bounded]:
    return [bounded.within(low, x, high) for x in xs]


def compress(xs: list[Bounded], _: Rollout, scale: float = 1.0) -> list[Bounded]:
    return [Bounded(scale) * bounded.tanh(x / Bounded(scale)) for x in xs]


def sparsify(xs: list[Bounded], _: Rollout, keep: float) -> list[Bounded]:
    """The quantile lies between two of abs(x), or at one, of which there are 1 + floor(keep * (n - 1)) from the top."""
    if not xs:
        return []
    from_above = sorted((abs(x) for x in xs), key=lambda x: -x.x)
    least = from_above[math.floor(round(keep * (len(xs) - 1), 9))]
    return [ZERO if above(least, abs(x)) else x for x in xs]


def return_to_go(xs: list[Bounded], _: Rollout, discount: float = 1.0) -> list[Bounded]:
    ys: list[Bounded] = []
    rest = ZERO
    for x in reversed(xs):
        rest = x + Bounded(discount) * rest
        ys.append(rest)
    # Whether summed from the back or as differences of sums from the front.
    entered = math.fsum(abs(x.x) for x in xs) if discount == 1 and any(y.err for y in ys) else 0.0
    slack = len(xs) * bounded.U * entered
    return [Bounded(y.x, y.err + slack, y.key) if y.err or slack else y for y in reversed(ys)]


def length_normalization(xs: list[Bounded], rollout: Rollout, power: float = 1.0) -> list[Bounded]:
    n = rollout.unmasked if rollout.level == "rollout" else len(xs)
    return [x / bounded.power(n, power) for x in xs] if n else xs


def function(xs: list[Bounded], _: Rollout, path: str) -> list[Bounded]:
    return FUNCTIONS[path](xs)


FUNCTIONS = {
    "stream_functions:folded": lambda xs: [x if x.x >= 0 else Bounded(-0.5) * x for x in xs],
    "stream_functions:from_the_last": lambda xs: [x - xs[-1] for x in xs],
}

TRANSFORMS = {
    "difference": difference,
    "min_form": min_form,
    "clip": clip,
    "compress": compress,
    "sparsify": sparsify,
    "return_to_go": return_to_go,
    "length_normalization": length_normalization,
    "function": function,
}


# --- 4. operator and pool -----------------------------------------------------------------------------------------


def operator_of(operator: str, pool: list[list[Bounded]], ddof: int, eps: float):
    """The function x -> N(x; S), so that S is summed once."""
    S = [x for row in pool for x in row]
    if operator == "none":
        return lambda x: x
    if not S:
        return lambda x: ZERO
    if operator == "mean_only":
        m = mean(S)
        return lambda x: x - m
    if operator == "masked_norm":
        return masked_norm(S, ddof, eps)
    if operator == "abs_max":
        top = bounded.largest([abs(x) for x in S])
        return lambda x: ZERO if equal(top, ZERO) else x / top
    if operator == "leave_one_out":
        means = [mean(row) for row in pool if row]
        n = len(means)
        m = mean(means)
        return lambda x: ZERO if n < 2 else Bounded(float(n)) / Bounded(float(n - 1)) * (x - m)
    if operator == "mean_normalized":
        m = mean(S)
        return (lambda x: (x - m) / m) if above(m, ZERO) else (lambda x: ZERO)
    assert operator == "rank"
    return lambda x: rank(x, S)


def masked_norm(S: list[Bounded], ddof: int, eps: float):
    if len(S) == 1 or bounded.all_equal(S):
        return lambda x: ZERO
    m = mean(S)
    squares = [(x - m) * (x - m) for x in S]
    std = bounded.sqrt(total(squares) / Bounded(float(len(S) - ddof)))
    return lambda x: (x - m) / (std + Bounded(eps))


def rank(x: Bounded, S: list[Bounded]) -> Bounded:
    if len(S) == 1:
        return ZERO
    below = sum(above(x, s) for s in S)
    level = sum(equal(x, s) for s in S)
    c = below + (level + 1) / 2
    return bounded.within(-1.0, Bounded(2 * (c - 1)) / Bounded(float(len(S) - 1)) - ONE, 1.0)
