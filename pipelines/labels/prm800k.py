"""PRM800K: people's ratings of single steps, each -1 (wrong), 0 (no error, no progress) or 1 (right).

One row a labelling session: question {problem, ground_truth_answer, ...}, label {steps, finish_reason, ...}; a step has
completions [{text, rating, flagged}], alternatives of one another, of which chosen_completion went on, or
human_completion, which the labeller wrote where all were wrong. Each path from the first step to a leaf is a solution;
steps before the leaf that an earlier one has too are `shared`. A rating of 0, a flag ("do not know how to label") and
no rating are no label.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.labels.record import NO_ERROR, LabelFormat, LabelledSolution, first_wrong
from pipelines.rows.fields import FIELDS, LABELS, MAX_STEPS, as_object, encodable, list_of, object_of, of, step, text
from pipelines.rows.record import RowError

RATINGS = {-1: False, 0: None, 1: True}
FINISHES = ("found_error", "solution", "bad_problem", "give_up")

#: a step's text and its label
Judged = tuple[str, bool | None]


def read(row: Mapping[str, Any], key: str, where: str) -> Iterator[LabelledSolution]:
    """The paths of the row's tree: alternatives in their order, last the path that went on, where it is one."""
    question, label = object_of(row, "question"), object_of(row, "label")
    problem, answer = text(question, "problem"), question.get("ground_truth_answer")
    finish = of(label, "finish_reason")
    if finish not in FINISHES:
        raise RowError(LABELS, f"finish_reason is {finish!r}, none of {', '.join(FINISHES)}")
    steps = list_of(label, "steps")
    if len(steps) > MAX_STEPS:
        raise RowError(FIELDS, f"steps holds {len(steps)} steps, more than {MAX_STEPS}")
    paths = list(_paths([_step(as_object(one, f"steps[{at}]"), f"steps[{at}]") for at, one in enumerate(steps)]))
    if not paths:
        raise RowError(LABELS, "no step of it was labelled")
    for number, path in enumerate(paths):
        labels = tuple(right for _, right in path.steps)
        error = first_wrong(labels)
        yield LabelledSolution(
            key=key if len(paths) == 1 else f"{key}/{number}",
            problem=problem,
            steps=tuple(words for words, _ in path.steps),
            labels=labels,
            first_error=NO_ERROR if error is None and path.whole and finish == "solution" else error,
            shared=path.shared,
            answer=None if answer is None else encodable(answer, "ground_truth_answer"),
            where=where,
        )


@dataclass(frozen=True)
class _Path:
    """Steps from the first to a leaf, how many of them an earlier path has too, and whether it went on to the end."""

    steps: tuple[Judged, ...]
    shared: int
    whole: bool


def _paths(steps: Sequence[tuple[list[Judged], Judged | None]]) -> Iterator[_Path]:
    """One path for each alternative, behind the steps chosen before it; then the chosen steps, where all are."""
    chosen: list[Judged] = []
    told = 0  # chosen steps that stand in a path already
    for alternatives, went_on in steps:
        for other in alternatives:
            yield _Path((*chosen, other), told, whole=False)
            told = len(chosen)
        if went_on is None:
            return
        chosen.append(went_on)
    if chosen:
        yield _Path(tuple(chosen), told, whole=True)


def _step(value: Mapping[str, Any], name: str) -> tuple[list[Judged], Judged | None]:
    """The alternatives that did not go on, and the completion that did."""
    given = of(value, "completions")
    if not (given is None or isinstance(given, list)):
        raise RowError(FIELDS, f"{name}.completions is {given!r}, not a list")
    found = [_completion(as_object(one, name), f"{name}.completions[{at}]") for at, one in enumerate(given or [])]
    chosen = of(value, "chosen_completion")
    if chosen is not None:
        if type(chosen) is not int or not 0 <= chosen < len(found):
            raise RowError(LABELS, f"{name}.chosen_completion is {chosen!r}, and there are {len(found)} completions")
        return [*found[:chosen], *found[chosen + 1 :]], found[chosen]
    written = of(value, "human_completion")
    if written is None:
        return found, None
    words = written if isinstance(written, str) else as_object(written, f"{name}.human_completion").get("text")
    return found, (step(words, f"{name}.human_completion"), True)


def _completion(value: Mapping[str, Any], name: str) -> Judged:
    rating = of(value, "rating")
    if not (rating is None or (type(rating) is int and rating in RATINGS)):
        raise RowError(LABELS, f"{name}.rating is {rating!r}, none of -1, 0 and 1")
    label = None if rating is None or value.get("flagged") is True else RATINGS[rating]
    return step(of(value, "text"), f"{name}.text"), label


PRM800K = LabelFormat(
    name="prm800k",
    read=read,
    between="\n",
    judged_by="people",
    after_error=False,
    source="Lightman et al., arXiv 2305.20050; github openai/prm800k, prm800k/data",
)
