"""Pooled sets and stored rows for `explain`'s arithmetic, in plain Python: of `pass_ops` only the options are used."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Protocol

from pass_ops import ShapingConfig

# Relative rounding granted to float64 arithmetic of another order, and to a value stored as float32.
ROUNDING, STORED_ROUNDING = 1e-11, 3e-7


class Row(Protocol):
    """What the arithmetic reads of a rollout: a `StoredRow`, or the same as arrays."""

    @property
    def mask(self) -> Sequence[int]:
        """Whether each token counts."""

    @property
    def scores(self) -> Sequence[float] | None:
        """The process signal."""

    @property
    def ends(self) -> Sequence[int] | None:
        """Where its steps end."""

    @property
    def outcome(self) -> float | None:
        """The outcome reward."""

    @property
    def format(self) -> float | None:
        """The format reward."""

    @property
    def ok(self) -> bool | None:
        """Whether the format is right."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedRow:
    """A rollout of a group in 9 bytes a token."""

    mask: bytes
    scores: array[float] | None
    ends: array[int] | None
    outcome: float | None
    format: float | None
    ok: bool | None


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


@dataclass(frozen=True, slots=True)
class Packed:
    """Numbers of one rollout as arrays: 8 bytes each, and 8 more where one of them has a rounding."""

    values: array[float]
    roundings: array[float] | None = None

    @staticmethod
    def of(numbers: Sequence[Number]) -> Packed:
        """Those numbers."""
        roundings = array("d", [x.rounding for x in numbers])
        return Packed(array("d", [x.value for x in numbers]), roundings if any(roundings) else None)

    @property
    def slack(self) -> float:
        """The largest rounding; 0 of none."""
        return max(self.roundings or (), default=0.0)

    def add(self, x: Number) -> None:
        """One more, where there are roundings."""
        self.values.append(x.value)
        assert self.roundings is not None
        self.roundings.append(x.rounding)

    def numbers(self) -> list[Number]:
        """Them again."""
        return list(map(Number, self.values, self.roundings or repeat(0.0)))


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

        def values() -> Iterator[float]:
            return chain.from_iterable(rows)

        size = sum(map(len, rows))
        mean = math.fsum(values()) / size if size else 0.0
        spread = math.fsum((x - mean) ** 2 for x in values())
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
            largest=max(map(abs, values()), default=0.0),
            constant=size < 2 or min(values()) == max(values()),
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
