"""Whole groups drawn from a dataset while it is read part by part, with their signals beside them."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from pass_ops.reading.groups import group_bounds

ROLLOUTS = ""


@dataclass
class GroupSample:
    """A uniform sample of at most `size` groups; which ones depends on the seed and on the order of the groups alone.

    Every group gets a random number, and those with the smallest stay.
    """

    size: int
    seed: int = 0
    _kept: list[tuple[float, int, dict[str, pa.Table]]] = field(default_factory=list)
    _seen: int = 0

    def __post_init__(self) -> None:
        self._generator = np.random.default_rng(self.seed)

    def add(self, rollouts: pa.Table, signals: Mapping[str, pa.Table]) -> None:
        """A part: its rollouts, and its signals row for row beside them."""
        bounds_G1 = group_bounds(rollouts["group_id"])
        tables = {ROLLOUTS: rollouts, **signals}
        for first, last in zip(bounds_G1[:-1].tolist(), bounds_G1[1:].tolist(), strict=True):
            number, self._seen = float(self._generator.random()), self._seen + 1
            if len(self._kept) == self.size and number >= -self._kept[0][0]:
                continue
            # Copied by take, so that a slice does not hold its whole part in memory.
            rows = pa.array(range(first, last))
            group = (-number, self._seen, {name: table.take(rows) for name, table in tables.items()})
            (heapq.heappush if len(self._kept) < self.size else heapq.heapreplace)(self._kept, group)

    def tables(self) -> tuple[pa.Table, dict[str, pa.Table]] | None:
        """Rollouts and signals of the groups drawn, in the order in which they came; None before any did."""
        groups = [group for _, _, group in sorted(self._kept, key=lambda kept: kept[1])]
        if not groups:
            return None
        joined = {name: pa.concat_tables([group[name] for group in groups]).combine_chunks() for name in groups[0]}
        return joined.pop(ROLLOUTS), joined
