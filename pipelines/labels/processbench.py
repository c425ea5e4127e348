"""ProcessBench: where people found the first wrong step of a model's solution, in mathematics.

One row a solution: id, generator, problem, steps (texts), final_answer_correct, label (index of the first wrong step,
-1 where there is none). What follows a wrong step was not judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.labels.record import NO_ERROR, LabelFormat, LabelledSolution
from pipelines.rows.fields import FIELDS, index, of, text, texts
from pipelines.rows.record import RowError


def read(row: Mapping[str, Any], _key: str, where: str) -> Iterator[LabelledSolution]:
    """The row's solution; its key is the row's id."""
    steps = texts(row, "steps")
    label = index(row, "label", low=NO_ERROR, high=len(steps) - 1)
    correct = of(row, "final_answer_correct")
    if not isinstance(correct, bool):
        raise RowError(FIELDS, f"final_answer_correct is {correct!r}, not true or false")
    unjudged = 0 if label == NO_ERROR else len(steps) - label - 1
    right = len(steps) if label == NO_ERROR else label
    yield LabelledSolution(
        key=text(row, "id"),
        problem=text(row, "problem"),
        steps=steps,
        labels=(*(True,) * right, *(False,) * (label != NO_ERROR), *(None,) * unjudged),
        first_error=label,
        answer_correct=correct,
        where=where,
    )


PROCESSBENCH = LabelFormat(
    name="processbench",
    read=read,
    between="\n\n",
    judged_by="people",
    after_error=False,
    source="Zheng et al., arXiv 2412.06559; data set Qwen/ProcessBench",
)
