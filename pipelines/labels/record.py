"""What a file of step labels holds, whatever its format: one solution of one problem, and what is known of its steps.

Nothing is invented: a step that the source says nothing of has the label None, and so has one that it calls neither
right nor wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pass_ops.errors import PassError

#: `LabelledSolution.first_error` of a solution whose steps are all free of errors
NO_ERROR = -1


class LabelFileError(PassError, ValueError):
    """A file of labels holds no row."""


class LabelFormatError(PassError, ValueError):
    """A format of labels is named that there is not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledSolution:
    """One solution, step by step.

    key: names it within its file. problem: what a policy would be asked; solutions of one problem form a group.
    steps: their texts, none blank. labels: for each True (right), False (wrong) or None (not said, or neither).
    first_error: index of the first wrong step, NO_ERROR where the source says that there is none, None where it does
    not say. shared: how many leading steps stand, with their labels, in an earlier record of the same row (a tree of
    alternatives): whoever counts labels counts them once. answer: the reference answer. answer_correct: whether the
    final answer is right. where: file and line.
    """

    key: str
    problem: str
    steps: tuple[str, ...]
    labels: tuple[bool | None, ...]
    first_error: int | None
    where: str
    shared: int = 0
    answer: str | None = None
    answer_correct: bool | None = None


#: the solutions of one row, by its values, its key and its place; raises RowError
ReadRow = Callable[[Mapping[str, Any], str, str], Iterator[LabelledSolution]]


@dataclass(frozen=True, kw_only=True)
class LabelFormat:
    """One published form of step labels, and what a file of it knows.

    read: a row's solutions. between: the text that stood between two steps. judged_by: whose labels they are: people,
    continuations of a model (Monte Carlo), or whoever made the file. after_error: whether steps behind the first wrong
    one are labelled as well. source: where the form is described.
    """

    name: str
    read: ReadRow
    between: str
    judged_by: Literal["people", "Monte Carlo", "its maker"]
    after_error: bool
    source: str


def first_wrong(labels: tuple[bool | None, ...]) -> int | None:
    """Index of the first step labelled wrong; None without one.

    >>> first_wrong((True, None, False, True)), first_wrong((True, None))
    (2, None)
    """
    return labels.index(False) if False in labels else None
