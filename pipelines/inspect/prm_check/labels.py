"""How good a process signal is against published step labels, and what training on it would do to those steps."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from pass_ops import ShapingConfig, Weights
from pass_ops.errors import PassError
from pipelines.engines.text import spelling_tokenizer
from pipelines.inspect.prm_check.check import auc, auc_in_groups
from pipelines.inspect.prm_check.effect import NEITHER, RIGHT, WRONG, Effect, StepTable, effect
from pipelines.inspect.prm_check.figures import (
    Calibration,
    FirstErrors,
    best_first_errors,
    calibration,
    error_cases,
    first_errors,
)
from pipelines.inspect.prm_check.scores import SolutionScores, StepScores
from pipelines.labels import LabelFormat, LabelledSolution, RejectedRow, read_labels
from pipelines.models.folder import load_tokenizer
from pipelines.options import build
from pipelines.runs.progress import Report
from pipelines.signals.steps import GivenStepsError, ends_of_steps, tokenizer_decode

#: shaped by the process signal alone: what the labels are about
PROCESS_ALONE = ShapingConfig(weights=Weights(process=1.0, outcome=0.0, format=0.0))
UNKNOWN_ERROR = -2
_BATCH = 256
_SHOWN = 5
_LABELS = {True: RIGHT, False: WRONG, None: NEITHER}


class LabelRejectsError(PassError, ValueError):
    """More rows of a file of labels were rejected than are let pass."""


def shaping(options: Mapping[str, Any]) -> ShapingConfig:
    """PROCESS_ALONE with other options, as a configuration's [shape] writes them. Raises ConfigError, OptionError."""
    weights = {"process": 1.0, "outcome": 0.0, "format": 0.0}
    return build(ShapingConfig, {**options, "weights": {**weights, **options.get("weights", {})}}, where="[shape]")


@dataclass(frozen=True, kw_only=True)
class LabelReport:
    """Figures of step scores against labels.

    solutions: scored ones; unscored and rejected: others, by reason, and rejects: the first of them in words. right,
    wrong, neither: steps by label, each once. auc: P(a right step scores above a wrong one), ties half; auc_in_problem:
    the same among steps of one problem. first_error: at the given threshold; best_first_error: at the best one for
    these very labels. calibration: None where scores are no probabilities. advantages: of the scores, and
    advantages_by_labels: of the labels in their place; None where no solution has a place on the tokenizer's tokens.
    unplaced: solutions that the tokenizer cannot spell step by step, which are in neither. alone: solutions that are
    their problem's only one.
    """

    labels: str
    judged_by: str
    solutions: int
    unscored: dict[str, int]
    rejected: dict[str, int]
    rejects: list[str]
    problems: int
    alone: int
    right: int
    wrong: int
    neither: int
    auc: float | None
    auc_in_problem: float | None
    first_error: FirstErrors
    best_first_error: FirstErrors | None
    calibration: Calibration | None
    advantages: Effect | None
    advantages_by_labels: Effect | None
    unplaced: int


@dataclass
class _Collected:
    """What is kept of a file: numbers, no texts."""

    batches: list[dict[str, Any]] = field(default_factory=list)
    groups: dict[bytes, int] = field(default_factory=dict)
    unscored: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    rejects: list[str] = field(default_factory=list)
    solutions: int = 0

    def reject(self, row: RejectedRow) -> None:
        self.rejected[row.reason] += 1
        if len(self.rejects) < _SHOWN:
            self.rejects.append(f"{row.where}: {row.detail}")

    def group(self, problem: str) -> int:
        digest = hashlib.sha256(problem.encode()).digest()[:16]
        return self.groups.setdefault(digest, len(self.groups))

    def table(self) -> StepTable:
        columns = {
            "score_S": np.float64, "label_S": np.int8, "counted_S": np.bool_, "end_S": np.int32, "steps_N": np.int64,
            "first_error_N": np.int64, "group_N": np.int64, "answer_N": np.float32, "placed_N": np.bool_,
        }  # fmt: skip
        empty = np.zeros(0)
        return StepTable(
            **{
                name: np.concatenate([empty, *(batch[name] for batch in self.batches)]).astype(kind)
                for name, kind in columns.items()
            }
        )


