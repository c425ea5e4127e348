"""No group is in two parts: held against millions of names in eight bytes each (decision 131)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


class GroupsOfParts:
    """Which groups the parts of a dataset hold, as hashes of their names, which are the same within one process."""

    def __init__(self) -> None:
        self._hashes: dict[int, NDArray[np.int64]] = {}

    def add(self, part: int, names: pa.ChunkedArray) -> None:
        """Take note of the groups of a part; a name may be there several times."""
        self._hashes[part] = np.fromiter(set(map(hash, names.to_pylist())), np.int64)

    def twice(self, names_of: Callable[[int], pa.ChunkedArray]) -> Iterator[tuple[int, str, int]]:
        """(part, name, the first part that has it) of every group that an earlier part holds too.

        names_of: the names of a part, once more; asked only of parts in which a hash is that of another part's group.
        """
        hashes = np.concatenate([np.zeros(0, np.int64), *self._hashes.values()])
        hashes.sort()
        shared = hashes[1:][hashes[1:] == hashes[:-1]]
        first: dict[str, int] = {}
        for part in self._hashes if len(shared) else ():
            own = self._hashes[part]
            if (shared[np.searchsorted(shared, own, side="right") - 1] == own).any():
                for name in names_of(part).unique().to_pylist():
                    if first.setdefault(name, part) != part:
                        yield part, name, first[name]
