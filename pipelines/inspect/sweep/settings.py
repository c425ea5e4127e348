"""`passrl sweep`: what other shaping options would have made of the rollouts and signals that are stored.

No model runs: every setting shapes the stored parts again, one part at a time, and only sums are kept.

Axes: rollouts of a part (R), their tokens that count, i.e. unmasked ones (U), chunks (K).
"""

from __future__ import annotations

import itertools
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pass_ops import Statistics, pool_statistics, shape, token_advantages
from pass_ops.errors import OptionError
from pass_ops.options.config import STREAMS_ONLY
from pass_ops.reading.groups import group_bounds, group_numbers
from pass_ops.reading.ragged import list_lengths, list_values
from pass_ops.shards import CompleteDataset
from pass_ops.shards.schemas import TOKEN_STATISTICS
from pipelines.inspect.forecast import Forecast
from pipelines.inspect.moments import Moments, Pairs, centred
from pipelines.inspect.stored import rightness
from pipelines.inspect.sweep.gradients import GradientResult
from pipelines.inspect.sweep.truth import TruthResult
from pipelines.options import as_dict, build
from pipelines.parts.inputs import kinds, open_rollouts, open_signal
from pipelines.shaped.stage import ShapeOptions, check_streams, join_signals, joined_parts, resolve_signal
from pipelines.shaped.streams import rollout_columns

REFERENCE = "reference"
SIDES = ("right", "wrong")


@dataclass(frozen=True)
class Setting:
    """One point of the grid: how it is called, and its options. same: points that it stands for as well, since they
    differ in options alone that the estimator does not read.
    """

    name: str
    options: ShapeOptions
    same: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Slope:
    """A rollout's value against its length in tokens that count, by least squares.

    per_token and its standard_error: over all rollouts. within_groups: after each prompt's mean is taken off both, so
    that only rollouts of one prompt are compared. None where lengths do not vary.
    """

    rollouts: int
    per_token: float | None
    standard_error: float | None
    within_groups: float | None


@dataclass(frozen=True, kw_only=True)
class SettingResult:
    """What one setting gives.

    Advantages are those the trainer multiplies with: one a token, over the tokens that count of trainable rollouts.
    positive_share and negative_share: of these tokens; the rest is exactly 0. mean and std per sign (population).
    zero_advantage: share of the trainable rollouts whose every advantage is 0. correlation (Pearson) and sign_flips
    (share of tokens with opposite signs) against the reference setting, over `compared_tokens`: those of the rollouts
    that are trainable under both. path and mass: slopes of path score and of the summed token advantage against
    length, among "right" and among "wrong" rollouts; a positive one pays for length. truth, forecast and gradient:
    where they were asked for (`pipelines.inspect.sweep.choose`). same: names of settings that are left out, since they
    differ from this one in options alone that the estimator does not read.
    """

    name: str
    options: Mapping[str, Any]
    rollouts: int
    trainable: int
    tokens: int
    positive_share: float
    positive_mean: float | None
    positive_std: float | None
    negative_share: float
    negative_mean: float | None
    negative_std: float | None
    zero_advantage: float
    chunks_per_rollout: float
    compared_tokens: int
    correlation: float | None
    sign_flips: float
    path: Mapping[str, Slope]
    mass: Mapping[str, Slope]
    truth: TruthResult | None = None
    forecast: tuple[Forecast, ...] = ()
    gradient: GradientResult | None = None
    same: tuple[str, ...] = ()


class Watcher(Protocol):
    """Looks at every part beside the sweep's own tallies, and adds to its results."""

    columns: tuple[str, ...]
    """Rollout columns that it reads beside those that shaping does."""

    def begin(self, source: CompleteDataset, settings: Sequence[Setting]) -> None:
        """Before the first part. source: the rollouts; settings: resolved, the reference first."""

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
) -> list[SettingResult]:
    """Shape the stored rollouts under every setting; the first one is the reference.

    Args:
        rollouts: URL of the dataset.
        signals: the folder with the signals' datasets, by name.
        settings: as `grid_settings` makes them.
        watcher: looks at every part as well.
        progress: called with (parts done, parts).

    Raises:
        StaleInputError, WrongInputError, AlignmentError: a signal is not of these rollouts or of another kind.
        ShapingError: a part that cannot be shaped; names the rollout.
    """
    source = open_rollouts(rollouts)
    names = dict.fromkeys(name for setting in settings for name in setting.options.roles)
    scored = {name: open_signal(posixpath.join(signals, name), name, source) for name in names}
    found = kinds(scored)
    number = source.spec.carried.get("round") or 0
    settings = [
        replace(setting, options=resolve_signal(setting.options.at_round(number), found)) for setting in settings
    ]
    if watcher:
        watcher.begin(source, settings)
    columns = _columns(source, settings, watcher)
    statistics = {setting.name: _first_pass(source, scored, setting) for setting in settings}
    tallies = [_Tally() for _ in settings]
    for part in range(len(source.parts)):
        table = source.read_part(part, columns)
        tables = {name: dataset.read_part(part) for name, dataset in scored.items()}
        reference: _Shaped | None = None
        parts: list[ShapedPart] = []
        for setting, tally, given in zip(settings, tallies, joined(table, tables, settings), strict=True):
            shaped = _Shaped.of(given, setting.options, statistics[setting.name])
            reference = reference or shaped
            tally.add(shaped, reference)
            if watcher:
                parts.append(ShapedPart(shaped.trainable_R, shaped.advantage_U.astype(np.float32)))
        if watcher:
            watcher.add(part, table, tables, parts)
        if progress:
            progress(part + 1, len(source.parts))
    results = [tally.result(setting) for setting, tally in zip(settings, tallies, strict=True)]
    return watcher.finish(results, [statistics[setting.name] for setting in settings]) if watcher else results