def check_labels(
    form: LabelFormat,
    url: str,
    *,
    scores: StepScores,
    tokenizer: str | None = None,
    threshold: float = 0.5,
    config: ShapingConfig = PROCESS_ALONE,
    limit: int | None = None,
    max_reject_rate: float = 0.05,
    scored: Callable[[LabelledSolution, SolutionScores], None] | None = None,
    progress: Report | None = None,
) -> LabelReport:
    """Compare scores with the labels of a file, and the advantages that `config` makes of both.

    tokenizer: the folder of the model to be trained, whose tokens the steps are placed on; without one there are no
    advantages. threshold: a step that scores below it is called wrong. limit: only so many solutions, the first ones.
    scored: told of each solution. Memory holds some numbers a step, and no texts.

    Raises RowFileError, LabelFileError, LabelScoresError, and LabelRejectsError where a larger share than
    max_reject_rate of the rows is rejected.
    """
    place = None if tokenizer is None else _Places(tokenizer)
    found = _Collected()
    solutions = _solutions(form, url, found)
    while batch := list(islice(solutions, min(_BATCH, _BATCH if limit is None else limit - found.solutions))):
        found.solutions += len(batch)
        results = scores(batch)
        for solution, result in zip(batch, results, strict=True):
            if scored is not None:
                scored(solution, result)
        found.batches.append(_numbers(batch, results, form=form, place=place, found=found))
        if progress is not None:
            progress(found.solutions, limit or 0)
    rejected = found.rejected.total()
    if rejected > max_reject_rate * (rejected + found.solutions):
        raise LabelRejectsError(
            f"{url}: {rejected:,} rows are not what format {form.name} says, beside {found.solutions:,} solutions "
            f"that are; more than {max_reject_rate:.0%} is refused. {'; '.join(found.rejects)}. Name the file's "
            "format, mend those rows, or let more pass with --max-reject-rate."
        )
    return _report(form, found, threshold=threshold, config=None if place is None else config)


def _solutions(form: LabelFormat, url: str, found: _Collected) -> Iterator[LabelledSolution]:
    for one in read_labels(form, url):
        if isinstance(one, RejectedRow):
            found.reject(one)
        else:
            yield one


class _Places:
    """Steps given as text, as ends on a tokenizer's tokens."""

    def __init__(self, folder: str) -> None:
        self._tokenizer = spelling_tokenizer(load_tokenizer(folder))
        self._decode = tokenizer_decode(folder)

    def ends(self, steps: Sequence[str], between: str) -> list[int] | None:
        """None where the tokens spell the steps otherwise, or one of them spans two steps."""
        ids = self._tokenizer.encode(between.join(steps), add_special_tokens=False).ids
        try:
            return ends_of_steps(ids, steps, between=between, decode=self._decode)
        except GivenStepsError:
            return None


def _numbers(
    solutions: Sequence[LabelledSolution],
    results: Sequence[SolutionScores],
    *,
    form: LabelFormat,
    place: _Places | None,
    found: _Collected,
) -> dict[str, Any]:
    """The columns of a StepTable for the solutions that have scores; the others are counted."""
    rows: dict[str, list[Any]] = {name: [] for name in StepTable.__dataclass_fields__}
    for solution, result in zip(solutions, results, strict=True):
        if result.score_S is None:
            found.unscored[result.status] += 1
            continue
        size = len(solution.steps)
        ends = None if place is None else place.ends(solution.steps, form.between)
        rows["score_S"].extend(result.score_S)
        rows["label_S"].extend(_LABELS[label] for label in solution.labels)
        rows["counted_S"].extend(index >= solution.shared for index in range(size))
        rows["end_S"].extend(ends if ends is not None else [0] * size)
        rows["steps_N"].append(size)
        rows["first_error_N"].append(UNKNOWN_ERROR if solution.first_error is None else solution.first_error)
        rows["group_N"].append(found.group(solution.problem))
        rows["answer_N"].append(np.nan if solution.answer_correct is None else float(solution.answer_correct))
        rows["placed_N"].append(ends is not None)
    return {name: np.asarray(values) for name, values in rows.items()}


def _report(form: LabelFormat, found: _Collected, *, threshold: float, config: ShapingConfig | None) -> LabelReport:
    table = found.table()
    group_S = np.repeat(table.group_N, table.steps_N)
    right_S, wrong_S, neither_S = (
        table.counted_S & (table.label_S == kind) for kind in (RIGHT, WRONG, NEITHER)
    )  # fmt: skip
    told = np.flatnonzero(table.first_error_N != UNKNOWN_ERROR)
    part = table.take(told)
    cases = error_cases(part.score_S, part.starts_N, part.first_error_N)
    labelled_S = right_S | wrong_S
    shaped = config if table.placed_N.any() else None
    return LabelReport(
        labels=form.name,
        judged_by=form.judged_by,
        solutions=len(table.steps_N),
        unscored=dict(found.unscored),
        rejected=dict(found.rejected),
        rejects=found.rejects,
        problems=len(np.unique(table.group_N)),
        alone=int((np.bincount(table.group_N) == 1).sum()),
        right=int(right_S.sum()),
        wrong=int(wrong_S.sum()),
        neither=int(neither_S.sum()),
        auc=auc(table.score_S, right_S, wrong_S),
        auc_in_problem=auc_in_groups(table.score_S, right_S, wrong_S, group_S),
        first_error=first_errors(cases, threshold),
        best_first_error=best_first_errors(cases),
        calibration=calibration(table.score_S[labelled_S], right_S[labelled_S]),
        advantages=None if shaped is None else effect(table, shaped),
        advantages_by_labels=None if shaped is None else effect(table.scored_by_labels(), shaped),
        unplaced=0 if config is None else int((~table.placed_N).sum()),
    )
