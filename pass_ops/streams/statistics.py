"""Pools of the whole data set: what a first pass records, and what the second shapes with.

For each stream of pool `dataset`, or for the fused sum: the number of values, their mean, the sum of squared
deviations, the largest absolute value, and the number and mean of rollouts' means. Parts are merged in their order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pass_ops.errors import OptionError, StatisticsError
from pass_ops.options.config import ShapingConfig
from pass_ops.reading import columns

if TYPE_CHECKING:
    from pass_ops.streams.pools import Moments

NUMBERS = ("count", "mean", "squares", "largest", "rollouts", "rollout_mean")


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Recorded moments of a data set's pools.

    options: digest of the options they were made with. pools: stream ("" for the fused sum) -> its numbers by name:
    count, mean, squares (of deviations from the mean), largest (absolute value), rollouts, rollout_mean.
    """

    options: str
    pools: Mapping[str, Mapping[str, float]]

    def plain(self) -> dict[str, Any]:
        """As plain data; `Statistics(**data)` gives them back."""
        return {"options": self.options, "pools": {name: dict(pool) for name, pool in self.pools.items()}}

    def check(self, config: ShapingConfig) -> None:
        """Refuse statistics of other options. Raises StatisticsError."""
        if self.options != options_digest(config) or set(self.pools) != set(config.dataset_pools):
            raise StatisticsError(
                "the statistics were recorded with other shaping options, so pools of the data set would be measured "
                "against values of another kind; record them again with pool_statistics"
            )

    def moments(self) -> dict[str, Moments]:
        """The pools as `pass_ops.streams.pools` reads them."""
        return {name: _moments(pool) for name, pool in self.pools.items()}


def options_digest(config: ShapingConfig) -> str:
    """sha256 of the options, as plain JSON."""
    return hashlib.sha256(json.dumps(config.plain(), sort_keys=True).encode()).hexdigest()


def pool_statistics(tables: Iterable[columns.ArrowStream], config: ShapingConfig) -> Statistics:
    """The first of two passes: what pools of the whole data set hold.

    Args:
        tables: the parts of the data set in order, each with whole groups, as `shape` takes them; one at a time.
        config: with a stream, or the fused sum, of pool "dataset".

    Raises:
        OptionError: no pool is the data set. Else what `shape` raises for a part that cannot be read.
    """
    if not config.dataset_pools:
        raise OptionError(
            "config: no stream's pool is 'dataset', so there is nothing to record; shape without statistics"
        )
    from pass_ops.streams.table import recorded_moments

    found: dict[str, list[Moments]] = {name: [] for name in config.dataset_pools}
    for table in tables:
        for name, moments in recorded_moments(columns.to_table(table), config).items():
            found[name].append(moments)
    return Statistics(
        options=options_digest(config), pools={name: _numbers(moments) for name, moments in found.items()}
    )


def _numbers(parts: list[Moments]) -> dict[str, float]:
    import numpy as np

    from pass_ops.streams.pools import Moments, merged

    if not parts:
        return dict.fromkeys(NUMBERS, 0.0)
    one = merged(Moments(*(np.concatenate(column) for column in zip(*parts, strict=True))))
    count, first, total, squares, largest, rollouts, rollout_total = (float(column[0]) for column in one)
    mean = total / count if count else 0.0
    # Every value the same leaves squares at exactly 0, and so it must stay.
    deviations = max(squares - total * mean, 0.0) if squares > 0.0 else 0.0
    numbers = (
        count,
        first + mean,
        deviations,
        largest,
        rollouts,
        first + (rollout_total / rollouts if rollouts else 0.0),
    )
    return dict(zip(NUMBERS, numbers, strict=True))


def _moments(pool: Mapping[str, float]) -> Moments:
    import numpy as np

    from pass_ops.streams.pools import Moments

    mean = pool["mean"]
    numbers = (
        pool["count"], mean, 0.0, pool["squares"], pool["largest"], pool["rollouts"],
        pool["rollouts"] * (pool["rollout_mean"] - mean),
    )  # fmt: skip
    return Moments(*(np.array([float(number)]) for number in numbers))
