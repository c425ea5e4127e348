"""What is found out about a source while its rows pass by: which columns they have, how exact the numbers are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipelines.imports.record import Record

#: rounding to so many decimals is told from chance; more are as many as float32 holds
MOST_DECIMALS = 5
#: how far a float32 of this size may lie from the decimal it stands for, relative to it
_FLOAT32 = 2.0**-23
_COLUMNS = ("token_ids", "prompt_token_ids", "logprobs", "finish_reason", "text", "task")


@dataclass(kw_only=True)
class Known:
    """Counts over the good rows. has: column -> rows that have it. temperatures, models: the values met, None too.

    turns: the most messages that the policy wrote in one completion.
    """

    rows: int = 0
    has: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_COLUMNS, 0))
    temperatures: set[float | None] = field(default_factory=set)
    models: set[str] = field(default_factory=set)
    rewards: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    turns: int = 1
    logprobs_seen: int = 0
    on_grid: list[bool] = field(default_factory=lambda: [True] * (MOST_DECIMALS + 1))

    def note(self, record: Record) -> None:
        """One more good row."""
        self.rows += 1
        has = self.has
        if record.token_ids is not None:
            has["token_ids"] += 1
            has["prompt_token_ids"] += record.prompt_token_ids is not None
            has["logprobs"] += record.logprobs is not None
        has["finish_reason"] += record.finish_reason is not None
        has["text"] += record.text is not None
        has["task"] += record.prompt is not None or record.messages is not None
        self.steps += record.steps is not None
        self.turns = max(self.turns, record.turns)
        self.temperatures.add(record.temperature)
        if record.model is not None:
            self.models.add(record.model)

    def reward_number(self, name: str) -> int:
        """The number of a reward's name."""
        return self.rewards.setdefault(name, len(self.rewards))

    def note_logprobs(self, rows: Sequence[Any]) -> None:
        """Whether the log-probabilities of some rows lie on a grid of so many decimals. Zeros tell nothing."""
        there = [row for row in rows if row is not None]
        values = np.concatenate([np.zeros(0), *there])
        values = values[values != 0]
        self.logprobs_seen += len(values)
        for decimals, on_grid in enumerate(self.on_grid):
            if on_grid and len(values):
                off = np.abs(np.round(values, decimals) - values)
                self.on_grid[decimals] = bool((off <= _FLOAT32 * np.maximum(np.abs(values), 1e-3)).all())

    @property
    def decimals(self) -> int | None:
        """To how many decimals the log-probabilities were rounded; None where they were not, or nothing can be told."""
        if not self.logprobs_seen:
            return None
        return next((decimals for decimals, on_grid in enumerate(self.on_grid) if on_grid), None)

    def all_have(self, column: str) -> bool:
        """Whether every good row has it."""
        return self.rows > 0 and self.has[column] == self.rows
