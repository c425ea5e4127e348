"""Published step labels as rollouts: the formats of `pipelines.labels`, whose steps become the signal `steps`.

A right step has 1, a wrong one 0. A solution with a step that its source does not judge (behind ProcessBench's first
error, PRM800K's neutral ones) has no process signal: null, with the reason. Solutions of one problem are a group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from pipelines.imports.record import Format, Place, Record
from pipelines.labels import FORMATS, LabelFormat

#: name of the import -> format of labels; `trl` is TRL's completions
NAMES = {("trl_stepwise" if name == "trl" else name): form for name, form in FORMATS.items()}


def read(row: Mapping[str, Any], place: Place, *, labels: LabelFormat) -> Iterator[Record]:
    """The row's solutions."""
    for solution in labels.read(row, str(place.number), place.where):
        correct = solution.answer_correct
        yield Record(
            prompt=solution.problem,
            text=labels.between.join(solution.steps),
            steps=solution.steps,
            step_scores=[None if label is None else float(label) for label in solution.labels],
            between=labels.between,
            answer=solution.answer,
            rewards={} if correct is None else {"answer_correct": float(correct)},
        )


LABELLED = {
    name: Format(
        name=name,
        read=partial(read, labels=labels),
        about=f"step labels, judged by {labels.judged_by}",
        files=(".jsonl", ".ndjson", ".json", ".parquet"),
        ids="absent",
        logprobs="absent",
        mask="absent",
        group="prompt",
        source=labels.source,
    )
    for name, labels in NAMES.items()
}
