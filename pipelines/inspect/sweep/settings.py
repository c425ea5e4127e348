"""`passrl sweep`: what other shaping options would have made of the rollouts and signals that are stored.

No model runs: every setting shapes the stored parts again, one part at a time, and only sums are kept.

Axes: rollouts of a part (R), their tokens that count, i.e. unmasked ones (U), chunks (K).
"""

from __future__ import annotations

import itertools
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pass_ops import Statistics, pool_statistics
from pass_ops.errors import OptionError, ShapingError
from pass_ops.options.config import STREAMS_ONLY
from pass_ops.shards import CompleteDataset
from pass_ops.shards.schemas import TOKEN_STATISTICS
from pipelines.inspect.sweep.results import Setting, SettingResult
from pipelines.inspect.sweep.tally import Shaped, Tally
from pipelines.options import as_dict, build
from pipelines.parts.inputs import kinds, open_rollouts, open_signal
from pipelines.shaped.stage import ShapeOptions, check_streams, join_signals, joined_parts, resolve_signal
from pipelines.shaped.streams import rollout_columns

REFERENCE = "reference"
_T = TypeVar("_T")


class Watcher(Protocol):
    """Looks at every part beside the sweep's own tallies, and adds to its results."""

    columns: tuple[str, ...]
    """Rollout columns that it reads beside those that shaping does."""

    def begin(self, source: CompleteDataset, settings: Sequence[Setting]) -> None:
        """Before the first part; again with fewer settings where some are left out, and then all begins anew.

        source: the rollouts; settings: resolved, the reference first.
        """

    def add(self, part: int, rollouts: pa.Table, signals: Mapping[str, pa.Table], shaped: Sequence[ShapedPart]) -> None:
        """One part: its rollouts, its signals, and what each setting made of it."""

    def finish(self, results: Sequence[SettingResult], statistics: Sequence[Statistics | None]) -> list[SettingResult]:
        """The results with what was found. statistics: each setting's first pass, where it has one."""


def grid_settings(base: ShapeOptions, grid: Mapping[str, Sequence[Any]]) -> tuple[Setting, ...]:
    """The reference (`base`) and every combination of the grid's values.

    grid: option name (as below [shape] of a configuration: k, estimator, weights.process, standardize.outcome, ...)
    -> values. Raises ConfigError for an unknown option, OptionError for a value outside its range; both name the
    setting.
    """
    plain = as_dict(replace(base, reference=None, logprobs=()))
    settings = [Setting(REFERENCE, replace(base, reference=None, logprobs=()))]
    for values in itertools.product(*grid.values()):
        chosen = dict(zip(grid, values, strict=True))
        if not chosen:
            break
        name = " ".join(f"{key}={value}" for key, value in chosen.items())
        data = plain
        if "estimator" in chosen and base.streams is not None:  # another method than the streams that the base has
            data = {key: value for key, value in plain.items() if key not in STREAMS_ONLY}
        for key, value in chosen.items():
            data = _with(data, key.split("."), value, setting=name)
        options = build(ShapeOptions, data, where=f"setting {name!r}")
        settings.append(Setting(name, options))
    for setting in settings:
        check_streams(setting.options)
    return tuple(settings)


def sweep(
    *,
    rollouts: str,
    signals: str,
    settings: Sequence[Setting],
    watcher: Watcher | None = None,
    progress: Callable[[int, int], None] | None = None,
    left_out: Callable[[str, ShapingError], None] | None = None,
) -> list[SettingResult]:
    """Shape the stored rollouts under every setting; the first one is the reference.

    Args:
        rollouts: URL of the dataset.
        signals: the folder with the signals' datasets, by name.
        settings: as `grid_settings` makes them.
        watcher: looks at every part as well.
        progress: called with (parts done, parts), from the first part again where a setting was left out.
        left_out: told the name of a setting that cannot shape these rollouts and signals, and why (a method that reads
            probabilities, and a process reward model's logits); the others go on without it.

    Raises:
        StaleInputError, WrongInputError, AlignmentError: a signal is not of these rollouts or of another kind.
        ShapingError: a part that the reference cannot shape, or any setting where `left_out` is not given; names the
            rollout.
    """
    source = open_rollouts(rollouts)
    names = dict.fromkeys(name for setting in settings for name in setting.options.roles)
    scored = {name: open_signal(posixpath.join(signals, name), name, source) for name in names}
    found = kinds(scored)
    number = source.spec.carried.get("round") or 0
    kept = [replace(setting, options=resolve_signal(setting.options.at_round(number), found)) for setting in settings]
    while True:
        try:
            return _swept(source, scored, kept, watcher, progress)
        except _CannotShapeError as error:
            if left_out is None or kept[0].name in error.reasons:
                raise next(iter(error.reasons.values())) from None
            for name, reason in error.reasons.items():
                left_out(name, reason)
            kept = [setting for setting in kept if setting.name not in error.reasons]


