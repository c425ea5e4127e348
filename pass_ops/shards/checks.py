"""The rules a part's rows keep (docs/spec/contract.md section 3), on whole columns. Used before a commit and by verify.

Each rule is a function from a table to problems; a problem says which rule, where (rows), and what.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pass_ops.errors import PartError
from pass_ops.reading.groups import group_bounds
from pass_ops.reading.ragged import falling, last_values, list_lengths, list_values, one_chunk, ragged
from pass_ops.shards.schemas import FINISH_REASONS, STATUSES, TOKEN_STATISTICS, VERIFY_STATUSES, signal_kind
from pass_ops.shards.tables import group_keys

_SHOWN = 3
_NOWHERE = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Problem:
    """A broken rule: its name, the rows that break it (int64), and what is wrong with them."""

    code: str
    rows: np.ndarray
    message: str


def check_part(table: pa.Table, stage: str, *, where: str) -> None:
    """Raise PartError for the first broken rule, naming rows."""
    for problem in part_problems(table, stage):
        raise PartError(f"{where}: {describe(problem, table)} [{problem.code}]. Nothing was committed")


def describe(problem: Problem, table: pa.Table) -> str:
    """The problem with the ids of its first rows."""
    name = next(name for name in ("rollout_id", "prompt_id", "group_id") if name in table.column_names)
    shown = ", ".join(str(table[name][row].as_py()) for row in problem.rows[:_SHOWN].tolist())
    more = f" and {len(problem.rows) - _SHOWN} more" if len(problem.rows) > _SHOWN else ""
    return f"{problem.message}: {shown}{more}" if shown else problem.message


def part_problems(table: pa.Table, stage: str) -> Iterator[Problem]:
    """Every broken rule of one part's table (columns as `schemas.conform` gives them)."""
    rules: dict[str, tuple[Callable[[pa.Table], Iterable[Problem]], ...]] = {
        "prompts": (_prompts,),
        "generate": (_ids, _rollouts),
        "score": (_ids, _signal),
        "shape": (_ids, _rollouts, _chunks, _streams),
    }
    for rule in rules[stage]:
        yield from rule(table)


def alignment_problems(signal: pa.Table, rollouts: pa.Table) -> Iterator[Problem]:
    """What a signal's part gets wrong about its rollouts: rows, their order, lengths, masked values.

    What can be told without the rollouts (`part_problems`) is not looked at again.
    """
    if signal.num_rows != rollouts.num_rows:
        yield Problem("alignment", _NOWHERE, f"{signal.num_rows} rows for {rollouts.num_rows} rollouts")
        return
    same = signal["rollout_id"].equals(rollouts["rollout_id"])  # compares buffers
    other = _NOWHERE if same else np.flatnonzero(~_true(pc.equal(signal["rollout_id"], rollouts["rollout_id"])))
    if len(other):
        yield Problem("alignment", other, "the rows are not the rollouts' in their order")
        return
    for name in _token_lists(signal):
        yield from _token_list(signal, name, rollouts)
    if "process_ends" in signal.column_names:
        yield from _last_end(signal, "process_ends", rollouts)


def compared_columns(signal: pa.Table) -> list[str]:
    """The rollouts' columns that `alignment_problems` looks at; a signal of one value a rollout needs no tokens."""
    by_token = _token_lists(signal) or "process_ends" in signal.column_names
    return ["rollout_id", "token_ids", "loss_mask"] if by_token else ["rollout_id"]


# -- rules -------------------------------------------------------------------------------------------------------


def _prompts(table: pa.Table) -> Iterator[Problem]:
    ids = table["prompt_id"]
    yield from _problem("unique_ids", _repeated(ids), "prompt_id appears twice")
    yield from _problem(
        "id_form", _true(pc.match_substring(ids, "/")), 'prompt_id holds "/", which is to be percent-encoded'
    )
    both = _true(pc.is_valid(table["prompt"])) == _true(pc.is_valid(table["messages"]))
    yield from _problem("prompt_or_messages", both, "exactly one of prompt and messages must be set")


