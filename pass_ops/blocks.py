"""Blocks of groups: what the estimators share around the kernels.

Legend of dimensions: see `pass_ops.ragged`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pass_ops import chunking, standardize
from pass_ops.config import Operator, ShapingConfig
from pass_ops.errors import NonFiniteError, OutputOverflowError, StepEndsError
from pass_ops.ragged import Array, Elements, Tokens, frozen
from pass_ops.rollouts import Rollouts

BLOCK_TOKENS = 1 << 18
NO_MASK = np.empty(0, dtype=np.uint8)
NO_SCORES = frozen(np.empty(0, dtype=np.float32))
NO_ENDS = frozen(np.empty(0, dtype=np.int32)), frozen(np.empty(0, dtype=np.int32))


@dataclass(frozen=True, kw_only=True)
class Chunks:
    """What an estimator makes of its rollouts; path_R is NaN where there is none."""

    counts_R: np.ndarray  # int32
    ends_K: np.ndarray  # int32
    credits_K: np.ndarray  # float32
    advantages_K: np.ndarray  # float32
    path_R: np.ndarray  # float32
    trainable_R: np.ndarray  # bool


class Block(NamedTuple):
    """Groups first_G..last_G, which are rows first_R..last_R, with masks unpacked and live elements marked."""

    first_G: int
    last_G: int
    first_R: int
    last_R: int
    tokens: Tokens
    elements: Elements


class Statistics(NamedTuple):
    """(center, scale) of each group's pool, see `pass_ops.standardize`."""

    center_G: np.ndarray
    scale_G: np.ndarray

    @staticmethod
    def empty(rollouts: Rollouts) -> Statistics:
        groups = len(rollouts.starts_G1) - 1
        return Statistics(np.empty(groups), np.empty(groups))


