"""How good a process signal is, before one trains on it: against truer values of the same steps, without a model.

Legend: _S steps, end to end over rollouts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.parts.inputs import check_alignment, open_rollouts, open_signal
from pipelines.runs.folders import round_folder
from pipelines.runs.progress import Report
from pipelines.signals.base import SignalInputError
from pipelines.signals.steps import Decode, tokenizer_decode

BINS = 5
STD_EPS = 1e-6  # as `ShapingConfig.std_eps`
KINDS = ("right", "wrong", "neutral", "padding", "repeated")


@dataclass(frozen=True, kw_only=True)
class StepKind:
    """Steps of one kind: how many, their mean score, and its mean once standardized within groups (as PASS does)."""

    steps: int
    score: float | None
    standardized: float | None


@dataclass(frozen=True, kw_only=True)
class StepBin:
    """Steps whose position or length is within [low, high]: how many, mean score, mean truth, AUC among them."""

    low: float
    high: float
    steps: int
    score: float
    truth: float
    auc: float | None


@dataclass(frozen=True, kw_only=True)
class SignalReport:
    """auc: the probability that a right step scores above a wrong one, ties half; None without both.

    auc_in_groups: the same among steps of one group, the pairs of all groups together: what PASS, which standardizes
    within groups, can use. kinds: by KINDS. by_position: of a step in its rollout, 0 = first to 1 = last. by_length: of
    a step in tokens. correlation: of score with position, with length and with the truth.
    """

    rollouts: int
    skipped: int
    steps: int
    auc: float | None
    auc_in_groups: float | None
    kinds: dict[str, StepKind]
    by_position: list[StepBin]
    by_length: list[StepBin]
    correlation: dict[str, float | None]


@dataclass
class _Steps:
    """One array a fact, appended part by part."""

    columns: dict[str, list[NDArray[Any]]] = field(default_factory=dict)

    def add(self, facts: Mapping[str, Any]) -> None:
        for name, values in facts.items():
            self.columns.setdefault(name, []).append(np.asarray(values))

    def all(self) -> dict[str, NDArray[Any]]:
        names = ("score", "truth", "position", "length", "repeated", "padding", "group")
        return {name: np.concatenate([*self.columns.get(name, []), np.zeros(0)]) for name in names}


def check_signal(
    run: str,
    *,
    signal: str,
    truth: str,
    round_index: int = 0,
    threshold: float = 0.5,
    padding: str | None = None,
    tokenizer: str | None = None,
    progress: Report | None = None,
) -> SignalReport:
    """Compare two signals of a round step by step: `signal` with `truth` (execution, monte_carlo).

    A step is right where its truth is over threshold, wrong below it, neutral at it. padding: a regular expression that
    matches the whole text of steps that add nothing; tokenizer: the policy's folder, needed for that alone (default:
    the folder that the rollouts name). Repeated are steps whose tokens stood in their rollout before.

    Raises SignalInputError where either is no per-step signal or their steps differ, and what opening them raises.
    """
    rollouts = open_rollouts(round_folder(run, round_index, "rollouts"))
    opened = {
        name: open_signal(round_folder(run, round_index, "signals", name), name, rollouts) for name in (signal, truth)
    }
    for name, dataset in opened.items():
        if (kind := dataset.spec.options.get("kind")) != "process_steps":
            raise SignalInputError(
                f"signal {name!r} is of kind {kind}; steps can be compared of kind process_steps only"
            )
    decode = None
    if padding is not None:
        decode = tokenizer_decode(tokenizer or next(model.id for model in rollouts.spec.models.values()))
    steps, counted, skipped = _Steps(), 0, 0
    for part in range(rollouts.spec.parts):
        table = rollouts.read_part(part, columns=["rollout_id", "group_id", "token_ids", "loss_mask"])
        scores, truths = (opened[name].read_part(part) for name in (signal, truth))
        for name, one in ((signal, scores), (truth, truths)):
            check_alignment(one, table, what=f"signal {name!r}, part {part}")
        facts = list(_part_facts(table, scores, truths, names=(signal, truth), padding=padding, decode=decode))
        for row in facts:
            steps.add({**row, "group": [f"{part}/{group}" for group in row["group"]]})
        counted, skipped = counted + len(facts), skipped + len(table) - len(facts)
        if progress is not None:
            progress(part + 1, rollouts.spec.parts)
    return report(steps.all(), rollouts=counted, skipped=skipped, threshold=threshold)


def report(steps_S: Mapping[str, NDArray[Any]], *, rollouts: int, skipped: int, threshold: float) -> SignalReport:
    """The report on columns score, truth, position, length, repeated, padding (bool) and group, one value a step."""
    score_S, truth_S = steps_S["score"].astype(np.float64), steps_S["truth"].astype(np.float64)
    group_S = np.unique(steps_S["group"], return_inverse=True)[1]
    standardized_S = standardize(score_S, group_S)
    right_S, wrong_S = truth_S > threshold, truth_S < threshold
    masks = {
        "right": right_S,
        "wrong": wrong_S,
        "neutral": ~(right_S | wrong_S),
        "padding": steps_S["padding"].astype(bool),
        "repeated": steps_S["repeated"].astype(bool),
    }
    return SignalReport(
        rollouts=rollouts,
        skipped=skipped,
        steps=len(score_S),
        auc=auc(score_S, right_S, wrong_S),
        auc_in_groups=auc_in_groups(score_S, right_S, wrong_S, group_S),
        kinds={name: _kind(score_S, standardized_S, mask_S) for name, mask_S in masks.items()},
        by_position=_bins(steps_S["position"], score_S, truth_S, right_S, wrong_S),
        by_length=_bins(steps_S["length"], score_S, truth_S, right_S, wrong_S),
        correlation={
            name: _correlation(score_S, steps_S[name].astype(np.float64)) for name in ("position", "length", "truth")
        },
    )


def auc(score_S: NDArray[Any], right_S: NDArray[np.bool_], wrong_S: NDArray[np.bool_]) -> float | None:
    """P(score of a right step > that of a wrong one) + P(equal) / 2, by ranks; None without both."""
    pairs = int(right_S.sum()) * int(wrong_S.sum())
    return _won_pairs(score_S, right_S, wrong_S) / pairs if pairs else None


def auc_in_groups(
    score_S: NDArray[Any], right_S: NDArray[np.bool_], wrong_S: NDArray[np.bool_], group_S: NDArray[Any]
) -> float | None:
    """The AUC over the pairs within groups, group_S a number a step."""
    won, pairs = 0.0, 0
    order_S = np.argsort(group_S, kind="stable")
    for of_group in np.split(order_S, np.flatnonzero(np.diff(group_S[order_S])) + 1):
        here = int(right_S[of_group].sum()) * int(wrong_S[of_group].sum())
        if here:
            won += _won_pairs(score_S[of_group], right_S[of_group], wrong_S[of_group])
            pairs += here
    return won / pairs if pairs else None


def standardize(score_S: NDArray[np.float64], group_S: NDArray[Any]) -> NDArray[np.float64]:
    """(x - mean) / (std + eps) within each group (ddof 1); 0 for a group of one."""
    count_G = np.bincount(group_S)
    mean_G = np.bincount(group_S, weights=score_S) / np.maximum(count_G, 1)
    centred_S = score_S - mean_G[group_S]
    std_G = np.sqrt(np.bincount(group_S, weights=centred_S**2) / np.maximum(count_G - 1, 1))
    return np.asarray(centred_S / (std_G[group_S] + STD_EPS))


def _won_pairs(score_S: NDArray[Any], right_S: NDArray[np.bool_], wrong_S: NDArray[np.bool_]) -> float:
    wrong_sorted = np.sort(score_S[wrong_S])
    below = np.searchsorted(wrong_sorted, score_S[right_S], side="left")
    up_to = np.searchsorted(wrong_sorted, score_S[right_S], side="right")
    return float((below + up_to).sum() / 2)


def _kind(score_S: NDArray[Any], standardized_S: NDArray[Any], mask_S: NDArray[np.bool_]) -> StepKind:
    if not mask_S.any():
        return StepKind(steps=0, score=None, standardized=None)
    means = (float(values_S[mask_S].mean()) for values_S in (score_S, standardized_S))
    return StepKind(steps=int(mask_S.sum()), score=next(means), standardized=next(means))


def _bins(
    by_S: NDArray[Any],
    score_S: NDArray[Any],
    truth_S: NDArray[Any],
    right_S: NDArray[np.bool_],
    wrong_S: NDArray[np.bool_],
) -> list[StepBin]:
    """At most BINS bins of about equally many steps; equal values share a bin."""
    if len(by_S) == 0:
        return []
    by_S = by_S.astype(np.float64)
    edges = np.unique(np.quantile(by_S, np.arange(1, BINS) / BINS))
    bin_S = np.searchsorted(edges, by_S, side="left")
    return [
        StepBin(
            low=float(by_S[mask_S].min()),
            high=float(by_S[mask_S].max()),
            steps=int(mask_S.sum()),
            score=float(score_S[mask_S].mean()),
            truth=float(truth_S[mask_S].mean()),
            auc=auc(score_S, right_S & mask_S, wrong_S & mask_S),
        )
        for number in np.unique(bin_S)
        if (mask_S := bin_S == number).any()
    ]


def _correlation(a_S: NDArray[np.float64], b_S: NDArray[np.float64]) -> float | None:
    if len(a_S) < 2 or a_S.std() == 0 or b_S.std() == 0:
        return None
    return float(np.corrcoef(a_S, b_S)[0, 1])


def _part_facts(
    rollouts: pa.Table,
    scores: pa.Table,
    truths: pa.Table,
    *,
    names: tuple[str, str],
    padding: str | None,
    decode: Decode | None,
) -> Iterable[dict[str, Any]]:
    """The columns of `report` for each rollout that both signals have values of."""
    pattern = None if padding is None else re.compile(padding)
    columns = zip(rollouts.to_pylist(), scores.to_pylist(), truths.to_pylist(), strict=True)
    for rollout, scored, true in columns:
        if scored["status"] != "ok" or true["status"] != "ok" or not scored["process_ends"]:
            continue
        ends = scored["process_ends"]
        if ends != true["process_ends"]:
            raise SignalInputError(
                f"rollout {rollout['rollout_id']!r}: the steps of {names[0]!r} end at {ends}, those of {names[1]!r} at "
                f"{true['process_ends']}, so they cannot be compared. Make both with the same separator."
            )
        pieces = [tuple(rollout["token_ids"][start:end]) for start, end in pairwise([0, *ends])]
        last = max(len(pieces) - 1, 1)
        yield {
            "score": scored["process_scores"],
            "truth": true["process_scores"],
            "position": [index / last for index in range(len(pieces))],
            "length": [len(piece) for piece in pieces],
            "repeated": [piece in pieces[:index] for index, piece in enumerate(pieces)],
            "padding": [
                pattern is not None and decode is not None and pattern.fullmatch(decode(piece).strip()) is not None
                for piece in pieces
            ],
            "group": [rollout["group_id"]] * len(pieces),
        }
