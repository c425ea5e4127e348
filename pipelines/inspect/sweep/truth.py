"""How well advantages agree with a truer value of the same steps, before anything is trained on them.

A truth is a process signal that one trusts more than the one that is trained on: an execution check, Monte-Carlo
values. `truth_advantages` says how it becomes a token advantage A*; `Agreement` holds a setting's A against it.

Legend: rollouts of a part (R), elements of the truth (E), tokens (N), tokens that are compared (U), prompts (P),
settings (S), draws (B).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pass_ops.reading.groups import group_bounds, group_numbers
from pass_ops.reading.ragged import list_lengths, list_values
from pipelines.inspect.elements import Elements, elements
from pipelines.inspect.resample import Estimate, draws, interval

TruthAs = Literal["value", "difference"]
#: signal-to-noise ratios above this are those of rounding
MOST_SNR = 1e6
_ROUNDING = 1e-12
_SUMS = ("tokens", "a", "t", "aa", "at", "tt")


@dataclass(frozen=True, kw_only=True)
class Truth:
    """A* of one part: advantage_N, one a completion token (0 where it does not count), and valid_R, who has one."""

    advantage_N: NDArray[np.float64]
    valid_R: NDArray[np.bool_]


def truth_advantages(rollouts: pa.Table, truth: pa.Table, *, as_: TruthAs) -> Truth:
    """The token advantage A* that a truth gives the steps of its rollouts.

    With v(i, j) the truth of step j of rollout i, over the rollouts of a group that have a truth and their steps that
    have an unmasked token (a masked step's truth is never read):

        value        A*(i, j) = v(i, j) - mean of v over the group's steps, each step once
        difference   A*(i, j) = v(i, j) - v(i, j - 1), and for the first step v(i, 1) - mean over the group of v(., 1)

    "value" is for a verdict on the step itself (execution), "difference" for the value of the state behind it
    (monte_carlo): v(., 1) averages to the value of the prompt, so that the difference is Q - V of the step. Every
    token of a step gets the step's A*; nothing is divided by a deviation or a length. A truth with one score a token
    has steps of one token.

    rollouts: group_id, loss_mask. truth: process_scores (null where it could not be computed), process_ends if it is
    scored per step; row for row beside the rollouts.
    """
    mask = rollouts["loss_mask"]
    found = elements(
        mask=mask,
        scores=truth["process_scores"],
        ends=truth["process_ends"] if "process_ends" in truth.column_names else None,
    )
    group_E = group_numbers(group_bounds(rollouts["group_id"]))[found.row_E]
    live_E = found.live_E
    value_E = np.where(live_E, found.value_E, 0.0)
    if as_ == "value":
        advantage_E = value_E - _mean(value_E, live_E, group_E)
    else:
        before_E, first_E = _last_live(found)
        advantage_E = value_E - np.where(first_E, _mean(value_E, first_E & live_E, group_E), before_E)
    rounding = _ROUNDING * np.abs(value_E).max(initial=0.0)  # equal truths give 0, not the last bit of their mean
    advantage_E = np.where(live_E & (np.abs(advantage_E) > rounding), advantage_E, 0.0)
    return Truth(advantage_N=_spread(advantage_E, found, mask), valid_R=found.valid_R)


def _mean(value_E: NDArray[np.float64], which_E: NDArray[np.bool_], group_E: NDArray[np.int64]) -> NDArray[Any]:
    """For each element the mean of its group's elements among `which_E`."""
    counts_G = np.bincount(group_E, weights=which_E)
    sums_G = np.bincount(group_E, weights=value_E * which_E)
    means: NDArray[Any] = (sums_G / np.maximum(counts_G, 1))[group_E]
    return means


def _last_live(found: Elements) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The value of the live element before each in its rollout, and which elements have none before them."""
    at_E = np.arange(len(found.row_E))
    latest_E = np.maximum.accumulate(np.where(found.live_E, at_E, -1)) if len(at_E) else at_E
    latest_E = np.append(-1, latest_E[:-1])[: len(at_E)]
    start_E = np.maximum.accumulate(np.where(found.first_E, at_E, 0)) if len(at_E) else at_E
    none_E = latest_E < start_E
    return np.where(none_E, 0.0, found.value_E[np.maximum(latest_E, 0)]) if len(at_E) else np.zeros(0), none_E


def _spread(advantage_E: NDArray[np.float64], found: Elements, mask: pa.ChunkedArray) -> NDArray[np.float64]:
    """Each element's advantage on its tokens; 0 on rollouts without a truth and on masked tokens."""
    row_N = np.repeat(np.arange(len(mask)), list_lengths(mask))
    advantage_N = np.zeros(len(row_N))
    advantage_N[found.valid_R[row_N]] = np.repeat(advantage_E, found.tokens_E)
    return np.where(list_values(mask), advantage_N, 0.0)


@dataclass
class Agreement:
    """Sums of A, A* and their products, one row a prompt, of each setting; filled part by part."""

    settings: int
    sums: list[NDArray[np.float64]] = field(default_factory=list)
    rollouts: int = 0
    without_truth: int = 0
    untrainable: int = 0

    def add(
        self,
        truth: Truth,
        advantages: Sequence[NDArray[np.float64]],
        *,
        trainable: Sequence[NDArray[np.bool_]],
        row_U: NDArray[np.int64],
        group_R: NDArray[np.int64],
        counting_N: NDArray[np.bool_],
    ) -> None:
        """One part. advantages: of each setting over the tokens that count; trainable: its rows likewise.

        Compared are the tokens that count of rollouts that have a truth and are trainable under every setting, so that
        all settings are judged on the same tokens.
        """
        kept_R = truth.valid_R & np.logical_and.reduce(trainable)
        self.rollouts += int(kept_R.sum())
        self.without_truth += int((~truth.valid_R).sum())
        self.untrainable += int((truth.valid_R & ~kept_R).sum())
        kept_U = kept_R[row_U]
        truth_U = truth.advantage_N[counting_N][kept_U]
        group_U = group_R[row_U][kept_U]
        groups = int(group_R[-1]) + 1 if len(group_R) else 0
        made = np.empty((groups, self.settings, len(_SUMS)))
        for number, advantage_U in enumerate(advantages):
            a_U = advantage_U[kept_U]
            products = (np.ones(len(a_U)), a_U, truth_U, a_U * a_U, a_U * truth_U, truth_U * truth_U)
            for column, values in enumerate(products):
                made[:, number, column] = np.bincount(group_U, weights=values, minlength=groups)
        self.sums.append(made[made[:, 0, 0] > 0])

    def results(self, *, seed: int = 0) -> list[TruthResult]:
        """One result a setting, ranked by alignment."""
        empty = np.zeros((0, self.settings, len(_SUMS)))
        sums_PS = np.concatenate([empty, *self.sums])
        every_S, within_S = _alignments(sums_PS.sum(axis=0), _centred(sums_PS).sum(axis=0))
        both_PS = np.concatenate([sums_PS, _centred(sums_PS)], axis=2)
        columns = math.prod(both_PS.shape[1:])
        drawn_BS = draws(both_PS.reshape(len(both_PS), columns), seed=seed).reshape(-1, *both_PS.shape[1:])
        every_BS, within_BS = _alignments(drawn_BS[..., : len(_SUMS)], drawn_BS[..., len(_SUMS) :])
        rank_S, rank_BS = _ranks(every_S[None])[0], _ranks(every_BS)
        snr_PS = _signal_to_noise(sums_PS)
        return [
            TruthResult(
                rank=int(rank_S[s]),
                rank_low=int(np.percentile(rank_BS[:, s], 2.5, method="nearest")) if len(rank_BS) else None,
                rank_high=int(np.percentile(rank_BS[:, s], 97.5, method="nearest")) if len(rank_BS) else None,
                best_share=float((rank_BS[:, s] == 1).mean()) if len(rank_BS) else None,
                alignment=interval(_number(every_S[s]), every_BS[:, s]),
                within_groups=interval(_number(within_S[s]), within_BS[:, s]),
                signal_to_noise=_quartiles(snr_PS[:, s]),
                prompts=len(sums_PS),
                flat_prompts=int(np.isnan(snr_PS[:, s]).sum()),
                rollouts=self.rollouts,
                tokens=int(sums_PS[:, s, 0].sum()),
                without_truth=self.without_truth,
                untrainable=self.untrainable,
            )
            for s in range(self.settings)
        ]


@dataclass(frozen=True, kw_only=True)
class TruthResult:
    """How one setting's token advantages A agree with the truth's A*, over the tokens that are compared.

    alignment: E[A A*] / sqrt(E[A^2] E[A*^2]), between -1 and 1; within_groups: the same with each prompt's token means
    taken off both. Intervals and ranks (1 = best aligned; rank_low to rank_high, and best_share of the draws in which
    it is first) are over prompts drawn again. signal_to_noise: quartiles over prompts of r^2 / (1 - r^2), r being the
    prompt's own alignment, 0 where r is below 0: the power of what in A points along A* against that of the rest.
    flat_prompts have an A* of 0 throughout and are in no ratio. without_truth and untrainable: rollouts left out.
    """

    rank: int
    rank_low: int | None
    rank_high: int | None
    best_share: float | None
    alignment: Estimate
    within_groups: Estimate
    signal_to_noise: Mapping[str, float | None]
    prompts: int
    flat_prompts: int
    rollouts: int
    tokens: int
    without_truth: int
    untrainable: int


def _centred(sums_PS: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of squares and products after each prompt's means are taken off: columns aa, at, tt."""
    tokens, a, t, aa, at, tt = np.moveaxis(sums_PS, -1, 0)
    return np.stack([aa - a * a / tokens, at - a * t / tokens, tt - t * t / tokens], axis=-1)


def _alignments(
    sums: NDArray[np.float64], centred: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Alignment overall and within groups; NaN where one side is 0 throughout."""
    return _ratio(sums[..., 3], sums[..., 4], sums[..., 5]), _ratio(*np.moveaxis(centred, -1, 0))


def _ratio(aa: NDArray[Any], at: NDArray[Any], tt: NDArray[Any]) -> NDArray[np.float64]:
    size = np.sqrt(np.maximum(aa, 0.0)) * np.sqrt(np.maximum(tt, 0.0))
    found = np.full(np.shape(at), np.nan)
    np.divide(at, size, out=found, where=size > 0.0)
    return np.clip(found, -1.0, 1.0)


def _ranks(alignment_BS: NDArray[np.float64]) -> NDArray[np.int64]:
    """1 for the best aligned; equals share the better rank; an undefined alignment comes last."""
    value_BS = np.where(np.isnan(alignment_BS), -np.inf, alignment_BS)
    above_BS: NDArray[np.int64] = (value_BS[:, None, :] > value_BS[:, :, None]).sum(axis=2) + 1
    return above_BS


def _signal_to_noise(sums_PS: NDArray[np.float64]) -> NDArray[np.float64]:
    """r^2 / (1 - r^2) of each prompt and setting; NaN where A* is 0 throughout, 0 where A is or points away."""
    r_PS = np.maximum(np.nan_to_num(_ratio(*np.moveaxis(sums_PS[..., 3:], -1, 0))), 0.0) ** 2
    snr_PS = r_PS / np.maximum(1.0 - r_PS, 1.0 / MOST_SNR)
    return np.where(sums_PS[..., 5] > 0.0, np.minimum(snr_PS, MOST_SNR), np.nan)


def _quartiles(snr_P: NDArray[np.float64]) -> dict[str, float | None]:
    known_P = snr_P[~np.isnan(snr_P)]
    quartiles = np.quantile(known_P, (0.25, 0.5, 0.75)) if len(known_P) else (None, None, None)
    return {
        name: None if value is None else float(value)
        for name, value in zip(("low", "median", "high"), quartiles, strict=True)
    }


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
