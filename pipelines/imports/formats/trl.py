"""TRL's completions files (GRPOTrainer, `log_completions`): `completions/completions_{step:05d}.parquet`.

One row a rollout: step, prompt and completion (each a text or a list of messages), one column for each reward function
by its name, extra columns logged by reward functions, advantage. No ids, no log-probabilities. A group is a run of rows
with equal prompts; the same prompt may come twice in one step, so two such groups side by side look like one: give
--group-size (num_generations) to tell them apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.imports.record import Format, Place, Record
from pipelines.imports.values import completion_text, rewards_of, said_or_text
from pipelines.rows.fields import of

_OWN = frozenset({"step", "prompt", "completion", "advantage", "images", "image"})


def read(row: Mapping[str, Any], place: Place) -> Iterator[Record]:
    """The row's rollout."""
    text, turns = completion_text(of(row, "completion"), "completion")
    yield Record(
        text=text,
        turns=turns,
        group=f"step-{row['step']}" if "step" in row else place.stem,
        rewards=rewards_of(row, but=_OWN),
        **said_or_text(of(row, "prompt"), "prompt"),
    )


TRL = Format(
    name="trl",
    read=read,
    about="TRL's completions files",
    files=(".parquet",),
    ids="absent",
    logprobs="absent",
    mask="absent",
    group="neighbours",
    source="TRL 1.16, trl/trainer/grpo_trainer.py, log_completions",
)
