"""Many rollouts as columns: what a decoded part is, and what a step takes from parts.

Dimensions: _R rollouts, _R1 rollouts + 1 (offsets), _C completion tokens of all of them, one rollout after the other,
_Q their prompt tokens likewise, _K those of _C that have a loss, _T the completion tokens of one rollout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

COMPLETION_COLUMNS = ("tokens_C", "mask_C", "behavior_C", "advantages_C", "old_C", "reference_C")


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """One rollout's arrays. old_T and reference_T are None where nothing needs them, NaN where none is stored."""

    rollout_id: str
    prompt_ids: NDArray[np.int32]
    token_ids_T: NDArray[np.int32]
    mask_T: NDArray[np.bool_]
    behavior_T: NDArray[np.float32]
    advantages_T: NDArray[np.float32]
    old_T: NDArray[np.float32] | None = None
    reference_T: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.token_ids_T)


@dataclass(frozen=True, kw_only=True, eq=False)
class Rollouts(Sequence[Rollout]):
    """Rollouts as columns; an item is one of them, as views. The completion columns share token_offsets_R1."""

    ids_R: pa.Array  # strings: an eighth of what as many Python objects take, and two shuffle windows are held
    prompt_offsets_R1: NDArray[np.int64]
    prompt_Q: NDArray[np.int32]
    token_offsets_R1: NDArray[np.int64]
    tokens_C: NDArray[np.int32]
    mask_C: NDArray[np.bool_]
    behavior_C: NDArray[np.float32]
    advantages_C: NDArray[np.float32]
    old_C: NDArray[np.float32] | None = None
    reference_C: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, rollouts: Sequence[Rollout]) -> Rollouts:
        """The same rollouts, copied; a column that some of them lack is left out."""
        columns: dict[str, Any] = {}
        for column in COMPLETION_COLUMNS:
            field = {"tokens_C": "token_ids_T"}.get(column, column.replace("_C", "_T"))
            arrays = [getattr(rollout, field) for rollout in rollouts]
            columns[column] = None if any(array is None for array in arrays) else np.concatenate(arrays)
        return cls(
            ids_R=pa.array([rollout.rollout_id for rollout in rollouts], pa.string()),
            prompt_offsets_R1=offsets_of([len(rollout.prompt_ids) for rollout in rollouts]),
            prompt_Q=np.concatenate([rollout.prompt_ids for rollout in rollouts]),
            token_offsets_R1=offsets_of([len(rollout.token_ids_T) for rollout in rollouts]),
            **columns,
        )

    @classmethod
    def joined(cls, pieces: Sequence[tuple[Rollouts, int, int]]) -> Rollouts:
        """Rows `start` to `stop` of each piece (rollouts, start, stop), one piece after the other, copied."""
        prompts = [slice(part.prompt_offsets_R1[a], part.prompt_offsets_R1[b]) for part, a, b in pieces]
        tokens = [slice(part.token_offsets_R1[a], part.token_offsets_R1[b]) for part, a, b in pieces]
        parts = [part for part, _, _ in pieces]
        columns: dict[str, Any] = {}
        for column in COMPLETION_COLUMNS:
            if getattr(parts[0], column) is not None:
                columns[column] = np.concatenate([getattr(p, column)[s] for p, s in zip(parts, tokens, strict=True)])
        return cls(
            ids_R=pa.concat_arrays([part.ids_R[a:b] for part, a, b in pieces]),
            prompt_offsets_R1=offsets_of(_lengths([part.prompt_offsets_R1[a : b + 1] for part, a, b in pieces])),
            prompt_Q=np.concatenate([part.prompt_Q[s] for part, s in zip(parts, prompts, strict=True)]),
            token_offsets_R1=offsets_of(_lengths([part.token_offsets_R1[a : b + 1] for part, a, b in pieces])),
            **columns,
        )

    def __len__(self) -> int:
        return len(self.ids_R)

    @overload
    def __getitem__(self, row: int) -> Rollout: ...
    @overload
    def __getitem__(self, row: slice) -> list[Rollout]: ...
    def __getitem__(self, row: int | slice) -> Rollout | list[Rollout]:
        if isinstance(row, slice):
            return [self[r] for r in range(*row.indices(len(self)))]
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        row %= len(self)
        prompt = slice(self.prompt_offsets_R1[row], self.prompt_offsets_R1[row + 1])
        tokens = slice(self.token_offsets_R1[row], self.token_offsets_R1[row + 1])
        return Rollout(
            rollout_id=self.ids_R[row].as_py(),
            prompt_ids=self.prompt_Q[prompt],
            token_ids_T=self.tokens_C[tokens],
            mask_T=self.mask_C[tokens],
            behavior_T=self.behavior_C[tokens],
            advantages_T=self.advantages_C[tokens],
            old_T=None if self.old_C is None else self.old_C[tokens],
            reference_T=None if self.reference_C is None else self.reference_C[tokens],
        )

    @property
    def rollout_ids(self) -> tuple[str, ...]:
        """The name of each."""
        return tuple(self.ids_R.to_pylist())

    @cached_property
    def prompt_lengths_R(self) -> NDArray[np.int64]:
        """Prompt tokens of each."""
        return np.diff(self.prompt_offsets_R1)

    @cached_property
    def token_lengths_R(self) -> NDArray[np.int64]:
        """Completion tokens of each."""
        return np.diff(self.token_offsets_R1)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Completion positions of some rollouts: row r has positions_K[starts_R1[r]:starts_R1[r + 1]], counted in _C."""

    positions_K: NDArray[np.int64]
    starts_R1: NDArray[np.int64]

    @classmethod
    def where(cls, marked_C: NDArray[np.bool_], rollouts: Rollouts) -> Kept:
        """The marked ones."""
        positions_K = np.flatnonzero(marked_C)
        return cls(positions_K=positions_K, starts_R1=np.searchsorted(positions_K, rollouts.token_offsets_R1))

    @cached_property
    def counts_R(self) -> NDArray[np.int64]:
        """How many of each rollout."""
        return np.diff(self.starts_R1)

    def row(self, row: int) -> NDArray[np.int64]:
        """Those of one rollout."""
        return self.positions_K[self.starts_R1[row] : self.starts_R1[row + 1]]

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of these rollouts, one after the other."""
        bounds = zip(self.starts_R1[rows].tolist(), self.starts_R1[rows + 1].tolist(), strict=True)
        return np.concatenate([self.positions_K[first:last] for first, last in bounds])

    def none(self) -> Kept:
        """No position of any of the rollouts."""
        return Kept(positions_K=self.positions_K[:0], starts_R1=np.zeros_like(self.starts_R1))


def kept_tokens(rollouts: Rollouts) -> Kept:
    """Unmasked completion positions whose stored log-probabilities are finite: the tokens that have a loss."""
    kept_C = rollouts.mask_C & np.isfinite(rollouts.behavior_C)
    for stored_C in (rollouts.old_C, rollouts.reference_C):
        if stored_C is not None:
            kept_C &= np.isfinite(stored_C)
    return Kept.where(kept_C, rollouts)


def _lengths(pieces: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """The lengths between these offsets, one piece after the other; nothing is kept of the parts' other rows."""
    return np.concatenate([np.diff(offsets_R1) for offsets_R1 in pieces])


def offsets_of(lengths_R: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each of these lengths starts, one after the other, and where the last one ends."""
    starts_R1 = np.zeros(len(lengths_R) + 1, np.int64)
    np.cumsum(lengths_R, out=starts_R1[1:])
    return starts_R1
