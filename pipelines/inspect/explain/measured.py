"""A stream's pool and operator in plain Python (docs/spec/streams.md section 4), for `streams`."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from pass_ops import ShapingConfig
from pipelines.inspect.explain.pools import ROUNDING, Number, Packed

UNDECIDED = 1e100  # the rounding of what may be anything, since a mean may be 0


@dataclass(frozen=True, kw_only=True)
class StreamPool:
    """A set S that values are measured against, and N(x; S) = (x - center) / scale over it.

    stream: whose values they are ("" for the fused sum). pool: which of them, in words. rollouts: how many have one.
    mean, std (with the configured ddof) and largest (max |x|) are those of the set. center and scale are None for
    `rank`, which has neither; scale is None where the result is 0, and why says the reason.
    """

    stream: str
    pool: str
    operator: str
    rollouts: int
    size: int
    mean: float
    std: float
    largest: float
    center: float | None
    scale: float | None
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What operators read of a set. slack: how far a value may be from what another order of sums gives."""

    size: int
    rollouts: int
    mean: float
    rollout_mean: float
    deviations: float
    largest: float
    constant: bool
    slack: float = 0.0

    @staticmethod
    def of(rows: Sequence[Packed]) -> Facts:
        """Of a set's values, by rollout."""

        def values() -> Iterator[float]:
            return chain.from_iterable(row.values for row in rows)

        filled = [row.values for row in rows if row.values]
        size = sum(map(len, filled))
        mean = math.fsum(values()) / size if size else 0.0
        return Facts(
            size=size,
            rollouts=len(filled),
            mean=mean,
            rollout_mean=_mean([math.fsum(own) / len(own) for own in filled]),
            deviations=math.fsum((x - mean) ** 2 for x in values()),
            largest=max(map(abs, values()), default=0.0),
            constant=size < 2 or min(values()) == max(values()),
            slack=max((row.slack for row in rows), default=0.0),
        )

    @staticmethod
    def recorded(pool: Mapping[str, float]) -> Facts:
        """Of the whole dataset, as its first pass recorded them."""
        return Facts(
            size=int(pool["count"]),
            rollouts=int(pool["rollouts"]),
            mean=pool["mean"],
            rollout_mean=pool["rollout_mean"],
            deviations=pool["squares"],
            largest=pool["largest"],
            constant=pool["squares"] == 0.0,
        )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0


@dataclass(frozen=True, kw_only=True)
class Measure:
    """The pool for show, and x -> N(x; S)."""

    pool: StreamPool
    standardize: Callable[[Number], Number]


def unmeasured(x: Number) -> Number:
    """Operator `none`."""
    return x


def measure(
    operator: str, rows: Sequence[Packed], config: ShapingConfig, *, facts: Facts, stream: str, pool: str
) -> Measure:
    """N(x; S) of a set. facts: of its values, or as they were recorded; rows: the values by rollout, which ranks are
    looked up in.
    """
    std = math.sqrt(facts.deviations / (facts.size - config.std_ddof)) if facts.size > 1 else 0.0
    center: float | None
    scale: float | None
    standardize: Callable[[Number], Number]
    if operator == "none":
        center, scale, why, standardize = 0.0, 1.0, "", unmeasured
    elif operator == "rank":
        center, scale, why = None, None, "no value" if not facts.size else "one value" if facts.size < 2 else ""
        standardize = _ranking(rows, facts.slack)
    else:
        center, scale, why = _center_and_scale(operator, facts, std, config)
        standardize = _by(center, scale, facts, doubt=_doubt(operator, facts, std, config))
    shown = StreamPool(
        stream=stream,
        pool=pool,
        operator=operator,
        rollouts=facts.rollouts,
        size=facts.size,
        mean=facts.mean,
        std=std,
        largest=facts.largest,
        center=center,
        scale=scale,
        why=why,
    )
    return Measure(pool=shown, standardize=standardize)


def _center_and_scale(
    operator: str, facts: Facts, std: float, config: ShapingConfig
) -> tuple[float, float | None, str]:
    """center, scale (None: the result is 0) and why it is 0."""
    center, scale, why = facts.mean, 1.0, ""
    if not facts.size:
        center, why = 0.0, "no value"
    elif operator == "abs_max":
        center, scale, why = 0.0, facts.largest, "" if facts.largest else "all are 0"
    elif operator == "leave_one_out":
        n = facts.rollouts
        center, scale, why = facts.rollout_mean, (n - 1) / n, "" if n > 1 else "no other rollout"
    elif operator == "mean_normalized":
        scale, why = facts.mean, "" if facts.mean > _sum_rounding(facts) else "the mean is not above 0"
    elif operator == "masked_norm":
        scale = std + config.std_eps
        if facts.size < 2 or facts.constant or scale == 0.0:
            why = "one value" if facts.size < 2 else "all are equal"
    return center, None if why else scale, why


def _sum_rounding(facts: Facts) -> float:
    """A mean of at most this counts as 0 (section 4)."""
    return float(2.0**-52 * min(facts.size, 2**20) * facts.largest)


def _doubt(operator: str, facts: Facts, std: float, config: ShapingConfig) -> float:
    """The largest result that rounding alone may make of a 0, or a 0 of: 0 where it decides nothing."""
    if not facts.size or (facts.constant and not facts.slack):
        return 0.0
    near = 2.0 * facts.slack + ROUNDING * 1e-4 * facts.largest
    if operator == "abs_max" and 0.0 < facts.largest <= facts.slack:
        return 1.0
    if operator == "masked_norm" and facts.size > 1 and std <= near * math.sqrt(facts.size):
        # Equal to the last bits: the deviations are those bits, and at most sqrt(size) standard deviations.
        bits = near * facts.size
        return min(math.sqrt(facts.size), bits / config.std_eps) if config.std_eps else math.sqrt(facts.size)
    if operator == "mean_normalized":
        rounding = _sum_rounding(facts) + facts.slack
        if abs(facts.mean - _sum_rounding(facts)) <= 2.0 * rounding and facts.largest > 0.0:
            return UNDECIDED
    return 0.0


def _by(center: float, scale: float | None, facts: Facts, *, doubt: float) -> Callable[[Number], Number]:
    """The function x -> (x - center) / scale, with what rounding there is in x, in the center and in the scale."""

    def standardize(x: Number) -> Number:
        if scale is None:
            return Number(0.0, doubt * (1.0 + abs(x.value) / facts.largest) if facts.largest else doubt)
        value = (x.value - center) / scale
        inside = x.rounding + facts.slack + ROUNDING * (abs(x.value) + abs(center))
        return Number(value, inside / scale + abs(value) * 2.0 * facts.slack / scale + doubt)

    return standardize


def _ranking(rows: Sequence[Packed], slack: float) -> Callable[[Number], Number]:
    """The function x -> its middle rank, mapped to -1 .. 1; what is as near as rounding goes may lie on either side."""
    ordered = np.sort(np.concatenate([np.empty(0), *(row.values for row in rows)]))

    def standardize(x: Number) -> Number:
        if len(ordered) < 2:
            return Number(0.0)
        below, upto = bisect_left(ordered, x.value), bisect_right(ordered, x.value)
        middle = below + (upto - below + 1) / 2
        near = x.rounding + slack
        doubtful = 0
        if near:
            doubtful = bisect_right(ordered, x.value + near) - bisect_left(ordered, x.value - near) - 1
        rank = 2.0 * (middle - 1.0) / (len(ordered) - 1) - 1.0
        return Number(min(max(rank, -1.0), 1.0), 1e-15 + max(doubtful, 0) / (len(ordered) - 1) * 2.0)

    return standardize
