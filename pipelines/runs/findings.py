"""What the check before a run comes to: its findings, and the error that refuses a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pass_ops.errors import PassError
from pipelines.prompts.stage import PromptRow
from pipelines.runs.fits import StageMemory


class RunRefused(PassError, ValueError):
    """A run would fail, or cost more than it gives; `problems` says why, one line each. Nothing was made."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n  ".join(["not started, because:", *self.problems]))

    def __reduce__(self) -> tuple[type[RunRefused], tuple[tuple[str, ...]]]:
        return type(self), (self.problems,)


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a check found.

    problems: one line each. missing: the same for packages that are not installed here. For an estimate: the prompts of
    the configuration's round (none where no prompts are read), those of each benchmark where these are evaluated, and
    the policy's folder (None where it is not there).
    memory: what each stage holds on a GPU (nothing where no GPUs are known).
    """

    problems: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    prompts: tuple[PromptRow, ...] = ()
    benchmarks: Mapping[str, Sequence[PromptRow]] = field(default_factory=dict)
    policy: str | None = None
    memory: tuple[StageMemory, ...] = ()
