"""What is found out about a source while its rows pass by: which columns they have, how exact the numbers are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pass_ops.reading.ragged import Array

#: rounding to so many decimals is told from chance; more are as many as float32 holds
MOST_DECIMALS = 5
#: so many values that differ and are all round prove that they were rounded: of exact ones at most a half is by chance,
#: as a float32 (below 20) lies near a decimal of five digits or a bfloat16 is a multiple of 1/32
PROOF = 64
#: how far a float32 of this size may lie from the decimal it stands for, relative to it
_FLOAT32 = 2.0**-23
_COLUMNS = ("token_ids", "prompt_token_ids", "logprobs", "finish_reason", "text", "task")


@dataclass(kw_only=True)
class Known:
    """Counts over the good rows. has: column -> rows that have it. temperatures, models: the values met, None too.

    rewards: name -> number. steps: rows with labelled steps. turns: the most messages of one completion. different: up
    to PROOF log-probabilities other than 0. on_grid: for each number of decimals, whether all log-probabilities have no
    more.
    """

    rows: int = 0
    has: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_COLUMNS, 0))
    temperatures: set[float | None] = field(default_factory=set)
    models: set[str] = field(default_factory=set)
    rewards: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    turns: int = 1
    different: set[float] = field(default_factory=set)
    on_grid: list[bool] = field(default_factory=lambda: [True] * (MOST_DECIMALS + 1))

    def note(self, rows: pa.Table, *, temperatures: Iterable[float | None], models: Iterable[str | None]) -> None:
        """So many more rows of the spool, and what the good ones among them were sampled by."""
        good = pc.is_null(rows["reason"])
        self.rows += pc.sum(good).as_py() or 0
        has_ids = pc.is_valid(rows["token_ids"])
        there = {name: pc.is_valid(rows[name]) for name in ("token_ids", "finish_reason", "text", "steps")}
        there |= {name: pc.and_(pc.is_valid(rows[name]), has_ids) for name in ("prompt_token_ids", "logprobs")}
        there["task"] = pc.or_(pc.is_valid(rows["prompt"]), pc.is_valid(rows["messages"]))
        counts = {name: pc.sum(valid).as_py() or 0 for name, valid in there.items()}
        self.steps += counts.pop("steps")
        for name, count in counts.items():
            self.has[name] += count
        self.turns = max(self.turns, pc.max(rows["turns"]).as_py() or 1)
        self.temperatures.update(temperatures)
        self.models.update(model for model in models if model is not None)
        self._note_logprobs(pc.list_flatten(rows["logprobs"]).to_numpy().astype(np.float64))

    def reward_numbers(self, names: Sequence[str]) -> list[int]:
        """The number of each reward's name."""
        return [self.rewards.setdefault(name, len(self.rewards)) for name in names]

    def _note_logprobs(self, values_N: Array) -> None:
        """Whether they lie on a grid of so many decimals. Zeros tell nothing."""
        values_N = values_N[values_N != 0]
        if len(self.different) < PROOF:
            self.different.update(np.unique(values_N)[: PROOF - len(self.different)].tolist())
        for decimals, on_grid in enumerate(self.on_grid):
            if on_grid and len(values_N):
                off = np.abs(np.round(values_N, decimals) - values_N)
                self.on_grid[decimals] = bool((off <= _FLOAT32 * np.maximum(np.abs(values_N), 1e-3)).all())

    @property
    def decimals(self) -> int | None:
        """How many decimals the log-probabilities have; None where they have more than MOST_DECIMALS, or none tells."""
        if not self.different:
            return None
        return next((decimals for decimals, on_grid in enumerate(self.on_grid) if on_grid), None)

    @property
    def proves_rounding(self) -> bool:
        """Whether log-probabilities of so few decimals cannot be chance."""
        return self.decimals is not None and len(self.different) >= PROOF

    def all_have(self, column: str) -> bool:
        """Whether every good row has it."""
        return self.rows > 0 and self.has[column] == self.rows

    def as_json(self) -> dict[str, Any]:
        """For `from_json`."""
        return {name: list(value) if isinstance(value, set) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Known:
        """What `as_json` gave."""
        sets = {name: set(found[name]) for name in ("temperatures", "models", "different")}
        return cls(**{**found, **sets})