def _ids(table: pa.Table) -> Iterator[Problem]:
    ids, keys = table["rollout_id"], group_keys(table)
    form = _true(pc.match_substring_regex(ids, r"^[^/]+/(0|[1-9][0-9]*)$"))
    if not form.all():
        yield from _problem("id_form", ~form, "rollout_id is not {group_id}/{sample_index}")
        return
    samples = pc.list_element(pc.split_pattern(ids, "/"), 1)
    index_N = pc.cast(samples, pa.int64()).to_numpy()
    if "group_id" in table.column_names:
        made = pc.binary_join_element_wise(keys, pc.cast(table["sample_index"], pa.string()), "/")
        yield from _problem("id_form", ~_true(pc.equal(made, ids)), "rollout_id is not {group_id}/{sample_index}")
    bounds_G = group_bounds(keys)
    first_G = keys.take(pa.array(bounds_G[:-1]))
    if len(first_G.unique()) != len(first_G):
        again = np.zeros(len(ids), bool)
        again[bounds_G[:-1][_repeated(first_G)]] = True
        yield from _problem("adjacency", again, "the rows of one group are not adjacent")
    falling = np.zeros(len(ids), bool)
    falling[1:] = np.diff(index_N) <= 0
    falling[bounds_G[:-1]] = False
    yield from _problem("sample_order", falling, "sample_index does not increase within the group")


def _rollouts(table: pa.Table) -> Iterator[Problem]:
    masked_R = _true(pc.is_valid(table["loss_mask"]))
    apart_R = masked_R != _true(pc.is_valid(table["token_ids"]))
    yield from _problem("known_together", apart_R, "one of token_ids and loss_mask is null and the other is not")
    tokens_R = list_lengths(table["token_ids"])
    for name in ("behavior_logprobs", "loss_mask"):
        differs_R = (list_lengths(table[name]) != tokens_R) & _true(pc.is_valid(table[name]))
        if differs_R.any():
            yield from _problem("lengths", differs_R, f"{name} and token_ids have different lengths")
            return
    statistics = [name for name in TOKEN_STATISTICS.names if name in table.column_names]
    for name in ("behavior_logprobs", *statistics):
        yield from _finite(table, name)
        yield from _token_list(table, name, table)
    yield from _allowed(table, "finish_reason", FINISH_REASONS, unless_null=True)


def _signal(table: pa.Table) -> Iterator[Problem]:
    yield from _allowed(table, "status", STATUSES)
    kind = signal_kind(table.column_names)
    valued = {
        "outcome": ["outcome_reward"],
        "format": ["format_reward", "format_ok"],
        "process_steps": ["process_scores", "process_ends"],
        "process_tokens": ["process_scores"],
        "logprobs": ["logprobs"],
    }
    ok = _true(pc.equal(table["status"], "ok"))
    for name in valued[kind]:
        yield from _problem(
            "null_status", _true(pc.is_valid(table[name])) != ok, f"{name} must be null exactly where status is not ok"
        )
        if name not in ("format_ok", "process_ends"):
            yield from _finite(table, name)
    if kind == "outcome":
        yield from _allowed(table, "verify_status", VERIFY_STATUSES)
        extracted = _true(pc.is_valid(table["extracted_answer"])) & ~ok
        yield from _problem("null_status", extracted, "extracted_answer must be null where status is not ok")
    if kind == "process_steps":
        yield from _steps(table)


def _steps(table: pa.Table) -> Iterator[Problem]:
    unequal_R = list_lengths(table["process_scores"]) != list_lengths(table["process_ends"])
    yield from _problem("lengths", unequal_R, "process_scores and process_ends have different lengths")
    yield from _ends(table, "process_ends")


def _chunks(table: pa.Table) -> Iterator[Problem]:
    chunks_R = list_lengths(table["chunk_ends"])
    for name in ("chunk_credits", "chunk_advantages"):
        differs_R = list_lengths(table[name]) != chunks_R
        yield from _problem("lengths", differs_R, f"{name} and chunk_ends have different lengths")
        yield from _finite(table, name)
    yield from _ends(table, "chunk_ends")
    yield from _last_end(table, "chunk_ends", table)
    yield from _finite(table, "path_score")
    idle_R = ~_true(table["trainable"])
    if not idle_R.any():
        return
    untrainable = "a row that is not trainable has"
    yield from _problem("untrainable", idle_R & (chunks_R > 1), f"{untrainable} more than one chunk")
    yield from _problem("untrainable", idle_R & _true(pc.is_valid(table["path_score"])), f"{untrainable} a path_score")
    for name in ("chunk_credits", "chunk_advantages"):
        credited_R = idle_R & _rows(table[name], list_values(table[name]) != 0)
        yield from _problem("untrainable", credited_R, f"{untrainable} {name} other than 0")


