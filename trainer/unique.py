"""No rollout is there twice: held against millions of ids in eight bytes each.

Dimensions: _R rows (rollouts) of one part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from trainer.errors import TrainDataError


class Parts(Protocol):
    """What is asked of the data (`trainer.data.TrainData` has it)."""

    @property
    def places(self) -> tuple[tuple[int, int], ...]:
        """Part -> (source, part of that source)."""

    def read(self, part: int, columns: Sequence[str]) -> pa.Table:
        """A part with these columns."""

    def describe(self, part: int) -> str:
        """Where a part is, for messages."""


def hashes_of(ids: pa.ChunkedArray) -> NDArray[np.uint64]:
    """A 64-bit hash of each id, the same for the same text within one process."""
    hashes_R: NDArray[np.uint64] = pl.Series(pl.from_arrow(ids)).hash().to_numpy()
    return hashes_R


def check_unique(data: Parts, hashes: Sequence[NDArray[np.uint64]]) -> None:
    """Raises TrainDataError where a source has a rollout twice. hashes: of each part's ids (`hashes_of`).

    Ids that share a hash are read again and compared themselves, so two that happen to share one are no error.
    """
    parts_of: dict[int, list[int]] = {}
    for part, (source, _) in enumerate(data.places):
        parts_of.setdefault(source, []).append(part)
    for parts in parts_of.values():
        sorted_R = np.concatenate([hashes[part] for part in parts])
        sorted_R.sort()
        shared = sorted_R[1:][sorted_R[1:] == sorted_R[:-1]]
        twice = _first_twice(data, parts, hashes, shared) if len(shared) else None
        if twice is not None:
            raise TrainDataError(
                f"Rollout {twice} is there more than once in the dataset of {data.describe(parts[0])}: its credit "
                "would count double. Run passrl verify on the dataset, and make it again."
            )


def _first_twice(
    data: Parts, parts: Sequence[int], hashes: Sequence[NDArray[np.uint64]], shared: NDArray[np.uint64]
) -> str | None:
    """The first id that is met a second time, of those whose hash is shared."""
    seen: set[str] = set()
    for part in parts:
        rows_R = np.flatnonzero(np.isin(hashes[part], shared))
        for name in data.read(part, ("rollout_id",))["rollout_id"].take(rows_R).to_pylist() if len(rows_R) else ():
            if name in seen:
                return str(name)
            seen.add(name)
    return None
