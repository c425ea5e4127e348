"""How a stage's work is done: what every stage takes alike, and no byte of a result depends on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pass_ops.errors import PassError
from pipelines.runners import RunnerOptions

Progress = Callable[[int, int], None]


class OperationsError(PassError, ValueError):
    """An operational option is outside its range."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a configuration's [operations] sets.

    parts_in_flight: parts of one worker under way at once; None = what the stage can use (`PartWork.has_room`: two, and
    of `generate` as many as keep its engine full). max_attempts: a part that failed so often is given up
    (`_failed`) and the others go on; a later run tries it again. max_reject_rate: above this share of rejected rollouts
    a dataset is not finalized.
    """

    parts_in_flight: int | None = None
    max_attempts: int = 3
    max_reject_rate: float = 0.05

    def __post_init__(self) -> None:
        in_flight = 1 if self.parts_in_flight is None else self.parts_in_flight
        if in_flight < 1 or self.max_attempts < 1 or not 0 <= self.max_reject_rate <= 1:
            raise OperationsError(
                "parts_in_flight and max_attempts must be at least 1, max_reject_rate between 0 and 1, not "
                f"{self.parts_in_flight}, {self.max_attempts} and {self.max_reject_rate}"
            )


@dataclass(frozen=True, kw_only=True)
class Operations(Limits):
    """The limits, and what belongs to one call.

    runner: where the Beam job runs. overwrite: replace a dataset that was made with other options. progress: called
    with (parts done, parts in all) from a thread of its own.
    """

    runner: RunnerOptions = field(default_factory=RunnerOptions)
    overwrite: bool = False
    progress: Progress | None = None