def _streams(table: pa.Table) -> Iterator[Problem]:
    """The raw streams a shaped part carries along."""
    names = table.column_names
    for name in _token_lists(table):
        if name != "behavior_logprobs":
            yield from _token_list(table, name, table)
    if "process_ends" in names:
        yield from _steps(table)
        yield from _last_end(table, "process_ends", table)
    for name in names:
        if name in ("process_scores", "outcome_reward", "format_reward") or name.endswith("_logprobs"):
            yield from _finite(table, name)
    for name in names:
        if name.startswith("status_"):
            yield from _allowed(table, name, STATUSES)


# -- how ---------------------------------------------------------------------------------------------------------


def _token_lists(table: pa.Table) -> list[str]:
    """Names of the columns with one value a completion token."""
    columns = table.column_names
    names = [name for name in columns if name == "logprobs" or name.endswith("_logprobs")]
    return [*names, "process_scores"] if "process_scores" in columns and "process_ends" not in columns else names


def _token_list(table: pa.Table, name: str, rollouts: pa.Table) -> Iterator[Problem]:
    """One value a token, 0.0 where masked; null rows have none."""
    tokens_R = list_lengths(rollouts["token_ids"])
    valid_R = _true(pc.is_valid(table[name]))
    unequal_R = valid_R & (list_lengths(table[name]) != tokens_R)
    if unequal_R.any():
        yield from _problem("lengths", unequal_R, f"{name} and token_ids have different lengths")
        return
    mask = rollouts["loss_mask"] if valid_R.all() else rollouts["loss_mask"].filter(pa.array(valid_R))
    mask_N, values_N = pc.list_flatten(mask), pc.list_flatten(table[name])
    if len(mask_N) == len(values_N) and not pc.all(mask_N).as_py():
        wrong_N = pc.and_not(pc.not_equal(values_N, pa.scalar(0, values_N.type)), mask_N)
        if pc.any(wrong_N).as_py():
            wrong_R = _rows(table[name], _true(wrong_N))
            yield from _problem("masked_values", wrong_R, f"{name} is not 0.0 at a masked token")


def _finite(table: pa.Table, name: str) -> Iterator[Problem]:
    column = table[name]
    if pa.types.is_list(column.type):
        bad_R = _rows(column, ~np.isfinite(list_values(column)))
    elif not column.null_count:
        bad_R = ~np.isfinite(column.to_numpy())
    else:
        bad_R = _true(pc.fill_null(pc.invert(pc.is_finite(column)), False))
    yield from _problem("finite", bad_R, f"{name} holds NaN or infinity")


def _ends(table: pa.Table, name: str) -> Iterator[Problem]:
    """Exclusive ends: above 0, strictly increasing."""
    bad_R = falling(ragged(one_chunk(table[name]))) & _true(pc.is_valid(table[name]))
    yield from _problem("ends", bad_R, f"{name} does not strictly increase from above 0")


def _last_end(table: pa.Table, name: str, rollouts: pa.Table) -> Iterator[Problem]:
    last_R = last_values(ragged(one_chunk(table[name])))
    wrong_R = (last_R != list_lengths(rollouts["token_ids"])) & _true(pc.is_valid(table[name]))
    yield from _problem("ends", wrong_R, f"the last of {name} is not the length of the completion")


def _allowed(table: pa.Table, name: str, values: tuple[str, ...], *, unless_null: bool = False) -> Iterator[Problem]:
    other = ~_true(pc.is_in(table[name], value_set=pa.array(values)))
    if unless_null:
        other &= _true(pc.is_valid(table[name]))
    yield from _problem("value", other, f"{name} is none of {', '.join(values)}")


def _problem(code: str, bad: np.ndarray, message: str) -> Iterator[Problem]:
    if bad.any():
        yield Problem(code, np.flatnonzero(bad), message)


def _repeated(values: pa.ChunkedArray) -> np.ndarray:
    """bool: the value appeared before."""
    codes = values.combine_chunks().dictionary_encode().indices.to_numpy()
    again = np.ones(len(codes), bool)
    again[np.unique(codes, return_index=True)[1]] = False
    return again


def _rows(column: pa.ChunkedArray, which_N: np.ndarray) -> np.ndarray:
    """bool: the row has one of these values of a list column."""
    rows_R = np.zeros(len(column), bool)
    if which_N.any():
        rows_R[np.repeat(np.arange(len(column)), list_lengths(column))[which_N]] = True
    return rows_R


def _true(column: pa.ChunkedArray) -> np.ndarray:
    values: np.ndarray = column.to_numpy()
    return values.astype(bool)
