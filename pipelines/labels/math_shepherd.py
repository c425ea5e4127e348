"""Math-Shepherd: whether a model could still reach the right answer from each step (Monte Carlo, "hard" estimates).

One row a solution: input (problem and steps, each step followed by the tag "ки"), label (the same text with "+" or "-"
where the tags are), task. Nothing but the words "Step 1:" says where the problem ends; where they are missing, its one
question mark does. In some rows a tag stands within the problem: its label belongs to no step.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.labels.record import NO_ERROR, LabelFormat, LabelledSolution, first_wrong
from pipelines.rows.fields import FIELDS, LABELS, MAX_STEPS, step, text
from pipelines.rows.record import RowError

TAG = "ки"
_SIGNS = {"+": True, "-": False}
_FIRST_STEP = re.compile(r"step 1\s*:", re.IGNORECASE)


def read(row: Mapping[str, Any], key: str, where: str) -> Iterator[LabelledSolution]:
    """The row's solution. The last step's label says whether its answer is right: nothing is left to be continued."""
    pieces = text(row, "input").split(TAG)
    labels = _labels(text(row, "label"), pieces)
    *segments, rest = pieces
    if len(segments) > MAX_STEPS:
        raise RowError(FIELDS, f"input holds {len(segments)} steps, more than {MAX_STEPS}")
    if not segments:
        raise RowError(LABELS, f"input holds no tag {TAG!r}, so no step is labelled")
    if rest.strip():
        raise RowError(LABELS, f"input goes on behind its last tag, with {rest.strip()[:40]!r}, which is not labelled")
    if not _FIRST_STEP.search(segments[0]) and len(segments) > 1 and _FIRST_STEP.search(segments[1]):
        segments, labels = [segments[0] + segments[1], *segments[2:]], labels[1:]
    problem, first = _split(segments[0])
    steps = tuple(step(one.strip(), f"step {at}") for at, one in enumerate([first, *segments[1:]], start=1))
    error = first_wrong(labels)
    yield LabelledSolution(
        key=key,
        problem=problem,
        steps=steps,
        labels=labels,
        first_error=NO_ERROR if error is None else error,
        answer_correct=labels[-1],
        where=where,
    )


def _labels(label: str, pieces: list[str]) -> tuple[bool, ...]:
    """The sign at each tag; the text around the signs must be the input's."""
    found, at = [], 0
    for number, piece in enumerate(pieces):
        if label[at : at + len(piece)] != piece:
            raise RowError(
                LABELS, f"label is not the input with a sign for each tag: they differ after {at} characters"
            )
        at += len(piece)
        if number < len(pieces) - 1:
            sign = label[at : at + 1]
            if sign not in _SIGNS:
                raise RowError(LABELS, f"label holds {sign!r} at tag {number + 1}, which is neither '+' nor '-'")
            found.append(_SIGNS[sign])
            at += 1
    if at < len(label):
        raise RowError(LABELS, f"label is not the input with a sign for each tag: longer than {at} characters")
    return tuple(found)


def _split(opening: str) -> tuple[str, str]:
    """Problem and first step."""
    marks = list(_FIRST_STEP.finditer(opening))
    if len(marks) == 1:
        problem, first = opening[: marks[0].start()], opening[marks[0].start() :]
    elif not marks and opening.count("?") == 1:
        at = opening.index("?") + 1
        problem, first = opening[:at], opening[at:]
    else:
        raise RowError(FIELDS, f"where the problem ends is not told: 'Step 1:' stands {len(marks)} times in its part")
    return step(problem.strip(), "the problem"), first


MATH_SHEPHERD = LabelFormat(
    name="math_shepherd",
    read=read,
    between="\n",
    judged_by="Monte Carlo",
    after_error=True,
    source="Wang et al., arXiv 2312.08935; data set peiyi9979/Math-Shepherd",
)
