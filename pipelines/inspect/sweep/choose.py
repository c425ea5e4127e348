"""`passrl sweep --truth`, `--forecast`, `--policy`: which setting to train with, asked before anything is trained."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import numpy as np
import pyarrow as pa
from annotated_types import Ge, Le, MinLen
from pydantic import Strict

from pass_ops import Statistics, shape
from pass_ops.reading.groups import group_bounds, group_numbers
from pass_ops.reading.ragged import list_lengths, list_values
from pass_ops.shards import CompleteDataset
from pipelines.inspect.forecast import STEPS, Forecast, forecast, given_levels
from pipelines.inspect.sample import GroupSample
from pipelines.inspect.sweep import gradients
from pipelines.inspect.sweep.gradients import GradientResult
from pipelines.inspect.sweep.results import Setting, SettingResult
from pipelines.inspect.sweep.settings import ShapedPart, joined
from pipelines.inspect.sweep.truth import Agreement, Truth, TruthAs, truth_advantages
from pipelines.options import ConfigError, options
from pipelines.options.types import AtLeastOne, Seed
from pipelines.parts.granularity import SHAPED_AS
from pipelines.parts.inputs import WrongInputError, check_alignment, open_signal
from trainer.options import TrainOptions

if TYPE_CHECKING:
    from trainer import Policy

#: signals whose scores are values of states, so that a step's worth is their difference
VALUES_OF_STATES = ("monte_carlo",)


@options(ConfigError)
class ChooseOptions:
    """What is asked of every setting beside its advantages."""

    truth: str | None = None
    """Name of the truer process signal that advantages are held against. Example: "execution"."""
    truth_as: TruthAs | None = None
    """How it becomes an advantage: value (less the group's mean), or difference (from the step before; default for
    signal monte_carlo). Example: "difference"."""
    forecast: bool = False
    """Whether to forecast what added steps would earn."""
    forecast_steps: Annotated[tuple[AtLeastOne, ...], Strict(False), MinLen(1)] = STEPS
    """How many steps are added."""
    forecast_scores: Annotated[tuple[float, ...], Strict(False)] = ()
    """What they are scored (default: the minimum, the quartiles and the maximum of the stored scores)."""
    policy: str | None = None
    """Folder of the policy whose gradients are compared."""
    groups: Annotated[int, Ge(1), Le(2**20)] = 32
    """Groups that forecast and gradients are computed on, drawn by the seed."""
    seed: Seed = 0
    """Seed of that sample and of the intervals."""


def open_truth(
    name: str, truth_as: TruthAs | None, *, signals: str, source: CompleteDataset
) -> tuple[CompleteDataset, TruthAs]:
    """The process signal `name` of the rollouts `source`, and how it becomes an advantage: as asked, or as it suits it.

    signals: the folder of the signals' datasets. Raises WrongInputError for one that is no process signal, and what
    `open_signal` raises.
    """
    dataset = open_signal(posixpath.join(signals, name), name, source)
    kind = str(dataset.spec.options.get("kind"))
    if kind not in SHAPED_AS:
        raise WrongInputError(
            f"--truth: the signal {name!r} is of kind {kind}; advantages can be held against "
            f"{' or '.join(SHAPED_AS)} only. Name a signal of steps or tokens, such as "
            "execution or monte_carlo"
        )
    by_signal: TruthAs = "difference" if dataset.spec.options.get("signal") in VALUES_OF_STATES else "value"
    return dataset, truth_as or by_signal


class Chooser:
    """A `Watcher` of the sweep that answers what `ChooseOptions` asks. signals: the folder of the signals' datasets."""

    def __init__(self, asked: ChooseOptions, *, signals: str, train: TrainOptions) -> None:
        self._asked = asked
        self._signals = signals
        self._train = gradients.gradient_options(train)
        self._settings: Sequence[Setting] = ()
        self._truth: CompleteDataset | None = None
        self._truth_as: TruthAs = "value"
        self._agreement = Agreement(0)
        self._sample = GroupSample(asked.groups, seed=asked.seed)
        self._policy: Policy | None = None
        self._temperature = 1.0
        self.columns: tuple[str, ...] = gradients.COLUMNS if asked.policy else ()

    def begin(self, source: CompleteDataset, settings: Sequence[Setting]) -> None:
        """Open truth and policy, so that a wrong one is refused before anything is shaped.

        Raises WrongInputError for a truth that is no process signal, what `open_signal` raises, and what
        `load_for_gradients` does.
        """
        self._settings = settings
        self._agreement = Agreement(len(settings))
        self._sample = GroupSample(self._asked.groups, seed=self._asked.seed)
        if self._asked.truth is not None:
            asked = (self._asked.truth, self._asked.truth_as)
            self._truth, self._truth_as = open_truth(*asked, signals=self._signals, source=source)
        if self._asked.policy and self._policy is None:
            self._policy, self._temperature = gradients.load_for_gradients(self._asked.policy, source, self._train)

    def add(self, part: int, rollouts: pa.Table, signals: Mapping[str, pa.Table], shaped: Sequence[ShapedPart]) -> None:
        """One part. Raises AlignmentError where the truth's rows are not the rollouts'."""
        if self._truth is not None and self._asked.truth is not None:
            truths = self._truth.read_part(part)
            check_alignment(truths, rollouts, what=f"signal {self._asked.truth!r}")
            counting_N = list_values(rollouts["loss_mask"])
            row_N = np.repeat(np.arange(len(rollouts)), list_lengths(rollouts["loss_mask"]))
            self._agreement.add(
                self._advantages(rollouts, truths),
                [one.advantage_U.astype(np.float64) for one in shaped],
                trainable=[one.trainable_R for one in shaped],
                row_U=row_N[counting_N],
                group_R=group_numbers(group_bounds(rollouts["group_id"])),
                counting_N=counting_N,
            )
            signals = {**signals, self._asked.truth: truths}
        if self._asked.forecast or self._asked.policy:
            self._sample.add(rollouts, signals)

    def finish(self, results: Sequence[SettingResult], statistics: Sequence[Statistics | None]) -> list[SettingResult]:
        """The results with what was asked for."""
        found = list(results)
        if self._truth is not None:
            judged = self._agreement.results(seed=self._asked.seed)
            found = [replace(one, truth=truth) for one, truth in zip(found, judged, strict=True)]
        tables = self._sample.tables()
        if tables is None:
            return found
        rollouts, signals = tables
        given = list(joined(rollouts, signals, self._settings))
        if self._asked.forecast:
            asked = zip(given, self._settings, statistics, strict=True)
            forecasts = [self._forecast(table, setting, recorded) for table, setting, recorded in asked]
            found = [replace(one, forecast=tuple(made)) for one, made in zip(found, forecasts, strict=True)]
        if self._policy is not None:
            compared = self._gradients(self._policy, given, rollouts, signals, statistics)
            found = [replace(one, gradient=made) for one, made in zip(found, compared, strict=True)]
        return found

    def _advantages(self, rollouts: pa.Table, truths: pa.Table) -> Truth:
        return truth_advantages(rollouts, truths, as_=self._truth_as)

    def _forecast(self, table: pa.Table, setting: Setting, recorded: Statistics | None) -> list[Forecast]:
        scores, config = self._asked.forecast_scores, setting.options.config
        return forecast(
            table,
            config,
            levels=given_levels(table, scores, config=config) if scores else None,
            steps=self._asked.forecast_steps,
            seed=self._asked.seed,
            statistics=recorded,
        )

    def _gradients(
        self,
        policy: Policy,
        given: Sequence[pa.Table],
        rollouts: pa.Table,
        signals: Mapping[str, pa.Table],
        statistics: Sequence[Statistics | None],
    ) -> list[GradientResult]:
        truth = None
        if self._asked.truth is not None:
            goal = self._advantages(rollouts, signals[self._asked.truth])
            truth = gradients.with_token_advantages(rollouts, goal.advantage_N, goal.valid_R)
        return gradients.compare_gradients(
            [
                shape(table, one.options.config, statistics=recorded)
                for table, one, recorded in zip(given, self._settings, statistics, strict=True)
            ],
            truth,
            policy=policy,
            options=self._train,
            temperature=self._temperature,
        )
