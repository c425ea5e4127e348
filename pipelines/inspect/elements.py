"""The elements of a process signal, steps or tokens, as arrays end to end.

Axes: rollouts (R), their elements (E), their tokens (N).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pass_ops.reading.ragged import list_lengths, list_values


@dataclass(frozen=True, kw_only=True)
class Elements:
    """One process signal: row_E, the rollout an element belongs to; value_E; tokens_E, how many tokens it covers;
    live_E, whether one of them counts; valid_R, whether the rollout has values (a null list has none).
    """

    row_E: NDArray[np.int64]
    value_E: NDArray[np.float64]
    tokens_E: NDArray[np.int64]
    live_E: NDArray[np.bool_]
    valid_R: NDArray[np.bool_]

    @property
    def first_E(self) -> NDArray[np.bool_]:
        """The first element of each rollout."""
        return np.append(True, np.diff(self.row_E) != 0)[: len(self.row_E)]


def elements(
    *, mask: pa.ChunkedArray | pa.Array, scores: pa.ChunkedArray | pa.Array, ends: pa.ChunkedArray | pa.Array | None
) -> Elements:
    """Elements of a signal beside the loss mask of its rollouts. ends: exclusive token ends; None: one score a token.

    The lists must be aligned as `check_alignment` wants them: the last end is the number of tokens.
    """
    valid_R = scores.is_valid().to_numpy(zero_copy_only=False) if isinstance(scores, pa.Array) else _valid(scores)
    counts_R = list_lengths(scores)
    row_E = np.repeat(np.arange(len(scores)), counts_R)
    value_E = list_values(scores).astype(np.float64)
    tokens_R = list_lengths(mask)
    counting_N = list_values(mask).astype(np.int64)
    start_R = np.cumsum(tokens_R) - tokens_R
    if ends is None:
        end_E = np.arange(len(row_E)) - np.repeat(np.cumsum(counts_R) - counts_R, counts_R) + 1
    else:
        end_E = list_values(ends).astype(np.int64)
    begin_E = np.append(0, end_E[:-1])[: len(end_E)]
    if len(row_E):
        begin_E[np.append(True, np.diff(row_E) != 0)] = 0
    before_N1 = np.concatenate([[0], np.cumsum(counting_N)])
    live_E = before_N1[start_R[row_E] + end_E] > before_N1[start_R[row_E] + begin_E]
    return Elements(row_E=row_E, value_E=value_E, tokens_E=end_E - begin_E, live_E=live_E, valid_R=valid_R)


def _valid(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = column.is_valid().to_numpy()
    return found
