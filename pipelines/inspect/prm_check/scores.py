"""Where the scores of labelled steps come from: a process reward model on an engine, or a file of stored ones.

A file of scores has a row {"key": ..., "scores": [one a step] | null} for each solution, in the order of the labels.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pass_ops.errors import PassError
from pipelines.labels import LabelledSolution, RejectedRow
from pipelines.rows.read import read_rows
from pipelines.signals import build_signal
from pipelines.signals.prm import PrmSignal

NOT_STORED = "not_stored"


class LabelScoresError(PassError, ValueError):
    """Scores are not those of the labelled steps, or are no numbers."""


@dataclass(frozen=True, kw_only=True)
class SolutionScores:
    """One solution's scores; None where status (too_long, error, not_stored) says why there are none."""

    status: str
    score_S: NDArray[np.float64] | None


#: scores of some solutions, in their order; called with all solutions of a file, batch by batch
StepScores = Callable[[Sequence[LabelledSolution]], list[SolutionScores]]


def prm_signal(model: str, options: Mapping[str, Any]) -> PrmSignal:
    """The signal `prm` with this model and further options (tag, chat, engine, ...).

    Raises SignalOptionError, and what is wrong with the model.
    """
    signal = build_signal("prm", {"model": model, **options})
    assert isinstance(signal, PrmSignal)
    signal.check_model()
    return signal


def model_scores(signal: PrmSignal) -> StepScores:
    """The signal's model, asked as the score stage asks it."""

    def score(solutions: Sequence[LabelledSolution]) -> list[SolutionScores]:
        scores, found = signal.step_scores([one.problem for one in solutions], [one.steps for one in solutions])
        rows = zip(solutions, found.status, scores.to_pylist(), strict=True)
        return [_checked(solution, status, row) for solution, status, row in rows]

    return score


def stored_scores(url: str) -> StepScores:
    """The scores in a file. Raises LabelScoresError where they are another file's; RowFileError."""
    rows = read_rows(url)

    def score(solutions: Sequence[LabelledSolution]) -> list[SolutionScores]:
        return [_stored(rows, solution, url) for solution in solutions]

    return score


def as_row(solution: LabelledSolution, found: SolutionScores) -> bytes:
    """The solution's row of a file of scores."""
    scores = None if found.score_S is None else [float(value) for value in found.score_S]
    return json.dumps({"key": solution.key, "scores": scores}).encode() + b"\n"


def _stored(rows: Iterator[Any], solution: LabelledSolution, url: str) -> SolutionScores:
    row = next(rows, None)
    if row is None:
        raise LabelScoresError(f"{url} ends before the scores of {solution.key!r} ({solution.where}); make it again.")
    if isinstance(row, RejectedRow):
        raise LabelScoresError(f"{url}: {row.where}: {row.detail}; make it again.")
    if row.values.get("key") != solution.key:
        raise LabelScoresError(
            f"{row.where} holds the scores of {row.values.get('key')!r}, and the labels go on with {solution.key!r} "
            f"({solution.where}). Give the scores of this very file of labels, in its order."
        )
    scores = row.values.get("scores")
    if scores is None:
        return SolutionScores(status=NOT_STORED, score_S=None)
    if not isinstance(scores, list) or any(type(value) not in (int, float) for value in scores):
        raise LabelScoresError(f"{row.where}: scores is no list of numbers, one a step.")
    return _checked(solution, "ok", scores)


def _checked(solution: LabelledSolution, status: str, scores: Any) -> SolutionScores:
    if scores is None:
        return SolutionScores(status=status, score_S=None)
    if len(scores) != len(solution.steps):
        raise LabelScoresError(
            f"{solution.key!r} ({solution.where}) has {len(solution.steps)} steps and {len(scores)} scores; "
            "each step needs its own."
        )
    try:
        score_S = np.asarray(scores, np.float64)
    except OverflowError:  # a whole number of hundreds of digits
        score_S = np.full(len(scores), np.inf)
    if not np.isfinite(score_S).all():
        raise LabelScoresError(
            f"{solution.key!r} ({solution.where}) has a score that is no finite number; mend what made the scores."
        )
    return SolutionScores(status=status, score_S=score_S)