class _CannotShapeError(Exception):
    """Settings, by name, that cannot shape what is stored, and why."""

    def __init__(self, reasons: Mapping[str, ShapingError]) -> None:
        super().__init__(", ".join(reasons))
        self.reasons = reasons


def _swept(
    source: CompleteDataset,
    scored: Mapping[str, CompleteDataset],
    settings: Sequence[Setting],
    watcher: Watcher | None,
    progress: Callable[[int, int], None] | None,
) -> list[SettingResult]:
    if watcher:
        watcher.begin(source, settings)
    columns = _columns(source, settings, watcher)
    statistics = _of_all(settings, [partial(_first_pass, source, scored, setting) for setting in settings])
    tallies = [Tally() for _ in settings]
    for part in range(len(source.parts)):
        table = source.read_part(part, columns)
        tables = {name: dataset.read_part(part) for name, dataset in scored.items()}
        asked = zip(joined(table, tables, settings), settings, statistics, strict=True)
        every = _of_all(settings, [partial(Shaped.of, given, one.options, of) for given, one, of in asked])
        for shaped, tally in zip(every, tallies, strict=True):
            tally.add(shaped, every[0])
        if watcher:
            parts = [ShapedPart(shaped.trainable_R, shaped.advantage_U.astype(np.float32)) for shaped in every]
            watcher.add(part, table, tables, parts)
        if progress:
            progress(part + 1, len(source.parts))
    results = [tally.result(setting) for setting, tally in zip(settings, tallies, strict=True)]
    return watcher.finish(results, statistics) if watcher else results


def _of_all(settings: Sequence[Setting], made: Sequence[Callable[[], _T]]) -> list[_T]:
    """What each setting makes. Raises _CannotShapeError with all of those that cannot."""
    found: list[_T] = []
    reasons: dict[str, ShapingError] = {}
    for setting, make in zip(settings, made, strict=True):
        try:
            found.append(make())
        except ShapingError as error:
            reasons[setting.name] = error
    if reasons:
        raise _CannotShapeError(reasons)
    return found


@dataclass(frozen=True)
class ShapedPart:
    """What a watcher sees of one part under one setting: which rollouts are trainable, and the advantages of the tokens
    that count, as they are stored (float32).
    """

    trainable_R: NDArray[np.bool_]
    advantage_U: NDArray[np.float32]


def _columns(source: CompleteDataset, settings: Sequence[Setting], watcher: Watcher | None) -> list[str]:
    """The columns of rollouts that are read; of token statistics those that are stored, since `shape` says who lacks
    one.
    """
    read = [name for setting in settings for name in rollout_columns(setting.options.as_written)]
    stored: list[str] = []
    if source.parts:
        with source.open_part(0) as file:
            stored = list(file.schema_arrow.names)
    named = dict.fromkeys((*read, *(watcher.columns if watcher else ())))
    return [name for name in named if name in stored or name not in TOKEN_STATISTICS.names]


def _first_pass(source: CompleteDataset, scored: Mapping[str, CompleteDataset], setting: Setting) -> Statistics | None:
    """What pools of the whole dataset hold, where the setting has such."""
    if not setting.options.as_written.dataset_pools:
        return None
    return pool_statistics(joined_parts(source, scored, setting.options), setting.options.config)


def joined(rollouts: pa.Table, signals: Mapping[str, pa.Table], settings: Sequence[Setting]) -> Iterator[pa.Table]:
    """The rollouts with each setting's signals beside them; settings of the same signals share one join."""
    joins: dict[tuple[tuple[str, ...], tuple[str, ...]], pa.Table] = {}
    for setting in settings:
        names, prefixed = tuple(sorted(setting.options.roles)), setting.options.stream_signals
        if (names, prefixed) not in joins:
            joins[names, prefixed] = join_signals(rollouts, {name: signals[name] for name in names}, prefixed=prefixed)
        yield joins[names, prefixed]


def _with(data: Mapping[str, Any], keys: Sequence[str], value: Any, *, setting: str) -> dict[str, Any]:
    """A copy of nested plain data with one value set. One operator for all streams becomes three where one is set."""
    key, *below = keys
    if not below:
        return {**data, key: value}
    inner = data.get(key, {})
    if key == "method_options" and inner is None:
        inner = {}
    if key == "standardize" and isinstance(inner, str):
        inner = dict.fromkeys(("process", "outcome", "format"), inner)
    if not isinstance(inner, Mapping):
        raise OptionError(f"setting {setting!r}: {key} is one value and has no {'.'.join(below)}; write {key}=VALUE")
    return {**data, key: _with(inner, below, value, setting=setting)}
