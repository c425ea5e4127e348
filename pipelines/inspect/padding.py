"""Rollouts with steps put into them: tables that an estimator shapes as it would shape real rollouts.

An added step repeats the tokens of the step before it (at the start: of the first one), all of which count, and gets
the score that is asked for. Where the rollout has no steps, because the process signal has a score a token or is not
read, a step is one token.

Legend: rows of the table (R), list values end to end (V), padded rows (P).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pass_ops.reading.ragged import list_lengths, one_chunk
from pass_ops.shaping import MADE
from pipelines.inspect.scored import ENDS

Position = Literal["start", "middle", "end"]
POSITIONS: tuple[Position, ...] = get_args(Position)
MASK = "loss_mask"
#: lists that are about no token of the completion
_NOT_PER_TOKEN = ("prompt_token_ids",)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where steps go in one row: at token `at`, copies of the tokens from `first` to `last`."""

    row: int
    at: int
    first: int
    last: int


def places(
    table: pa.Table, rows: Sequence[int], position: Position, *, steps_end: str | None = "process_ends"
) -> list[Place]:
    """Where a step is added in each of these rows, which have at least one token.

    "middle" is behind the step in the middle (of K steps behind step max(1, K // 2)). Columns: loss_mask, and
    `steps_end` where there are steps; where the table has it not, or it is None, a step is a token.
    """
    lengths_R = list_lengths(table[MASK])
    found = []
    for row in rows:
        ends = table[steps_end][row].as_py() if steps_end in table.column_names else None
        bounds = [0, *(ends or range(1, int(lengths_R[row]) + 1))]
        after = {"start": 0, "middle": max(1, (len(bounds) - 1) // 2), "end": len(bounds) - 1}[position]
        copied = max(after, 1)
        found.append(Place(row=row, at=bounds[after], first=bounds[copied - 1], last=bounds[copied]))
    return found


def padded(table: pa.Table, where: Sequence[Place], *, steps: int, scores: Mapping[str, float]) -> pa.Table:
    """The table with `steps` steps added at each place.

    Columns of lists are taken as they are named and as long as they are: NAME_ends are ends of steps, NAME_... of their
    length is a value a step, a list as long as loss_mask a value a token, another as long as NAME_ends a value a
    step. What a step or token has there is copied; columns in `scores` get that value; the mask is True. Steps of
    another signal that have no end at the place become longer. A null list stays null, and chunks of an earlier
    shaping are dropped.
    """
    table = table.drop_columns([name for name in MADE if name in table.column_names])
    lengths_R = list_lengths(table[MASK])
    by_step = _step_columns(table)
    made = table
    for name in table.column_names:
        column = table[name]
        if not pa.types.is_list(column.type) or name in _NOT_PER_TOKEN:
            continue
        if name in by_step:
            changed = _padded_steps(table, name, ends=by_step[name], where=where, steps=steps, score=scores.get(name))
        elif _as_long(column, lengths_R):
            changed = _padded_tokens(column, where, steps=steps, value=True if name == MASK else scores.get(name))
        else:
            continue
        made = made.set_column(made.column_names.index(name), name, changed)
    return made


def _step_columns(table: pa.Table) -> dict[str, str]:
    """Column with a value a step -> the column of the steps' ends."""
    found = {}
    for ends in (name for name in table.column_names if name.endswith(ENDS)):
        for name in table.column_names:
            alike = name.startswith(ends.removesuffix("ends")) and pa.types.is_list(table[name].type)
            if alike and _as_long(table[name], list_lengths(table[ends])):
                found[name] = ends
    return found | _under_other_names(table, found)


def _under_other_names(table: pa.Table, known: Mapping[str, str]) -> dict[str, str]:
    """The same for lists with names of their own, a state for each step, say; process_ends before others."""
    ends = sorted(set(known.values()), key=lambda name: (name != "process_ends", name))
    found = {}
    for name in table.column_names:
        column = table[name]
        if name in known or name in _NOT_PER_TOKEN or not pa.types.is_list(column.type):
            continue
        if not _as_long(column, list_lengths(table[MASK])):
            alike = next((one for one in ends if _as_long(column, list_lengths(table[one]))), None)
            if alike is not None:
                found[name] = alike
    return found


def _as_long(column: pa.ChunkedArray, lengths_R: NDArray[np.int64]) -> bool:
    """Whether every list that is there has its row's length."""
    return bool((column.is_null().to_numpy() | (list_lengths(column) == lengths_R)).all())


def _padded_tokens(
    column: pa.ChunkedArray, where: Sequence[Place], *, steps: int, value: float | bool | None
) -> pa.Array:
    """The lists with the places' tokens copied; `value` in their stead."""
    added = {place.row: (place.at, np.tile(np.arange(place.first, place.last), steps)) for place in where}
    return _inserted(column, added, value=value)


def _padded_steps(
    table: pa.Table, name: str, *, ends: str, where: Sequence[Place], steps: int, score: float | None
) -> pa.Array:
    """A value a step, or the ends themselves, with the places' steps in them."""
    added, shifts = {}, {}
    for place in where:
        row_ends = table[ends][place.row].as_py()
        if row_ends is None:
            continue
        bounds = [0, *row_ends]
        shifts[place.row] = (place.at, place.last - place.first)
        if place.at in bounds:
            step = bounds.index(place.at)
            added[place.row] = (step, np.full(steps, max(step - 1, 0)))
    if name != ends:
        return _inserted(table[name], added, value=score)
    lists = []
    for row, row_ends in enumerate(table[ends].to_pylist()):
        if row_ends is None or row not in shifts:
            lists.append(row_ends)
            continue
        at, tokens = shifts[row]
        new = [at + tokens * (number + 1) for number in range(steps)] if row in added else []
        lists.append([*(e for e in row_ends if e <= at), *new, *(e + tokens * steps for e in row_ends if e > at)])
    return pa.array(lists, type=table[ends].type)


def _inserted(
    column: pa.ChunkedArray, added: Mapping[int, tuple[int, NDArray[np.int64]]], *, value: float | bool | None
) -> pa.Array:
    """Lists with copies of their own values put in. added: row -> (before which value, the values to copy)."""
    array = one_chunk(column)
    lengths_R = list_lengths(array)
    start_R = np.cumsum(lengths_R) - lengths_R
    valid_R = array.is_valid().to_numpy(zero_copy_only=False)
    added = {row: there for row, there in added.items() if valid_R[row]}
    flat = array.flatten()
    before = [np.full(len(copied), start_R[row] + at) for row, (at, copied) in added.items()]
    taken = [start_R[row] + copied for row, (_, copied) in added.items()]
    if not before:
        return array
    before_V, taken_V = np.concatenate(before), np.concatenate(taken)
    index_V = np.insert(np.arange(len(flat)), before_V, taken_V)
    new_V = np.insert(np.zeros(len(flat), np.bool_), before_V, True)
    values = flat.take(pa.array(index_V))
    if value is not None:
        values = pc.if_else(pa.array(new_V), pa.scalar(value, flat.type), values)
    for row, (_, copied) in added.items():
        lengths_R[row] += len(copied)
    starts_R1 = pa.array(np.concatenate([[0], np.cumsum(lengths_R)]).astype(np.int32))
    return pa.ListArray.from_arrays(starts_R1, values, type=array.type, mask=pa.array(~valid_R))
