"""Signal `execution`: each step of a rollout is checked by computing it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import ClassVar

import pyarrow as pa

from pass_ops.shards import DatasetSpec
from pass_ops.support.importing import source_digest
from pipelines.options import Table, options
from pipelines.signals.base import SignalOptionError
from pipelines.signals.calls import CallingSignal, check_call, check_target, states
from pipelines.signals.columns import columnar_sidecar
from pipelines.signals.steps import Steps
from pipelines.signals.stepwise import STEP_COLUMNS, StepwiseSignal, tasks
from pipelines.verifiers.pool import CallResult


@options(SignalOptionError)
class ExecutionSignal(StepwiseSignal, CallingSignal):
    """One score per step, by a function that computes what the steps claim. It is called with a whole rollout."""

    kind: ClassVar[str] = "process_steps"

    checker: str
    """module:function of (prompt, steps, **checker_options) -> one score per step; steps are the texts between
    separators. Example: "pipelines.verifiers.equations:check_steps"."""
    checker_options: Table = field(default_factory=dict)
    """Keyword arguments of the checker. Example: { silent = 0.0 }."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_target("checker", self.checker)

    @property
    def _target(self) -> str:
        return self.checker

    def code(self) -> dict[str, str]:
        """The checker."""
        return super().code() | {self.checker: source_digest(self.checker)}

    def check(self, rollouts: DatasetSpec, inputs: Mapping[str, DatasetSpec]) -> None:
        """The checker can be called with its options."""
        check_call("checker", self.checker, ("prompt", "steps"), self.checker_options)

    @property
    def reads(self) -> tuple[str, ...]:
        """What steps are cut from, and the group, which is the prompt's."""
        return STEP_COLUMNS

    def score(self, rollouts: pa.Table, inputs: Mapping[str, pa.Table]) -> pa.Table:
        """Cut every rollout into steps and have them checked."""
        cuts = self.cut(rollouts)
        said = tasks(rollouts, inputs["prompts"])
        asked = [(task, steps.texts) for task, steps in zip(said, cuts, strict=True) if steps.ends]
        results = iter(self._call(asked, adapter="pipelines.verifiers.base:plain_scores", options=self.checker_options))
        found = [_checked(next(results), steps) if steps.ends else CallResult("ok", []) for steps in cuts]
        values = {
            "process_scores": [result.value for result in found],
            "process_ends": [steps.ends for steps in cuts],
        }
        return columnar_sidecar(self.kind, rollouts, values, **states(found))


def _checked(result: CallResult, steps: Steps) -> CallResult:
    """The result, an error where it has not one score a step."""
    if result.status == "ok" and len(result.value) != len(steps.ends):
        return CallResult("error", None, f"the checker gave {len(result.value)} scores for {len(steps.ends)} steps")
    return result
