"""A group's block: named arrays behind a JSON head, as docs/reference/view-payload.md describes it.

Axes: rollouts of a group (R).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

DTYPES = {"u1": np.uint8, "i4": np.int32, "u4": np.uint32, "f4": np.float32}
TOKEN, ROLLOUT = "token", "rollout"


@dataclass(frozen=True)
class Array:
    """Values of one dtype of DTYPES. axis: what an item is of; None: the array is the group's."""

    name: str
    axis: str | None
    values: NDArray[Any]

    @property
    def dtype(self) -> str:
        """Its name in the block. Raises KeyError for a type that a block does not hold."""
        return next(name for name, kind in DTYPES.items() if self.values.dtype == kind)

    def planes(self) -> bytes:
        """Little-endian bytes: the first one of every value, then the second ones, and so on."""
        little = np.ascontiguousarray(self.values, self.values.dtype.newbyteorder("<"))
        return little.view(np.uint8).reshape(len(little), -1).T.tobytes() if len(little) else b""


def offsets_of(axis: str, counts_R: NDArray[np.int64]) -> Array:
    """Where each rollout's items lie along an axis.

    >>> offsets_of("token", np.array([2, 0, 3])).values.tolist()
    [0, 2, 2, 5]
    """
    return Array(f"offsets:{axis}", None, np.concatenate([[0], np.cumsum(counts_R)]).astype(np.uint32))


def block(head: Mapping[str, Any], arrays: Iterable[Array]) -> bytes:
    """The bytes of a block: the head's length, the head with the list of arrays, the arrays."""
    listed, pieces, at = [], [], 0
    for array in arrays:
        piece = array.planes()
        listed.append(
            {"name": array.name, "dtype": array.dtype, "axis": array.axis, "at": at, "count": len(array.values)}
        )
        pieces.append(piece)
        at += len(piece)
    text = json.dumps(finite({**head, "arrays": listed}), allow_nan=False).encode()
    return b"".join([len(text).to_bytes(4, "little"), text, *pieces])


def finite(value: Any) -> Any:
    """The value with every number that JSON has not (NaN and the infinities) as None.

    >>> finite({"a": [1.0, float("nan")]})
    {'a': [1.0, None]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return value
