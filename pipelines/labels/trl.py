"""TRL's stepwise supervision: prompt, completions (the steps' texts), labels (one a step, true or false, or 0 to 1).

A number above 0.5 is right, one below it wrong, 0.5 itself neither. Whether a solution without a wrong step goes on
to a right answer is not said; that it holds no wrong step is, where every step is labelled right.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.labels.record import NO_ERROR, LabelFormat, LabelledSolution, first_wrong
from pipelines.rows.fields import FIELDS, LABELS, as_object, list_of, of, text, texts
from pipelines.rows.record import RowError


def read(row: Mapping[str, Any], key: str, where: str) -> Iterator[LabelledSolution]:
    """The row's solution."""
    steps = texts(row, "completions")
    given = list_of(row, "labels")
    if len(given) != len(steps):
        raise RowError(LABELS, f"there are {len(steps)} completions and {len(given)} labels; each step needs its own")
    labels = tuple(_label(value, f"labels[{at}]") for at, value in enumerate(given))
    error = first_wrong(labels)
    yield LabelledSolution(
        key=key,
        problem=_problem(row),
        steps=steps,
        labels=labels,
        first_error=NO_ERROR if all(labels) else error,
        where=where,
    )


def _problem(row: Mapping[str, Any]) -> str:
    """The prompt, or what the user said last in a prompt of messages."""
    given = of(row, "prompt")
    if not isinstance(given, list):
        return text(row, "prompt")
    messages = [as_object(message, f"prompt[{at}]") for at, message in enumerate(given)]
    said = [message for message in messages if message.get("role") == "user"]
    if not said:
        raise RowError(FIELDS, "prompt holds no message of the user")
    return text(said[-1], "content")


def _label(value: Any, name: str) -> bool | None:
    if isinstance(value, bool):
        return value
    if not isinstance(value, int | float) or not (math.isfinite(value) and 0 <= value <= 1):
        raise RowError(LABELS, f"{name} is {value!r}, neither true nor false nor a number from 0 to 1")
    return None if value == 0.5 else value > 0.5


TRL = LabelFormat(
    name="trl",
    read=read,
    between="\n",
    judged_by="its maker",
    after_error=True,
    source="TRL's documentation, dataset formats, stepwise supervision",
)
