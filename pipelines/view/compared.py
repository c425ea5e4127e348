"""Each further setting against the first, over the tokens in the file that are read under both."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipelines.inspect.moments import Moments, Pairs
from pipelines.view.groups import flipped
from pipelines.view.rows import Group


@dataclass
class Comparison:
    """Sums of one setting's advantages against the first one's, filled group by group."""

    setting: int
    flips: int = 0
    largest: float = 0.0
    pairs: Pairs = field(default_factory=Pairs)
    differences: Moments = field(default_factory=Moments)

    def add(self, group: Group) -> None:
        """One group."""
        first, other = group.shaped[0], group.shaped[self.setting]
        both_N = first.learnt_N(group) & other.learnt_N(group)
        theirs, ours = (one.advantage_N[both_N].astype(np.float64) for one in (first, other))
        self.flips += int(flipped(group, first, other).sum())
        self.largest = max(self.largest, float(np.abs(ours - theirs).max(initial=0.0)))
        self.pairs += Pairs.of(theirs, ours)
        self.differences += Moments.of(ours - theirs)

    @property
    def plain(self) -> dict[str, Any]:
        """The head's COMPARISON."""
        return {
            "setting": self.setting,
            "tokens": self.pairs.count,
            "flips": self.flips,
            "correlation": self.pairs.correlation,
            "mean_difference": self.differences.mean,
            "largest_difference": self.largest,
        }
