"""Blocks of groups: what the estimators share around the kernels.

Legend of dimensions: see `pass_ops.reading.ragged`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pass_ops import chunking, divide_length, standardize
from pass_ops.errors import NonFiniteError, OutputOverflowError, StepEndsError
from pass_ops.options.config import Operator, ShapingConfig
from pass_ops.reading import columns
from pass_ops.reading.ragged import Elements, Tokens, falling, frozen, last_values, room
from pass_ops.reading.rollouts import Rollouts

BLOCK_VALUES = 1 << 18  # scores of a block; with what is made of them they fit into the processor's cache
NO_MASK = np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.uint8)
NO_SCORES = frozen(np.empty(0, dtype=np.float32))
NO_ENDS = frozen(np.empty(0, dtype=np.int32)), frozen(np.empty(0, dtype=np.int32))


@dataclass(frozen=True, kw_only=True)
class Chunks:
    """What an estimator makes of its rollouts; path_R is NaN where there is none."""

    starts_R1: np.ndarray  # int32
    ends_K: np.ndarray  # int32
    credits_K: np.ndarray  # float32
    advantages_K: np.ndarray  # float32
    path_R: np.ndarray  # float32
    trainable_R: np.ndarray  # bool


class Block(NamedTuple):
    """Groups first_G..last_G, which are rows first_R..last_R, and the process signal of these rows."""

    first_G: int
    last_G: int
    first_R: int
    last_R: int
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
    """Room for the chunks of some rollouts, filled block by block; row r's lie at starts_R1[r]..starts_R1[r + 1].

    `scores_K` are the raw scores of the chunks. They alias advantages_K and are overwritten in place; where every given
    step is a chunk they alias the input, and neither they nor the ends are copied.

    Args:
        rollouts: what is shaped.
        chunks: an upper bound of the number of chunks.
        per_token: chunks are made of tokens: the masks are unpacked to bytes.
        given: every given step is a chunk, and its end stays what it is.
    """

    def __init__(self, rollouts: Rollouts, *, chunks: int, per_token: bool, given: bool = False) -> None:
        rows = len(rollouts)
        self.rollouts = rollouts
        self.per_token = per_token
        self.given = given
        self.starts_R1 = np.zeros(rows + 1, dtype=np.int32)
        self.credits_K = room(chunks, np.float32)
        self.advantages_K = room(chunks, np.float32)
        if given:
            assert rollouts.process is not None
            assert rollouts.ends is not None
            start, stop = rollouts.ends.starts_R1[0], rollouts.ends.starts_R1[-1]
            np.subtract(rollouts.ends.starts_R1, start, out=self.starts_R1)
            self.ends_K = rollouts.ends.values[start:stop]
            self.scores_K = rollouts.process.values[rollouts.process.starts_R1[0] :]
        else:
            self.ends_K = room(chunks, np.int32)
            self.scores_K = frozen(self.advantages_K)
        self.unmasked_R = rollouts.mask.lengths_R if rollouts.full else np.zeros(rows, dtype=np.int32)
        self.trainable_R = rollouts.used_R & (self.unmasked_R > 0)
        self.path_R = np.full(rows, np.nan, dtype=np.float32)

    def chunks(self) -> Chunks:
        used = int(self.starts_R1[-1])
        return Chunks(
            starts_R1=self.starts_R1,
            ends_K=_fitted(self.ends_K, used),
            credits_K=_fitted(self.credits_K, used),
            advantages_K=_fitted(self.advantages_K, used),
            path_R=self.path_R,
            trainable_R=self.trainable_R,
        )


def check_ends(rollouts: Rollouts) -> None:
    """Refuse step ends that do not increase strictly up to the completion's length.

    Raises:
        StepEndsError: names the first such rollout.
    """
    ends, lengths_R = rollouts.ends, rollouts.mask.lengths_R
    if ends is None:
        return
    wrong_R = rollouts.read_R & (falling(ends) | (last_values(ends) != lengths_R))
    if wrong_R.any():
        row = int(np.argmax(wrong_R))
        raise StepEndsError(
            f"{rollouts.name(row)}: process_ends is {columns.shortened(ends.row(row).tolist())} for a completion of "
            f"{lengths_R[row]} tokens; "
            "give exclusive token ends that increase strictly from above 0, the last one equal to that length"
        )


def most_chunks(rollouts: Rollouts, *, per_token: bool) -> int:
    """An upper bound of the number of chunks."""
    if per_token or rollouts.ends is None:
        return int(rollouts.mask.starts_R1[-1]) - int(rollouts.mask.starts_R1[0])
    # A row that is not trainable has one chunk, regardless of its steps.
    return int(rollouts.ends.starts_R1[-1] - rollouts.ends.starts_R1[0]) + len(rollouts)


def split(output: Output) -> Iterator[Block]:
    """The rollouts in blocks of about BLOCK_VALUES, their masks read and their steps cut into chunks.

    Raises:
        NonFiniteError: NaN or infinity in the process signal at an unmasked token of a row that is not used.
    """
    rollouts = output.rollouts
    starts_G1 = rollouts.starts_G1
    groups = len(starts_G1) - 1
    by_token = output.per_token or rollouts.process is None
    values_R1 = rollouts.mask.starts_R1 if by_token else rollouts.process.starts_R1  # type: ignore[union-attr]
    values_G1 = values_R1[starts_G1].astype(np.int64)
    first = 0
    while first < groups:
        last = int(np.searchsorted(values_G1, values_G1[first] + BLOCK_VALUES, side="right")) - 1
        last = min(max(last, first + 1), groups)
        first_R, last_R = int(starts_G1[first]), int(starts_G1[last])
        tokens = read_masks(output, first_R, last_R)
        if not rollouts.all_used:  # pooling finds NaN and infinity in the others
            check_scores(output, first_R, last_R, of_R=~rollouts.used_R[first_R:last_R])
        yield Block(first, last, first_R, last_R, _elements(output, first_R, last_R, tokens))
        first = last


def pool(
    config: ShapingConfig,
    block: Block,
    output: Output,
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
    rollouts = output.rollouts
    rows = len(rollouts)
    values = (
        block.first_G, block.last_G, rollouts.starts_G1, output.trainable_R, pooled, block.elements,
        weight, np.zeros(rows) if add_R is None else add_R,
        rollouts.used_R, np.empty((0, rows)) if joined_R is None else joined_R,
    )  # fmt: skip
    if operator == "leave_one_out":
        group = standardize.leave_one_out_statistics(*values, *statistics)
    else:
        code = standardize.OPERATOR_CODES[operator]
        group = standardize.group_statistics(*values, code, config.std_ddof, config.std_eps, *statistics)
    if group != standardize.FINE:
        first, last = int(rollouts.starts_G1[group]), int(rollouts.starts_G1[group + 1])
        _check_finite(rollouts, np.arange(first, last)[output.trainable_R[first:last]])
        raise OutputOverflowError(too_large(rollouts.name(first)))


def standardized(rollouts: Rollouts, x_R: np.ndarray, operator: Operator, config: ShapingConfig) -> np.ndarray:
    """N(x_R) within each group, over used rows; 0 in the others."""
    out_R = np.zeros(len(rollouts))
    group = standardize.standardize_rows(
        rollouts.starts_G1, rollouts.used_R, x_R, standardize.OPERATOR_CODES[operator],
        config.std_ddof, config.std_eps, out_R,
    )  # fmt: skip
    if group != standardize.FINE:
        raise OutputOverflowError(too_large(rollouts.name(rollouts.starts_G1[group])))
    return out_R


def check_scores(output: Output, first_R: int, last_R: int, *, of_R: np.ndarray) -> None:
    """Refuse NaN and infinity in the process signal at unmasked tokens of the rows first_R..last_R that of_R picks.

    Raises:
        NonFiniteError: names the first such rollout.
    """
    rollouts, rows = output.rollouts, slice(first_R, last_R)
    if rollouts.process is None:
        return
    read_R = of_R & rollouts.read_R[rows] & (output.unmasked_R[rows] > 0)
    start, stop = rollouts.process.starts_R1[first_R], rollouts.process.starts_R1[last_R]
    # What stands at masked tokens and behind nulls may be anything, so this only says where to look.
    if read_R.any() and not np.isfinite(rollouts.process.values[start:stop]).all():
        _check_finite(rollouts, np.flatnonzero(read_R) + first_R)


def check_output(block: Block, output: Output) -> None:
    """Raise OutputOverflowError where a credit or an advantage of the block is beyond float32."""
    row = divide_length.first_beyond_float32(
        block.first_R, block.last_R, output.starts_R1, output.credits_K, output.advantages_K
    )
    if row >= 0:
        raise_too_large(output.rollouts, row)


def raise_too_large(rollouts: Rollouts, row: int) -> None:
    """Raise OutputOverflowError for row `row`."""
    raise OutputOverflowError(too_large(rollouts.name(row)))


def read_masks(output: Output, first_R: int, last_R: int) -> Tokens:
    """The tokens of rows first_R..last_R; fills these rows of `unmasked_R` and `trainable_R`."""
    mask = output.rollouts.mask
    if output.rollouts.full:
        return Tokens(mask.starts_R1, output.unmasked_R, *NO_MASK, 0)
    packed, base = mask.packed(int(mask.starts_R1[first_R]), int(mask.starts_R1[last_R]))
    words = np.zeros(len(packed) // 8 + 2, dtype=np.uint64)  # a search may look one word too far
    words.view(np.uint8)[: len(packed)] = packed
    bytes_ = np.unpackbits(packed, bitorder="little") if output.per_token else NO_MASK[1]
    tokens = Tokens(mask.starts_R1, output.unmasked_R, words, bytes_, base)
    chunking.count_unmasked(first_R, last_R, tokens)
    rows = slice(first_R, last_R)
    output.trainable_R[rows] = output.rollouts.used_R[rows] & (output.unmasked_R[rows] > 0)
    return tokens


def _elements(output: Output, first_R: int, last_R: int, tokens: Tokens) -> Elements:
    process, ends = output.rollouts.process, output.rollouts.ends
    if process is None:
        return Elements(NO_SCORES, tokens.starts_R1, True, tokens)
    if ends is None:
        return Elements(process.values, process.starts_R1, True, tokens)
    if not output.given:
        chunking.chunk_by_step(
            first_R, last_R, output.trainable_R, tokens, process.values, process.starts_R1,
            ends.values, ends.starts_R1, output.ends_K, output.advantages_K, output.starts_R1,
        )  # fmt: skip
    return Elements(output.scores_K, output.starts_R1, False, tokens)


def _check_finite(rollouts: Rollouts, rows: np.ndarray) -> None:
    for row in rows.tolist():
        at = _first_not_finite(rollouts, row)
        if at is not None:
            place = f"token {at[0]}" if rollouts.ends is None else f"step {at[0]}"
            raise NonFiniteError(
                f"{rollouts.name(row)}: process_scores is {at[1]} at unmasked {place}; it would spoil its whole group; "
                "make the whole list null where the signal could not be computed"
            )


def _first_not_finite(rollouts: Rollouts, row: int) -> tuple[int, float] | None:
    assert rollouts.process is not None
    scores = rollouts.process.row(row)
    wrong = ~np.isfinite(scores) & rollouts.live(row)
    at = int(np.argmax(wrong))
    return (at, float(scores[at])) if wrong[at] else None


def too_large(name: str) -> str:
    """The message of OutputOverflowError for the rollout of this name."""
    return (
        f"{name}: a credit, advantage or path score is beyond float32, so it cannot be stored; "
        "scale the rewards or the weights down"
    )


def _fitted(array: np.ndarray, used: int) -> np.ndarray:
    """The used part; copied where keeping all of it would waste memory."""
    if used * 4 >= len(array) * 3:
        return array[:used]
    part = room(used, array.dtype)
    part[:] = array[:used]
    return part
