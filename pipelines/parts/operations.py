"""How a stage's work is done: what every stage takes alike, and no byte of a result depends on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field

from pass_ops.errors import PassError
from pipelines.options import options
from pipelines.options.types import Share, Strings, Tries, Workers
from pipelines.runners import RunnerOptions

Progress = Callable[[int, int], None]


class OperationsError(PassError, ValueError):
    """An operational option is outside its range."""


@options(OperationsError)
class Limits:
    """How hard a stage tries, and how many rejects it tolerates. No byte of a result depends on it."""

    parts_in_flight: Workers | None = None
    """Parts that one worker has under way at once (default: what the stage can use: two, or as many as keep the engine
    full while generating). Example: 4."""
    max_attempts: Tries = 3
    """A part that failed this often is given up, while the others go on. Attempts of killed commands count too; once a
    part is given up, the next command tries it with a new count."""
    max_reject_rate: Share = 0.05
    """Share of rejected rollouts above which a dataset is not finalized."""
    journal: bool = True
    """While a part is sampled, keeps its finished rollouts beside the dataset, and while one is scored, what a model
    answered, so that the next attempt goes on from there if the worker is lost."""


@options(OperationsError)
class Operations(Limits):
    """The limits, and what belongs to one call."""

    runner: RunnerOptions = field(default_factory=RunnerOptions)
    """Where the Beam job runs."""
    overwrite: bool = False
    """Whether a dataset that was made with other options is replaced."""
    progress: Progress | None = None
    """Called with (parts done, parts in all) from a thread of its own."""
    modules: Strings = ()
    """Folders that workers put at the end of their import path, for signals, verifiers, programs and estimators of your
    own."""