class Output:
    """Room for the chunks of some rollouts, filled block by block up to `cursor`."""

    def __init__(self, rollouts: Rollouts, *, chunks: int) -> None:
        rows = len(rollouts)
        self.cursor = 0
        self.ends_K = _room(chunks, np.int32)
        self.credits_K = _room(chunks, np.float32)
        self.advantages_K = _room(chunks, np.float32)
        self.scores_K = np.empty(0, dtype=np.float32)  # raw scores of one block's chunks
        self.counts_R = np.zeros(rows, dtype=np.int32)
        self.unmasked_R = np.zeros(rows, dtype=np.int32)
        self.live_R = np.zeros(rows, dtype=np.int32)
        self.trainable_R = np.zeros(rows, dtype=np.bool_)
        self.path_R = np.full(rows, np.nan, dtype=np.float32)
        self.trace_T = np.empty(rollouts.longest)
        self.shared_T = np.empty(rollouts.longest, dtype=np.int32)

    def reserve(self, tokens: int) -> None:
        """Make room for the raw scores of a block of `tokens`: no row has more chunks than tokens."""
        if tokens > len(self.scores_K):
            self.scores_K = np.empty(tokens, dtype=np.float32)

    def open(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ends, credits and advantages from the cursor on."""
        return self.ends_K[self.cursor :], self.credits_K[self.cursor :], self.advantages_K[self.cursor :]

    def chunks(self, *, ends_K: np.ndarray | None = None) -> Chunks:
        return Chunks(
            counts_R=self.counts_R,
            ends_K=_fitted(self.ends_K, self.cursor) if ends_K is None else ends_K,
            credits_K=_fitted(self.credits_K, self.cursor),
            advantages_K=_fitted(self.advantages_K, self.cursor),
            path_R=self.path_R,
            trainable_R=self.trainable_R,
        )


def given_steps(rollouts: Rollouts, block: Block, output: Output) -> tuple[np.ndarray, int]:
    """Where every step is live they are the chunks: (their raw scores, their number), without a copy."""
    assert rollouts.process is not None
    start, stop = rollouts.process.starts_R1[block.first_R], rollouts.process.starts_R1[block.last_R]
    output.counts_R[block.first_R : block.last_R] = output.live_R[block.first_R : block.last_R]
    return rollouts.process.values[start:stop], int(stop - start)


def given_ends(rollouts: Rollouts) -> np.ndarray:
    """The ends of those chunks, without a copy."""
    assert rollouts.ends is not None
    return rollouts.ends.values[rollouts.ends.starts_R1[0] : rollouts.ends.starts_R1[-1]]


def most_chunks(rollouts: Rollouts, *, per_token: bool) -> int:
    """An upper bound of the number of chunks."""
    if per_token or rollouts.ends is None:
        return int(rollouts.mask.lengths_R.sum(dtype=np.int64))
    # A row that is not trainable has one chunk, whatever its steps.
    return int(rollouts.ends.starts_R1[-1] - rollouts.ends.starts_R1[0]) + len(rollouts)


def split(rollouts: Rollouts, output: Output) -> Iterator[Block]:
    """The rollouts in blocks of about BLOCK_TOKENS; fills unmasked_R, live_R and trainable_R of `output` on the way.

    Raises:
        StepEndsError: process_ends that do not increase strictly up to the completion's length.
    """
    starts_R1, starts_G1 = rollouts.mask.starts_R1, rollouts.starts_G1
    if rollouts.full:
        output.unmasked_R[:] = rollouts.mask.lengths_R
        output.trainable_R[:] = rollouts.used_R & (output.unmasked_R > 0)
    if rollouts.every_step_is_live and rollouts.process is not None:
        output.live_R[:] = rollouts.process.lengths_R
    group_tokens_G1 = starts_R1[starts_G1].astype(np.int64)
    groups = len(starts_G1) - 1
    first = 0
    while first < groups:
        last = int(np.searchsorted(group_tokens_G1, group_tokens_G1[first] + BLOCK_TOKENS, side="right")) - 1
        last = min(max(last, first + 1), groups)
        first_R, last_R = int(starts_G1[first]), int(starts_G1[last])
        output.reserve(int(group_tokens_G1[last] - group_tokens_G1[first]))
        tokens = _tokens(rollouts, output, first_R, last_R)
        yield Block(first, last, first_R, last_R, tokens, _elements(rollouts, output, first_R, last_R, tokens))
        first = last


def pool(
    rollouts: Rollouts,
    config: ShapingConfig,
    block: Block,
    statistics: Statistics,
    *,
    operator: Operator,
    weight: float = 1.0,
    add_R: np.ndarray | None = None,
    pooled: bool = True,
    joined_R: np.ndarray | None = None,
) -> None:
    """Fill the block's part of `statistics`, see `standardize.group_statistics`.

    Raises:
        NonFiniteError: NaN or infinity in the process signal at an unmasked token.
        OutputOverflowError: weights so large that sums overflow.
    """
    rows = len(rollouts)
    values = (
        block.first_G, block.last_G, rollouts.starts_G1, rollouts.used_R, rollouts.read_R, pooled, block.elements,
        weight, np.zeros(rows) if add_R is None else add_R, np.empty((0, rows)) if joined_R is None else joined_R,
    )  # fmt: skip
    if operator == "leave_one_out":
        group = standardize.leave_one_out_statistics(*values, *statistics)
    else:
        code = standardize.OPERATOR_CODES[operator]
        group = standardize.group_statistics(*values, code, config.std_ddof, config.std_eps, *statistics)
    if group != standardize.FINE:
        _raise_not_finite(rollouts, block, group)


def standardized(rollouts: Rollouts, x_R: np.ndarray, operator: Operator, config: ShapingConfig) -> np.ndarray:
    """N(x_R) within each group, over used rows; 0 in the others."""
    out_R = np.zeros(len(rollouts))
    group = standardize.standardize_rows(
        rollouts.starts_G1, rollouts.used_R, x_R, standardize.OPERATOR_CODES[operator],
        config.std_ddof, config.std_eps, out_R,
    )  # fmt: skip
    if group != standardize.FINE:
        raise OutputOverflowError(_too_large(rollouts.name(rollouts.starts_G1[group])))
    return out_R


def live(elements: Elements, row: int) -> Array:
    """Which of the row's elements are live (bool)."""
    count = int(elements.live_starts_R1[row + 1] - elements.live_starts_R1[row])
    if elements.count_R[row] in (0, count):
        return np.full(count, elements.count_R[row] > 0)
    start = int(elements.live_starts_R1[row]) - elements.live_base
    marked: Array = elements.live_E[start : start + count] != 0
    return marked


def check_output(rollouts: Rollouts, row: int) -> None:
    """Raise OutputOverflowError where a kernel reported row `row` (-1: none)."""
    if row >= 0:
        raise OutputOverflowError(_too_large(rollouts.name(row)))


def _tokens(rollouts: Rollouts, output: Output, first_R: int, last_R: int) -> Tokens:
    starts_R1 = rollouts.mask.starts_R1
    if rollouts.full:
        return Tokens(starts_R1, NO_MASK, 0, output.unmasked_R)
    start = int(starts_R1[first_R])
    tokens = Tokens(starts_R1, rollouts.mask.unpacked(start, int(starts_R1[last_R])), start, output.unmasked_R)
    chunking.count_unmasked(first_R, last_R, tokens)
    rows = slice(first_R, last_R)
    output.trainable_R[rows] = rollouts.used_R[rows] & (output.unmasked_R[rows] > 0)
    return tokens


def _elements(rollouts: Rollouts, output: Output, first_R: int, last_R: int, tokens: Tokens) -> Elements:
    process, ends = rollouts.process, rollouts.ends
    if process is None:
        return Elements(NO_SCORES, tokens.starts_R1, NO_MASK, tokens.starts_R1, 0, output.live_R)  # none is live
    if ends is None:
        return Elements(
            process.values, process.starts_R1, tokens.mask_N, tokens.starts_R1, tokens.base, output.unmasked_R
        )
    base = int(process.starts_R1[first_R])
    if rollouts.every_step_is_live and chunking.steps_rise(first_R, last_R, tokens, ends.values, ends.starts_R1):
        return Elements(process.values, process.starts_R1, NO_MASK, process.starts_R1, base, output.live_R)
    live_E = np.empty(int(process.starts_R1[last_R]) - base, dtype=np.uint8)
    steps = Elements(process.values, process.starts_R1, live_E, process.starts_R1, base, output.live_R)
    row = chunking.mark_live_steps(first_R, last_R, rollouts.read_R, tokens, ends.values, ends.starts_R1, steps)
    if row >= 0:
        found = ends.values[ends.starts_R1[row] : ends.starts_R1[row + 1]].tolist()
        length = int(rollouts.mask.lengths_R[row])
        raise StepEndsError(
            f"{rollouts.name(row)}: process_ends is {_shortened(found)} for a completion of {length} tokens; "
            "give exclusive token ends that increase strictly from above 0, the last one equal to that length"
        )
    return steps


def _raise_not_finite(rollouts: Rollouts, block: Block, group: int) -> None:
    first, last = int(rollouts.starts_G1[group]), int(rollouts.starts_G1[group + 1])
    for row in range(first, last):
        at = _first_not_finite(block.elements, row) if rollouts.read_R[row] else None
        if at is not None:
            place = f"token {at[0]}" if rollouts.ends is None else f"step {at[0]}"
            raise NonFiniteError(
                f"{rollouts.name(row)}: process_scores is {at[1]} at unmasked {place}; it would spoil its whole group; "
                "make the whole list null where the signal could not be computed"
            )
    raise OutputOverflowError(_too_large(rollouts.name(first)))


def _first_not_finite(elements: Elements, row: int) -> tuple[int, float] | None:
    live_E = live(elements, row)
    start = int(elements.starts_R1[row])
    wrong = ~np.isfinite(elements.values[start : start + len(live_E)]) & live_E
    if not wrong.any():
        return None
    at = int(np.argmax(wrong))
    return at, float(elements.values[start + at])


def _too_large(name: str) -> str:
    return (
        f"{name}: a credit, advantage or path score is beyond float32, so it cannot be stored; "
        "scale the rewards or the weights down"
    )


def _shortened(values: list[int], *, limit: int = 8) -> str:
    if len(values) <= limit:
        return str(values)
    head, tail = values[: limit - 2], values[-1:]
    return f"[{', '.join(map(str, head))}, ..., {tail[0]}]"


def _room(values: int, dtype: type[np.int32] | type[np.float32]) -> np.ndarray:
    """An uninitialized array from Arrow's memory pool, which hands pages out again instead of returning them."""
    return np.frombuffer(pa.allocate_buffer(max(values, 1) * 4), dtype=dtype)[:values]


def _fitted(room: np.ndarray, used: int) -> np.ndarray:
    """The used part; copied where keeping all of the room would waste memory."""
    if used * 4 >= len(room) * 3:
        return room[:used]
    part = _room(used, room.dtype.type)
    part[:] = room[:used]
    return part
