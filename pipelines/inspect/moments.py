"""Means, spreads and slopes of values that arrive part by part: memory does not grow with the data.

Moments are kept centred and merged by the pairwise update of Chan, Golub and LeVeque (1979), so that a large mean does
not eat the spread.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Pairs:
    """Pairs (x, y) seen so far: their number, means and centred second moments. Empty by default.

    mean_x, mean_y: means; xx = sum (x - mean_x)^2; yy and xy likewise.
    """

    count: int = 0
    mean_x: float = 0.0
    mean_y: float = 0.0
    xx: float = 0.0
    yy: float = 0.0
    xy: float = 0.0

    @staticmethod
    def of(x_N: NDArray[Any], y_N: NDArray[Any]) -> Pairs:
        """The pairs of two arrays of one length."""
        if len(x_N) == 0:
            return Pairs()
        x, y = np.asarray(x_N, np.float64), np.asarray(y_N, np.float64)
        mean_x, mean_y = float(x.mean()), float(y.mean())
        dx, dy = x - mean_x, y - mean_y
        return Pairs(len(x), mean_x, mean_y, float(dx @ dx), float(dy @ dy), float(dx @ dy))

    def __add__(self, other: Pairs) -> Pairs:
        if self.count == 0 or other.count == 0:
            return other if self.count == 0 else self
        count = self.count + other.count
        dx, dy = other.mean_x - self.mean_x, other.mean_y - self.mean_y
        share = other.count / count
        between = self.count * share
        return Pairs(
            count,
            self.mean_x + dx * share,
            self.mean_y + dy * share,
            self.xx + other.xx + dx * dx * between,
            self.yy + other.yy + dy * dy * between,
            self.xy + other.xy + dx * dy * between,
        )

    @property
    def correlation(self) -> float | None:
        """Pearson's r; None where one side does not vary."""
        if self.xx <= 0.0 or self.yy <= 0.0:
            return None
        return max(-1.0, min(1.0, self.xy / (math.sqrt(self.xx) * math.sqrt(self.yy))))

    @property
    def slope(self) -> float | None:
        """Least squares dy/dx; None where x does not vary."""
        return self.xy / self.xx if self.xx > 0.0 else None

    @property
    def slope_error(self) -> float | None:
        """Standard error of the slope; None with fewer than three pairs, or where x does not vary."""
        if self.count < 3 or self.xx <= 0.0:
            return None
        residual = max(self.yy - self.xy * self.xy / self.xx, 0.0)
        return math.sqrt(residual / (self.count - 2) / self.xx)


@dataclass(frozen=True)
class Moments:
    """Single values seen so far: a `Pairs` that looks at one side."""

    pairs: Pairs = Pairs()

    @staticmethod
    def of(x_N: NDArray[Any]) -> Moments:
        """The values of one array."""
        return Moments(Pairs.of(x_N, x_N))

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.pairs + other.pairs)

    @property
    def count(self) -> int:
        """How many."""
        return self.pairs.count

    @property
    def mean(self) -> float | None:
        """Their mean; None of none."""
        return self.pairs.mean_x if self.pairs.count else None

    @property
    def std(self) -> float | None:
        """Their population standard deviation; None of none."""
        return math.sqrt(self.pairs.xx / self.pairs.count) if self.pairs.count else None


def centred(x_R: NDArray[Any], group_R: NDArray[np.int64]) -> NDArray[np.float64]:
    """Values minus their group's mean: what is left compares rollouts of one prompt. group_R: group numbers from 0."""
    counts_G = np.bincount(group_R)
    sums_G = np.bincount(group_R, weights=np.asarray(x_R, np.float64))
    out_R: NDArray[np.float64] = x_R - (sums_G / np.maximum(counts_G, 1))[group_R]
    return out_R
