"""What the signals share that score reasoning steps: where a rollout is cut, and the task it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated

import pyarrow as pa
from annotated_types import MinLen

from pipelines.options import options
from pipelines.signals.base import Row, SignalBase, SignalInputError, SignalOptionError
from pipelines.signals.cutting import cut_part
from pipelines.signals.steps import Steps

#: columns of rollouts that `StepwiseSignal.cut` and `tasks` read
STEP_COLUMNS = ("group_id", "token_ids", "text")

#: the row of a completion without tokens
EMPTY = Row(values={"process_scores": [], "process_ends": []})


@options(SignalOptionError)
class StepwiseSignal(SignalBase):
    """A signal over steps; `pipelines.signals.steps` says how completions are cut."""

    separator: Annotated[str, MinLen(1)] = "\n\n"
    """Text between two steps."""
    _tokenizer_folder: str = field(default="", init=False, repr=False, compare=False)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The prompts: a step is judged against its task."""
        return ("prompts",)

    @property
    def needs_known(self) -> tuple[str, ...]:
        """The token ids: steps end at them."""
        return ("token_ids",)

    @property
    def needs_tokenizer(self) -> bool:
        """Yes."""
        return True

    def setup(self, tokenizer_folder: str) -> None:
        """The policy's tokenizer, by which step ends are found."""
        object.__setattr__(self, "_tokenizer_folder", tokenizer_folder)

    def cut(self, rollouts: pa.Table) -> list[Steps]:
        """The steps of every rollout, in order."""
        return cut_part(rollouts, separator=self.separator, folder=self._tokenizer_folder)


def tasks(rollouts: pa.Table, prompts: pa.Table) -> list[str]:
    """What each rollout's task is, in words. Raises SignalInputError where a rollout's prompt is not among these."""
    texts = prompt_texts(prompts)
    groups = rollouts["group_id"].to_pylist()
    missing = next((group for group in groups if group not in texts), None)
    if missing is not None:
        raise SignalInputError(
            f"group {missing!r} of the rollouts is not among the prompts of this part; they do not belong together"
        )
    return [texts[group] for group in groups]


def prompt_texts(prompts: pa.Table) -> Mapping[str, str]:
    """prompt_id -> what the task is: the prompt, or the content of the last message of a chat's user."""
    found: dict[str, str] = {}
    for row in prompts.select(["prompt_id", "prompt", "messages"]).to_pylist():
        said = [message["content"] for message in row["messages"] or [] if message["role"] == "user"]
        found[row["prompt_id"]] = row["prompt"] if row["prompt"] is not None else said[-1] if said else ""
    return found
