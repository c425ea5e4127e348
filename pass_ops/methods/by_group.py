"""From an estimator that takes a `Group` at a time to one that takes `Rollouts`.

Legend of dimensions: see `pass_ops.reading.ragged`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from pass_ops import blocks
from pass_ops.blocks import Chunks, Output
from pass_ops.errors import EstimatorError
from pass_ops.group import Group
from pass_ops.options.config import ShapingConfig
from pass_ops.reading import columns
from pass_ops.reading.ragged import Array, offsets
from pass_ops.reading.rollouts import Rollouts

GroupEstimator = Callable[[Group, ShapingConfig], Sequence[Any]]
NOTHING = np.zeros(0)
LARGEST = float(np.finfo(np.float32).max)


def by_group(function: GroupEstimator, **options: Any) -> Callable[[Rollouts, ShapingConfig], Chunks]:
    """Turn an estimator of one group (`pass_ops.group`) into an estimator of rollouts; options are keywords of it.

    A column that it `reads` (`pass_ops.group.reads`) counts like a stream: a row with a null there is not used.

    The estimator raises MissingColumnError for such a column that is missing, EstimatorError for a result of another
    shape or with NaN at an unmasked token, OutputOverflowError for one beyond float32, and whatever `function` raises,
    with a note that names the group.
    """
    needed: Sequence[str] = getattr(function, "reads", ())
    called = partial(function, **options) if options else function

    def estimator(rollouts: Rollouts, config: ShapingConfig) -> Chunks:
        for name in needed:
            column = columns.require(rollouts.table, name, needed_by=f"estimator {config.estimator!r}")
            present = column.slice(rollouts.first_row, len(rollouts)).is_valid()
            rollouts = replace(rollouts, used_R=rollouts.used_R & present.to_numpy())
        per_token = rollouts.ends is None
        output = Output(rollouts, chunks=blocks.most_chunks(rollouts, per_token=per_token), per_token=per_token)
        rows: list[tuple[Array, Array]] = []
        for block in blocks.split(output):
            of_R = output.trainable_R[block.first_R : block.last_R]
            blocks.check_scores(output, block.first_R, block.last_R, of_R=of_R)
            for g in range(block.first_G, block.last_G):
                rows += _shape_group(called, rollouts, g, config=config, trainable_R=output.trainable_R)
        credits_K = np.concatenate([NOTHING, *(values for _, values in rows)]).astype(np.float32)
        return Chunks(
            starts_R1=offsets(np.fromiter((len(ends) for ends, _ in rows), dtype=np.int32)),
            ends_K=np.concatenate([NOTHING, *(ends for ends, _ in rows)]).astype(np.int32),
            credits_K=credits_K,
            advantages_K=credits_K,
            path_R=output.path_R,
            trainable_R=output.trainable_R,
        )

    return estimator


def _shape_group(
    function: GroupEstimator, rollouts: Rollouts, g: int, *, config: ShapingConfig, trainable_R: Array
) -> list[tuple[Array, Array]]:
    """(ends, values) of the chunks of each row of group g."""
    rows = range(int(rollouts.starts_G1[g]), int(rollouts.starts_G1[g + 1]))
    chunks = {r: _one_of_nothing(int(rollouts.mask.lengths_R[r])) for r in rows}
    used = [r for r in rows if rollouts.used_R[r]]
    if not used:
        return list(chunks.values())
    group = _group(rollouts, used)
    try:
        found = function(group, config)
    except Exception as error:
        error.add_note(f"in estimator {config.estimator!r}, at the group of {rollouts.name(used[0])}")
        raise
    if len(found) != len(used):
        raise EstimatorError(
            f"{rollouts.name(used[0])}: estimator {config.estimator!r} gave {len(found)} arrays for the "
            f"{len(used)} rollouts of its group; return one for each, in order"
        )
    for r, mask, values in zip(used, group.mask, found, strict=True):
        if trainable_R[r]:
            chunks[r] = _chunks(_checked(rollouts, r, mask, values, estimator=config.estimator), mask)
    return list(chunks.values())


def _group(rollouts: Rollouts, used: list[int]) -> Group:
    rows = [_row(rollouts, r) for r in used]
    masks, scores, ends, live = ([row[n] for row in rows] for n in range(4))
    return Group(
        group_id=rollouts.table["group_id"][rollouts.first_row + used[0]].as_py(),
        mask=tuple(masks),
        scores=tuple(scores),
        ends=tuple(ends),
        live=tuple(live),
        outcome=rollouts.outcome_R[used],
        format=rollouts.format_R[used],
        table=rollouts.table,
        rows=tuple(rollouts.first_row + r for r in used),
    )


def _row(rollouts: Rollouts, r: int) -> tuple[Array, Array, Array, Array]:
    """mask, scores, ends and live of one row."""
    mask = rollouts.mask.row(r)
    if rollouts.process is None:
        return mask, NOTHING, NOTHING.astype(np.int64), NOTHING.astype(np.bool_)
    live = rollouts.live(r)
    scores = np.where(live, rollouts.process.row(r), 0.0).astype(np.float64)
    ends = np.arange(1, len(mask) + 1) if rollouts.ends is None else rollouts.ends.row(r).astype(np.int64)
    return mask, scores, ends, live


def _checked(rollouts: Rollouts, r: int, mask: Array, values: Any, *, estimator: str) -> Array:
    """The advantages of one row as float64; of shape () where one holds for all of its tokens."""
    found = np.asarray(values, dtype=np.float64)
    if found.ndim and found.shape != mask.shape:
        raise EstimatorError(
            f"{rollouts.name(r)}: estimator {estimator!r} gave an array of shape {found.shape} for a completion of "
            f"{len(mask)} tokens; return one advantage for each token, or one number for all"
        )
    if (np.abs(found[mask] if found.ndim else found) <= LARGEST).all():
        return found
    wrong = np.isnan(found) & mask
    if wrong.any():
        raise EstimatorError(
            f"{rollouts.name(r)}: estimator {estimator!r} gave NaN at unmasked token {int(np.argmax(wrong))}; it would "
            "reach the policy's weights; return a number there, 0 where there is nothing to learn"
        )
    with np.errstate(over="ignore"):
        if not np.isfinite((found[mask] if found.ndim else found).astype(np.float32)).all():
            blocks.raise_too_large(rollouts, r)
    return found


def _chunks(advantages: Array, mask: Array) -> tuple[Array, Array]:
    """A chunk starts wherever the advantage differs between unmasked tokens."""
    if advantages.ndim == 0:
        return np.full(1, len(mask)), np.full(1, advantages + 0.0)
    at = np.flatnonzero(mask)
    values = advantages[at]
    starts = np.flatnonzero(np.append(True, values[1:] != values[:-1]))
    return np.append(at[starts[1:]], len(mask)), values[starts] + 0.0


def _one_of_nothing(length: int) -> tuple[Array, Array]:
    """What a row that is not trainable gets: one chunk over its length, of advantage 0."""
    return np.full(min(length, 1), length), np.zeros(min(length, 1))
