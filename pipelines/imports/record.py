"""What a row of a foreign source becomes, whatever its format, and what a format declares that its source knows.

Nothing is invented: what a source does not say is None here and null in the datasets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from pass_ops.errors import PassError
from pipelines.rows.read import SourceRow, read_rows
from pipelines.rows.record import RejectedRow

#: a chat, as the contract's `messages` has it
Messages = Sequence[Mapping[str, str]]

#: a list of numbers, one a token, as a source or as numpy has it
Numbers = Sequence[Any] | np.ndarray[Any, Any]


class ImportFormatError(PassError, ValueError):
    """A format is named that there is not, or its options do not fit it."""


class ImportSourceError(PassError, ValueError):
    """A source cannot be imported as a whole: it is not there, of another kind or version, or holds nothing usable."""


class Place(NamedTuple):
    """Where a row stands. file: its name below the source; number: a line's from 1, a Parquet row's from 0."""

    file: str
    number: int
    where: str

    @property
    def stem(self) -> str:
        """The file's name without folders and suffix."""
        return self.file.rsplit("/", 1)[-1].split(".", 1)[0]


class Record(NamedTuple):  # a dataclass that is frozen takes twice as long to make
    """One rollout, as its source has it; None: the source does not say.

    group: what tells its group from others (see `Format.group`). sample_index: its place in the group. prompt or
    messages: the task. text: the completion. prompt_token_ids, token_ids: int, of the prompt and the completion.
    logprobs: natural logarithms, one a completion token. loss_mask: bool, one a completion token, with the polarity
    that the format declares. finish_reason: stop or length. answer: the reference answer. source: a name of the data
    set. extra: further values of the prompt. rewards: name -> value, None where it has none. steps: the completion's
    steps as texts, with `between` after each but the last; step_scores: one a step. temperature: it was sampled at.
    model: who sampled it. turns: messages that the policy wrote.
    """

    text: str | None = None
    group: str | None = None
    sample_index: int | None = None
    prompt: str | None = None
    messages: Messages | None = None
    prompt_token_ids: Numbers | None = None
    token_ids: Numbers | None = None
    logprobs: Numbers | None = None
    loss_mask: Numbers | None = None
    finish_reason: str | None = None
    answer: str | None = None
    source: str | None = None
    extra: Mapping[str, Any] | None = None
    rewards: Mapping[str, float | None] = MappingProxyType({})
    steps: Sequence[str] | None = None
    step_scores: Sequence[float | None] | None = None
    between: str = ""
    temperature: float | None = None
    model: str | None = None
    turns: int = 1


#: the rollouts of one row, by its values and its place; raises RowError
Read = Callable[[Mapping[str, Any], Place], Iterator[Record]]


class Rows(Protocol):
    """How a file is read: its rows in order, without the first `skip` of those that it gives. Raises RowFileError."""

    def __call__(self, url: str, *, skip: int = 0) -> Iterator[SourceRow | RejectedRow]: ...


@dataclass(frozen=True, kw_only=True)
class Format:
    """One foreign format, and what a file of it knows.

    read: a row's rollouts. files: suffixes of its files, for a source that is a folder.
    ids: whether rows have token ids: all of them, some, or none. logprobs: exact: as the sampler gave them; some: the
    same, only where the run asked for them; detect: perhaps rounded, which the values tell; absent.
    mask: counts: True is a token that the policy chose; ignored: True is one that it did not; assumed: the format knows
    none, and every token of its completions is the policy's; absent: nothing is known.
    group: key: `Record.group` names it; prompt: rows of equal prompts (and equal `group`, where given) wherever they
    stand; neighbours: the same, as long as they follow one another; row: the rollouts of one row.
    temperature, tokenizer: whether the source names them. source: where the format is described.
    rows: how a file is read that is neither JSON nor Parquet. joined: for rows that say all only together with others:
    makes `read` out of the URLs of all files.
    """

    name: str
    read: Read
    about: str
    files: tuple[str, ...]
    ids: Literal["all", "some", "absent"]
    logprobs: Literal["exact", "detect", "some", "absent"]
    mask: Literal["counts", "ignored", "assumed", "absent"]
    group: Literal["key", "prompt", "neighbours", "row"]
    temperature: Literal["source", "unknown"] = "unknown"
    tokenizer: Literal["source", "unknown"] = "unknown"
    source: str
    options: Mapping[str, Any] = field(default_factory=dict)
    rows: Rows = read_rows
    joined: Callable[[Sequence[str]], Read] | None = None
