"""Sums over the parts that one setting shaped.

Axes: rollouts of a part (R), their tokens that count, i.e. unmasked ones (U), chunks (K).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pass_ops import Statistics, shape, token_advantages
from pass_ops.reading.groups import group_bounds, group_numbers
from pass_ops.reading.ragged import list_lengths, list_values
from pipelines.inspect.moments import Moments, Pairs, centred
from pipelines.inspect.stored import rightness
from pipelines.inspect.sweep.results import Setting, SettingResult, Slope
from pipelines.options import as_dict
from pipelines.shaped.stage import ShapeOptions

SIDES = ("right", "wrong")


@dataclass(frozen=True, kw_only=True)
class Shaped:
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
    def of(table: pa.Table, options: ShapeOptions, statistics: Statistics | None) -> Shaped:
        shaped = shape(table, options.config, statistics=statistics)
        mask_N = list_values(shaped["loss_mask"])
        row_N = np.repeat(np.arange(len(shaped)), list_lengths(shaped["loss_mask"]))
        row_U = row_N[mask_N]
        return Shaped(
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
class Tally:
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

    def add(self, shaped: Shaped, reference: Shaped) -> None:
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

    def _line(self, key: tuple[str, str], rows_R: NDArray[np.bool_], value_R: NDArray[Any], shaped: Shaped) -> None:
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
