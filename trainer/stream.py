"""Decoded parts, read ahead on threads, and the rollouts of each step taken from them.

Dimensions: _R rows of a part, _C its completion tokens, concatenated, _Q its prompt tokens likewise, _T the completion
tokens of one rollout. Which rollouts a step holds was decided before (`order`); this file only fetches them.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pass_ops import token_advantages
from pass_ops.reading.ragged import list_lengths, list_values, one_chunk
from trainer.ahead import ReadAhead
from trainer.data import REFERENCE_COLUMN, Columns, RowIndex, TrainData, list_offsets
from trainer.errors import StateError, TrainDataError
from trainer.order import Step
from trainer.rollouts import Rollouts

T = TypeVar("T")
OLD_FIX = "The old policy's log-probabilities are lost and its weights have been updated; start a new run."
TRAIN_COLUMNS = (
    "rollout_id", "prompt_token_ids", "token_ids", "loss_mask", "behavior_logprobs", "chunk_ends", "chunk_advantages",
)  # fmt: skip


def decode_part(
    data: TrainData, part: int, *, reference: bool, old: Path | None = None, fetched: Future[Columns] | None = None
) -> Rollouts:
    """Reads one part and expands its chunks.

    old: folder of recomputed log-probabilities (`trainer.old_logprobs`); fetched: the part's content, of `ReadAhead`.
    Raises TrainDataError where a rollout's columns differ in length, StateError where `old` is damaged.
    """
    columns = (*TRAIN_COLUMNS, REFERENCE_COLUMN) if reference else TRAIN_COLUMNS
    table = data.read(part, columns) if fetched is None else fetched.result()(columns)
    where = data.describe(part)
    length_R = list_lengths(table["token_ids"])
    advantages = token_advantages(table)
    checked = {name: table[name] for name in ("loss_mask", "behavior_logprobs")} | {"advantages": advantages}
    for name, lists in checked.items():
        _check_lengths(list_lengths(lists), length_R, name=name, table=table, where=where)
    return Rollouts(
        ids_R=one_chunk(table["rollout_id"]).cast(pa.string()),
        prompt_offsets_R1=list_offsets(table["prompt_token_ids"]),
        prompt_Q=list_values(table["prompt_token_ids"]),
        token_offsets_R1=list_offsets(table["token_ids"]),
        tokens_C=list_values(table["token_ids"]),
        mask_C=list_values(table["loss_mask"]),
        behavior_C=list_values(table["behavior_logprobs"]),
        advantages_C=list_values(advantages),
        old_C=None if old is None else read_old(old, part, tokens=int(length_R.sum())),
        reference_C=_reference(table, length_R, where=where) if reference else None,
    )


def old_file(folder: Path, part: int) -> Path:
    """The file of a part's recomputed log-probabilities: float32, one per completion token."""
    return folder / f"part-{part:06d}.npy"


def read_old(folder: Path, part: int, *, tokens: int) -> NDArray[np.float32]:
    """A part's recomputed log-probabilities. Raises StateError where the file does not belong to it."""
    path = old_file(folder, part)
    try:
        values_C: NDArray[np.float32] = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise StateError(f"{path} cannot be read ({error}). {OLD_FIX}") from error
    if values_C.dtype != np.float32 or values_C.shape != (tokens,):
        raise StateError(f"{path} holds {values_C.dtype} {values_C.shape}, its part has {tokens} tokens. {OLD_FIX}")
    return values_C


def _reference(table: pa.Table, length_R: NDArray[np.int64], *, where: str) -> NDArray[np.float32]:
    """Reference log-probabilities, concatenated; NaN throughout a rollout that has none."""
    lists = table[REFERENCE_COLUMN]
    null_R = lists.is_null().to_numpy()
    stored_R = list_lengths(lists)
    _check_lengths(np.where(null_R, length_R, stored_R), length_R, name=REFERENCE_COLUMN, table=table, where=where)
    values_C = np.full(int(length_R.sum()), np.nan, np.float32)
    values_C[np.repeat(~null_R, length_R)] = list_values(lists)
    return values_C


def _check_lengths(
    found_R: NDArray[np.int64], length_R: NDArray[np.int64], *, name: str, table: pa.Table, where: str
) -> None:
    wrong = np.flatnonzero(found_R != length_R)
    if len(wrong):
        row = int(wrong[0])
        raise TrainDataError(
            f"{where}: rollout {table['rollout_id'][row].as_py()} has {length_R[row]} token_ids and {found_R[row]} "
            f"{name}. Credit would fall on the wrong tokens; shape the rollouts again."
        )


def stream_steps(
    data: TrainData,
    index: RowIndex,
    steps: Sequence[Step],
    *,
    reference: bool,
    threads: int,
    ahead: int,
    old: Path | None = None,
) -> Iterator[Rollouts]:
    """The rollouts of each step, in order; meanwhile the parts of the next `ahead` steps are decoded on threads.

    A part is dropped after the last step of its epoch that needs it, so memory holds at most the parts of two shuffle
    windows (`order.epoch_order`), and of a store elsewhere the files of the parts to be decoded next, over the edges of
    windows and epochs (`ReadAhead`).
    """
    needed = [_first_seen(index.part_R[step.rows_R]) for step in steps]
    last_use = {(step.epoch, part): number for number, step in enumerate(steps) for part in needed[number].tolist()}
    decoded: dict[tuple[int, int], Future[Rollouts]] = {}
    with ReadAhead(data, [part for _, part in last_use], threads=threads) as stored:  # in the order of their first use
        pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        try:
            for number, step in enumerate(steps):
                soon = range(number, min(number + ahead + 1, len(steps)))
                for key in ((steps[later].epoch, part) for later in soon for part in needed[later].tolist()):
                    if key not in decoded:
                        decoded[key] = pool.submit(
                            decode_part, data, key[1], reference=reference, old=old, fetched=stored.take()
                        )
                keys = [(step.epoch, part) for part in needed[number].tolist()]
                parts = {key[1]: decoded[key].result() for key in keys}
                yield Rollouts.joined([(parts[part], a, b) for part, a, b in _runs(index, step.rows_R)])
                del parts
                for key in keys:
                    if last_use[key] == number:
                        del decoded[key]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _first_seen(part_R: NDArray[np.int32]) -> NDArray[np.int32]:
    """The parts of a step in the order of its rows: as numbers, for ten million rows can need as many of them."""
    return np.array(list(dict.fromkeys(part_R.tolist())), np.int32)


def _runs(index: RowIndex, rows_R: NDArray[np.int32] | NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
    """These rows of the index as (part, first row, one behind the last), neighbours in a part together."""
    part_R, row_R = index.part_R[rows_R], index.row_R[rows_R]
    cuts = np.flatnonzero((np.diff(part_R) != 0) | (np.diff(row_R) != 1)) + 1
    first, last = np.append(0, cuts), np.append(cuts, len(rows_R)) - 1
    return zip(part_R[first].tolist(), row_R[first].tolist(), (row_R[last] + 1).tolist(), strict=True)


def ahead_of_use(items: Iterator[T], *, depth: int) -> Generator[T, None, None]:
    """The same items, computed on one thread up to `depth` ahead; an error is raised where its item was due."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="batch")
    queue = [pool.submit(_next, items) for _ in range(depth)]
    try:
        while taken := queue.pop(0).result():
            queue.append(pool.submit(_next, items))
            yield taken[0]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _next(items: Iterator[T]) -> tuple[T] | None:
    """The next item in a tuple, None at the end, because a StopIteration cannot pass through a future."""
    for item in items:
        return (item,)
    return None
