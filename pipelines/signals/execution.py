"""Signal `execution`: each step of a rollout is checked by computing it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyarrow as pa

from pass_ops.shards import DatasetSpec
from pipelines.signals.base import Row, SignalInputError, SignalOptionError, sidecar
from pipelines.signals.calls import CallingSignal, check_call, check_target
from pipelines.signals.steps import Steps, cut_steps, tokenizer_decode
from pipelines.verifiers.importing import source_digest
from pipelines.verifiers.pool import CallResult

EMPTY = Row(values={"process_scores": [], "process_ends": []})


@dataclass(frozen=True, kw_only=True)
class ExecutionSignal(CallingSignal):
    """process_scores and process_ends, one score a step.

    checker: an import path `module:function` of (prompt, steps, **checker_options) -> a list of one score per step;
    steps are the texts between separators (`pipelines.signals.steps`). It is given a whole rollout at once: timeout_s
    is for one rollout.
    """

    kind: ClassVar[str] = "process_steps"

    checker: str
    checker_options: Mapping[str, Any] = field(default_factory=dict)
    separator: str = "\n\n"
    _tokenizer_folder: str = field(default="", init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.separator:
            raise SignalOptionError('separator is empty; steps are cut at it: give a string such as "\\n\\n"')
        check_target("checker", self.checker)

    @property
    def _target(self) -> str:
        return self.checker

    @property
    def inputs(self) -> tuple[str, ...]:
        """The prompts: a step is checked against its task."""
        return ("prompts",)

    @property
    def needs_tokenizer(self) -> bool:
        """Yes."""
        return True

    def code(self) -> dict[str, str]:
        """The checker."""
        return super().code() | {self.checker: source_digest(self.checker)}

    def check(self, rollouts: DatasetSpec, inputs: Mapping[str, DatasetSpec]) -> None:
        """The checker can be called with its options."""
        check_call("checker", self.checker, ("prompt", "steps"), self.checker_options)

    def setup(self, tokenizer_folder: str) -> None:
        """The policy's tokenizer, by which step ends are found."""
        object.__setattr__(self, "_tokenizer_folder", tokenizer_folder)

    def score(self, rollouts: pa.Table, inputs: Mapping[str, pa.Table]) -> pa.Table:
        """Cut every rollout into steps and have them checked."""
        prompts = prompt_texts(inputs["prompts"])
        cuts = cut_rollouts(rollouts, separator=self.separator, tokenizer_folder=self._tokenizer_folder)
        groups = rollouts["group_id"].to_pylist()
        missing = next((group for group in groups if group not in prompts), None)
        if missing is not None:
            raise SignalInputError(
                f"group {missing!r} of the rollouts is not among the prompts of this part; they do not belong together"
            )
        results = iter(
            self._call(
                [(prompts[group], steps.texts) for group, steps in zip(groups, cuts, strict=True) if steps.ends],
                adapter="pipelines.verifiers.base:plain_scores",
                options=self.checker_options,
            )
        )
        rows = [_row(next(results), steps) if steps.ends else EMPTY for steps in cuts]
        return sidecar(self.kind, rollouts, rows)


def _row(result: CallResult, steps: Steps) -> Row:
    if result.status != "ok":
        return Row(result.status, result.detail)
    if len(result.value) != len(steps.ends):
        return Row("error", f"the checker gave {len(result.value)} scores for {len(steps.ends)} steps")
    return Row(values={"process_scores": result.value, "process_ends": steps.ends})


def cut_rollouts(rollouts: pa.Table, *, separator: str, tokenizer_folder: str) -> list[Steps]:
    """The steps of every rollout, in order."""
    decode = tokenizer_decode(tokenizer_folder)
    columns = (rollouts["token_ids"].to_pylist(), rollouts["text"].to_pylist())
    return [cut_steps(ids, text, separator=separator, decode=decode) for ids, text in zip(*columns, strict=True)]


def prompt_texts(prompts: pa.Table) -> dict[str, str]:
    """prompt_id -> what the task is: the prompt, or the content of the last message of a chat's user."""
    found: dict[str, str] = {}
    for row in prompts.select(["prompt_id", "prompt", "messages"]).to_pylist():
        said = [message["content"] for message in row["messages"] or [] if message["role"] == "user"]
        found[row["prompt_id"]] = row["prompt"] if row["prompt"] is not None else said[-1] if said else ""
    return found
