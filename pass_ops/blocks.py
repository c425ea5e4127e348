"""Blocks of groups: what the estimators share around the kernels.

Legend of dimensions: see `pass_ops.ragged`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pass_ops import chunking, standardize
from pass_ops.config import Operator, ShapingConfig
from pass_ops.errors import NonFiniteError, OutputOverflowError, StepEndsError
from pass_ops.ragged import Elements, Ragged, Tokens, frozen
from pass_ops.rollouts import Rollouts

BLOCK_TOKENS = 1 << 18
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
    elements: Elements | None


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
        self.ends_K = np.empty(chunks, dtype=np.int32)
        self.credits_K = np.empty(chunks, dtype=np.float32)
        self.advantages_K = np.empty(chunks, dtype=np.float32)
        self.counts_R = np.zeros(rows, dtype=np.int32)
        self.unmasked_R = np.zeros(rows, dtype=np.int32)
        self.live_R = np.zeros(rows, dtype=np.int32)
        self.trainable_R = np.zeros(rows, dtype=np.bool_)
        self.path_R = np.full(rows, np.nan, dtype=np.float32)
        self.trace_T = np.empty(rollouts.longest)
        self.shared_T = np.empty(rollouts.longest, dtype=np.int32)

    def chunks(self) -> Chunks:
        return Chunks(
            counts_R=self.counts_R,
            ends_K=_fitted(self.ends_K, self.cursor),
            credits_K=_fitted(self.credits_K, self.cursor),
            advantages_K=_fitted(self.advantages_K, self.cursor),
            path_R=self.path_R,
            trainable_R=self.trainable_R,
        )


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
    starts_R1 = rollouts.mask.starts_R1
    group_tokens_G1 = starts_R1[rollouts.starts_G1].astype(np.int64)
    groups = len(rollouts.starts_G1) - 1
    first = 0
    while first < groups:
        last = int(np.searchsorted(group_tokens_G1, group_tokens_G1[first] + BLOCK_TOKENS, side="right")) - 1
        last = min(max(last, first + 1), groups)
        yield _block(rollouts, output, first, last)
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
    row = standardize.group_statistics(
        block.first_G, block.last_G, rollouts.starts_G1, rollouts.used_R, rollouts.read_R, pooled, block.elements,
        weight, np.zeros(rows) if add_R is None else add_R, np.empty((0, rows)) if joined_R is None else joined_R,
        standardize.OPERATOR_CODES[operator], config.std_ddof, config.std_eps, *statistics,
    )  # fmt: skip
    if row != standardize.FINE:
        _raise_not_finite(rollouts, block, row)


def standardized(rollouts: Rollouts, x_R: np.ndarray, operator: Operator, config: ShapingConfig) -> np.ndarray:
    """N(x_R) within each group, over used rows; 0 in the others."""
    out_R = np.zeros(len(rollouts))
    row = standardize.standardize_rows(
        rollouts.starts_G1, rollouts.used_R, x_R, standardize.OPERATOR_CODES[operator],
        config.std_ddof, config.std_eps, out_R,
    )  # fmt: skip
    if row != standardize.FINE:
        raise OutputOverflowError(_too_large(rollouts.name(row)))
    return out_R


def check_output(rollouts: Rollouts, row: int) -> None:
    """Raise OutputOverflowError where a kernel reported row `row` (-1: none)."""
    if row >= 0:
        raise OutputOverflowError(_too_large(rollouts.name(row)))


def _block(rollouts: Rollouts, output: Output, first_G: int, last_G: int) -> Block:
    first_R, last_R = int(rollouts.starts_G1[first_G]), int(rollouts.starts_G1[last_G])
    starts_R1 = rollouts.mask.starts_R1
    start, stop = int(starts_R1[first_R]), int(starts_R1[last_R])
    rows = slice(first_R, last_R)
    full = rollouts.mask.all_true(start, stop)
    mask_N = np.empty(0, np.uint8) if full else rollouts.mask.unpacked(start, stop)
    tokens = Tokens(starts_R1, mask_N, start, output.unmasked_R)
    if full:
        output.unmasked_R[rows] = np.diff(starts_R1[first_R : last_R + 1])
    else:
        chunking.count_unmasked(first_R, last_R, tokens)
    output.trainable_R[rows] = rollouts.used_R[rows] & (output.unmasked_R[rows] > 0)
    elements = None
    if rollouts.process is not None and rollouts.ends is None:
        elements = Elements(
            rollouts.process.values, rollouts.process.starts_R1, mask_N, starts_R1, start, output.unmasked_R
        )
    elif rollouts.process is not None and rollouts.ends is not None:
        elements = _steps(rollouts, output, first_R, last_R, tokens, rollouts.process, rollouts.ends)
    return Block(first_G, last_G, first_R, last_R, tokens, elements)


def _steps(
    rollouts: Rollouts, output: Output, first_R: int, last_R: int, tokens: Tokens, process: Ragged, ends: Ragged
) -> Elements:
    base = int(process.starts_R1[first_R])
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


def _raise_not_finite(rollouts: Rollouts, block: Block, row: int) -> None:
    elements, tokens = block.elements, block.tokens
    assert elements is not None
    count = int(elements.live_starts_R1[row + 1] - elements.live_starts_R1[row])
    start = int(elements.starts_R1[row])
    values = elements.values[start : start + count]
    live = np.ones(count, dtype=np.bool_)
    if elements.count_R[row] != count:
        live_start = int(elements.live_starts_R1[row]) - elements.live_base
        live = elements.live_E[live_start : live_start + count] != 0
    wrong = ~np.isfinite(values) & live
    if not (rollouts.read_R[row] and tokens.unmasked_R[row] and wrong.any()):
        raise OutputOverflowError(_too_large(rollouts.name(row)))
    at = int(np.argmax(wrong))
    place = f"token {at}" if rollouts.ends is None else f"step {at}"
    raise NonFiniteError(
        f"{rollouts.name(row)}: process_scores is {values[at]} at unmasked {place}; it would spoil its whole group; "
        "make the whole list null where the signal could not be computed"
    )


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


def _fitted(buffer: np.ndarray, used: int) -> np.ndarray:
    """The used part; copied where keeping the whole buffer would waste memory."""
    return buffer[:used] if used * 4 >= len(buffer) * 3 else buffer[:used].copy()
