"""The types of options that several sections share: bounds, names that become folders, and lists kept as tuples.

A size has an upper bound wherever something beyond it breaks: a column whose offsets are int32, a process's memory, the
system's timers. What is far above any use is more often a slip of the keyboard than a wish.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Annotated

from annotated_types import Ge, Gt, Le
from pydantic import AfterValidator, Strict

from pipelines.options.errors import ConfigError
from trainer.option_class import AtLeastOne, Positive

__all__ = [
    "AtLeastOne", "GroupSize", "Name", "PartRows", "Positive", "Rows", "Seconds", "Seed", "Share", "SignalName",
    "Strings", "Tokens", "Tries", "Workers", "ZeroOrMore", "check_name", "named",
]  # fmt: skip

LONGEST_NAME = 100
_NAME = re.compile(r"[^\W_](?:[\w .,+=@()-]*[\w)+])?")

ZeroOrMore = Annotated[int, Ge(0)]
#: a part of the whole, from 0 to 1
Share = Annotated[float, Ge(0), Le(1)]
#: a list of strings, kept as a tuple
Strings = Annotated[tuple[str, ...], Strict(False)]
#: rollouts of one prompt: a group is shaped and stored whole
GroupSize = Annotated[int, Ge(1), Le(65_536)]
#: tokens of one prompt or completion, more than any model's context
Tokens = Annotated[int, Ge(1), Le(2**24)]
#: rows of one part, which is held in memory
PartRows = Annotated[int, Ge(1), Le(2**20)]
#: rows of a source, counted in int32
Rows = Annotated[int, Ge(1), Le(2**31 - 1)]
#: threads, processes, requests or parts under way at once
Workers = Annotated[int, Ge(1), Le(4096)]
#: how often something is tried
Tries = Annotated[int, Ge(1), Le(1000)]
#: a time limit, at most a week: the system's timers end somewhere beyond it
Seconds = Annotated[float, Gt(0), Le(604_800)]
#: a seed that numpy and torch take as well
Seed = Annotated[int, Ge(0), Le(2**32 - 1)]


def check_name(name: str, *, key: str, reserved: Collection[str] = ()) -> str:
    """The name, where it can be a folder's on every store. Raises ConfigError, which names the key.

    >>> check_name("held-out (2)", key="eval.benchmarks")
    'held-out (2)'
    """
    if (problem := _problem(name, reserved)) is not None:
        raise ConfigError(f"{key}: {problem}")
    return name


def _problem(name: str, reserved: Collection[str]) -> str | None:
    if not _NAME.fullmatch(name) or len(name) > LONGEST_NAME or len(name.encode()) > 2 * LONGEST_NAME:
        shown = repr(name) if len(name) <= LONGEST_NAME else f"{name[:20]!r}... of {len(name)} characters"
        return (
            f"{shown} is no name: it becomes a folder, so it begins with a letter or digit, holds letters, digits, "
            f"spaces and _ - . , + = @ ( ) only, and is at most {LONGEST_NAME} characters long"
        )
    if name in reserved:
        return f"{name!r} is taken: the run keeps something else under it; give another"
    return None


def named(*reserved: str) -> AfterValidator:
    """What makes a string the name of a folder, none of the reserved ones."""

    def check(name: str) -> str:
        if (problem := _problem(name, reserved)) is not None:
            raise ValueError(problem)
        return name

    return AfterValidator(check)


#: the name of something that has a folder
Name = Annotated[str, named()]
#: the name of a signal, beside whose inputs `prompts` and `rollouts` it may be one
SignalName = Annotated[str, named("prompts", "rollouts")]
