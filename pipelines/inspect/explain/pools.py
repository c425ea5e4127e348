"""Pooled sets and stored rows for `explain`'s arithmetic, in plain Python: of `pass_ops` only the options are used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pass_ops import ShapingConfig

# Relative rounding granted to float64 arithmetic of another order, and to a value stored as float32.
ROUNDING, STORED_ROUNDING = 1e-11, 3e-7


@dataclass(frozen=True, kw_only=True)
class StoredRow:
    """A rollout as it is stored: loss mask, raw streams (None: could not be computed), why they are missing."""

    rollout_id: str
    mask: tuple[bool, ...]
    scores: tuple[float, ...] | None = None
    ends: tuple[int, ...] | None = None
    outcome: float | None = None
    format: float | None = None
    ok: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which of the optional columns the table has."""

    format_reward: bool = True
    format_ok: bool = True


@dataclass(frozen=True)
class Number:
    """A value and how far another order of the same sums may be from it."""

    value: float
    rounding: float = 0.0

    def __add__(self, other: Number) -> Number:
        return Number(self.value + other.value, self.rounding + other.rounding)

    def times(self, factor: float) -> Number:
        return Number(factor * self.value, abs(factor) * self.rounding)


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A pooled set S of one group and N(x; S) over it.

    mean, std (with the configured ddof) and largest (max |x|) are those of the set; constant: all its values are equal.
    rollouts: how many have a value in it. For leave_one_out, mean is that of the rollouts' means.
    """

    name: str
    operator: str
    rollouts: int
    size: int
    mean: float
    std: float
    largest: float
    constant: bool
    eps: float

    @staticmethod
    def of(name: str, rows: Sequence[Sequence[float]], operator: str, config: ShapingConfig) -> Pool:
        """The pool of some rollouts' values, one sequence for each."""
        values = [x for row in rows for x in row]
        size = len(values)
        mean = math.fsum(values) / size if size else 0.0
        spread = math.fsum((x - mean) ** 2 for x in values)
        means = [math.fsum(row) / len(row) for row in rows if row]
        if operator == "leave_one_out" and means:
            mean = math.fsum(means) / len(means)
        return Pool(
            name=name,
            operator=operator,
            rollouts=len(means),
            size=size,
            mean=mean,
            std=math.sqrt(spread / (size - config.std_ddof)) if size > 1 else 0.0,
            largest=max((abs(x) for x in values), default=0.0),
            constant=size < 2 or min(values) == max(values),
            eps=config.std_eps,
        )

    def standardize(self, x: float) -> Number:
        """N(x; S)."""
        if self.operator == "none":
            return Number(x)
        if self.operator == "mean_only":
            return self._divided(x, 1.0)
        if self.operator == "leave_one_out":
            return self._divided(x, (self.rollouts - 1) / self.rollouts) if self.rollouts > 1 else Number(0.0)
        if self.operator == "abs_max":
            return Number(x / self.largest, ROUNDING * abs(x / self.largest)) if self.largest else Number(0.0)
        if self.constant or self.std + self.eps == 0.0:
            return Number(0.0, 1e-4 * ROUNDING * abs(x) / self.eps if self.eps else 0.0)
        return self._divided(x, self.std + self.eps)

    def _divided(self, x: float, scale: float) -> Number:
        return Number((x - self.mean) / scale, ROUNDING * (abs(x) + abs(self.mean)) / scale)