@dataclass(frozen=True)
class ShapedPart:
    """What a watcher sees of one part under one setting: which rollouts are trainable, and the advantages of the tokens
    that count, as they are stored (float32).
    """

    trainable_R: NDArray[np.bool_]
    advantage_U: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class _Shaped:
    """One part under one setting, as arrays. right_R: True, False, or None's stand-in -1 (int8)."""

    group_R: NDArray[np.int64]
    tokens_R: NDArray[np.int64]
    right_R: NDArray[np.int8]
    trainable_R: NDArray[np.bool_]
    path_R: NDArray[np.float64]
    chunks_R: NDArray[np.int64]
    row_U: NDArray[np.int64]
    advantage_U: NDArray[np.float64]

    @staticmethod
    def of(table: pa.Table, options: ShapeOptions, statistics: Statistics | None) -> _Shaped:
        shaped = shape(table, options.config, statistics=statistics)
        mask_N = list_values(shaped["loss_mask"])
        row_N = np.repeat(np.arange(len(shaped)), list_lengths(shaped["loss_mask"]))
        row_U = row_N[mask_N]
        return _Shaped(
            group_R=group_numbers(group_bounds(shaped["group_id"])),
            tokens_R=np.bincount(row_U, minlength=len(shaped)),
            right_R=rightness(shaped, options.config),
            trainable_R=shaped["trainable"].to_numpy().astype(bool),
            path_R=pc.cast(shaped["path_score"], pa.float64()).to_numpy(),
            chunks_R=list_lengths(shaped["chunk_ends"]),
            row_U=row_U,
            advantage_U=token_advantages(shaped).values.to_numpy()[mask_N].astype(np.float64),
        )


@dataclass
class _Tally:
    """Sums of one setting over the parts seen."""

    rollouts: int = 0
    trainable: int = 0
    chunks: int = 0
    zero: int = 0
    tokens: int = 0
    flips: int = 0
    positive: Moments = field(default_factory=Moments)
    negative: Moments = field(default_factory=Moments)
    against: Pairs = field(default_factory=Pairs)
    lines: dict[tuple[str, str, str], Pairs] = field(default_factory=dict)

    def add(self, shaped: _Shaped, reference: _Shaped) -> None:
        kept_U = shaped.trainable_R[shaped.row_U]
        advantage_U = shaped.advantage_U[kept_U]
        mass_R = np.bincount(shaped.row_U, weights=shaped.advantage_U, minlength=len(shaped.tokens_R))
        moved_R = np.bincount(shaped.row_U, weights=shaped.advantage_U != 0.0, minlength=len(shaped.tokens_R)) > 0
        self.rollouts += len(shaped.tokens_R)
        self.trainable += int(shaped.trainable_R.sum())
        self.chunks += int(shaped.chunks_R[shaped.trainable_R].sum())
        self.zero += int((shaped.trainable_R & ~moved_R).sum())
        self.tokens += len(advantage_U)
        self.positive += Moments.of(advantage_U[advantage_U > 0.0])
        self.negative += Moments.of(advantage_U[advantage_U < 0.0])
        both_U = kept_U & reference.trainable_R[reference.row_U]
        ours_U, theirs_U = shaped.advantage_U[both_U], reference.advantage_U[both_U]
        self.against += Pairs.of(ours_U, theirs_U)
        self.flips += int((np.sign(ours_U) * np.sign(theirs_U) < 0.0).sum())
        for side, sign in zip(SIDES, (1, 0), strict=True):
            rows_R = shaped.trainable_R & (shaped.right_R == sign)
            self._line(("mass", side), rows_R, mass_R, shaped)
            self._line(("path", side), rows_R & np.isfinite(shaped.path_R), shaped.path_R, shaped)

    def _line(self, key: tuple[str, str], rows_R: NDArray[np.bool_], value_R: NDArray[Any], shaped: _Shaped) -> None:
        length, value, group = shaped.tokens_R[rows_R], value_R[rows_R], shaped.group_R[rows_R]
        for kind, pairs in (
            ("all", Pairs.of(length, value)),
            ("within", Pairs.of(centred(length, group), centred(value, group))),
        ):
            self.lines[(*key, kind)] = self.lines.get((*key, kind), Pairs()) + pairs

    def slope(self, what: str, side: str) -> Slope:
        every, within = (self.lines.get((what, side, kind), Pairs()) for kind in ("all", "within"))
        return Slope(
            rollouts=every.count,
            per_token=every.slope,
            standard_error=every.slope_error,
            within_groups=within.slope,
        )

    def result(self, setting: Setting) -> SettingResult:
        tokens, trainable = max(self.tokens, 1), max(self.trainable, 1)
        return SettingResult(
            name=setting.name,
            options=as_dict(setting.options),
            same=setting.same,
            rollouts=self.rollouts,
            trainable=self.trainable,
            tokens=self.tokens,
            positive_share=self.positive.count / tokens,
            positive_mean=self.positive.mean,
            positive_std=self.positive.std,
            negative_share=self.negative.count / tokens,
            negative_mean=self.negative.mean,
            negative_std=self.negative.std,
            zero_advantage=self.zero / trainable,
            chunks_per_rollout=self.chunks / trainable,
            compared_tokens=self.against.count,
            correlation=self.against.correlation,
            sign_flips=self.flips / max(self.against.count, 1),
            path={side: self.slope("path", side) for side in SIDES},
            mass={side: self.slope("mass", side) for side in SIDES},
        )


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
