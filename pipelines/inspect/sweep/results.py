"""A setting of the sweep, and what is found of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.inspect.forecast import Forecast
from pipelines.inspect.sweep.gradients import GradientResult
from pipelines.inspect.sweep.truth import TruthResult
from pipelines.shaped.stage import ShapeOptions


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
