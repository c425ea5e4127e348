"""The shapings that a file compares: stored ones, and points of a grid over what the first dataset stores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import pyarrow as pa

from pass_ops import ShapingConfig, Statistics, pool_statistics, shape
from pass_ops.shaping import MADE
from pass_ops.shards import CompleteDataset
from pipelines.inspect.stored import shaping_config
from pipelines.inspect.sweep.distinct import distinct
from pipelines.inspect.sweep.results import Setting as Point
from pipelines.inspect.sweep.settings import grid_settings
from pipelines.parts.inputs import WrongInputError
from pipelines.shaped.stage import ShapeOptions
from pipelines.shaped.streams import ROLES, statistics_of


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One shaping. dataset: the number of the dataset whose rows it shapes; made: whether the file's maker shapes them
    (a point of the grid), rather than their being stored so. statistics: of pools of the whole dataset, where it has
    such. same: grid points that it stands for as well.
    """

    name: str
    config: ShapingConfig
    dataset: int = 0
    made: bool = False
    statistics: Statistics | None = None
    same: tuple[str, ...] = field(default=())

    @property
    def plain(self) -> dict[str, Any]:
        """The head's SETTING."""
        return {
            "name": self.name,
            "source": "grid" if self.made else "stored",
            "dataset": self.dataset,
            "options": self.config.plain(),
            "same": list(self.same),
        }

    def of(self, group: pa.Table) -> pa.Table:
        """A stored group as this setting shapes it: the same rows, with the columns `MADE`."""
        if not self.made:
            return group
        raw = group.drop_columns([name for name in MADE if name in group.column_names])
        return shape(raw, self.config, statistics=self.statistics)


def settings_of(datasets: Sequence[CompleteDataset], grid: Mapping[str, Sequence[Any]]) -> list[Setting]:
    """The stored shapings, the first one first, and after them the grid's points over the first dataset.

    grid: as `parse_grid` makes it; empty for none.

    Raises:
        ConfigError, OptionError: a grid that names no option, or a value outside its range.
        WrongInputError: a grid over other signals, which a shaped dataset does not hold.
    """
    stored = []
    for number, (dataset, name) in enumerate(zip(datasets, _names(datasets), strict=True)):
        config = shaping_config(dataset.spec)
        statistics = statistics_of(dataset.spec, config)
        stored.append(Setting(name=name, config=config, dataset=number, statistics=statistics))
    if not grid:
        return stored
    base = _base_options(datasets[0])
    reference, *points = distinct(grid_settings(base, grid))
    stored[0] = replace(stored[0], same=reference.same)
    for point in points:
        if point.options.held != base.held:
            raise WrongInputError(
                f"--grid {point.name}: it names another signal than {datasets[0].url} was shaped with, whose values "
                "that dataset does not hold. Shape it (`passrl shape --name`), and give both datasets"
            )
    return [*stored, *(_made(datasets[0], point) for point in points)]


def _made(dataset: CompleteDataset, point: Point) -> Setting:
    config = point.options.config
    statistics = pool_statistics(_raw_parts(dataset), config) if config.dataset_pools else None
    return Setting(name=point.name, config=config, made=True, statistics=statistics, same=point.same)


def _raw_parts(dataset: CompleteDataset) -> Iterator[pa.Table]:
    for part in range(len(dataset.parts)):
        table = dataset.read_part(part)
        yield table.drop_columns([name for name in MADE if name in table.column_names])


def _base_options(dataset: CompleteDataset) -> ShapeOptions:
    """The dataset's options with each signal called by its place, as its columns are named there."""
    config = shaping_config(dataset.spec)
    held = dataset.spec.carried.get("signals") or {}
    values: dict[str, Any] = {item.name: getattr(config, item.name) for item in fields(ShapingConfig)}
    values |= {role: role for role in ROLES if role != "reference" and held.get(role) is not None}
    return ShapeOptions(**values)


def _names(datasets: Sequence[CompleteDataset]) -> list[str]:
    """The last names of their folders; with those before where two would be alike."""
    urls = [dataset.url.rstrip("/").split("/") for dataset in datasets]
    for count in range(1, max(map(len, urls)) + 1):
        names = ["/".join(url[-count:]) for url in urls]
        if len(set(names)) == len(names):
            return names
    return [f"{url[-1]} ({number + 1})" for number, url in enumerate(urls)]
