"""The datasets of an import, part by part: prompts, then rollouts, then a signal for each reward and for steps.

part i of the plan -> part i of prompts, of rollouts, of signals/NAME
"""

from __future__ import annotations

import json
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pass_ops import shards
from pass_ops.reading.ragged import Array, list_lengths
from pass_ops.shards import Rejection, Store
from pipelines.imports.encode import TURNS, PromptForm, prompt_text, step_row, with_tokens
from pipelines.imports.plan import DUPLICATE, REJECTED, read_part
from pipelines.imports.spool import Spool
from pipelines.parts.inputs import reopen
from pipelines.parts.loop import PartOutput, PartWork, in_background
from pipelines.rows.record import RowError
from pipelines.signals.base import sidecar

STEPS = "steps"
_TASK = ("group_id", "task", "prompt", "messages", "prompt_token_ids", "answer", "source", "extra")
_ROLLOUT = (
    *("group_id", "task", "text", "prompt_token_ids", "token_ids", "logprobs", "loss_mask", "finish_reason", "answer"),
    *("where", "reason", "detail"),
)
#: what encoding reads besides
_ENCODED = ("prompt", "messages", TURNS)


@dataclass(frozen=True, kw_only=True)
class SpoolPlace:
    """Where the spool of an import lies. chunk_starts: see `Spool`. source: what prompts without one are from.

    turns: whether the rollouts say how many messages the policy wrote.
    """

    url: str
    chunk_starts: tuple[int, ...]
    source: str
    tokenizer: str | None = None
    form: PromptForm = field(default_factory=PromptForm)
    turns: bool = False

    def rows(self, part: int, columns: tuple[str, ...]) -> tuple[pa.Table, Array]:
        """A part's rows and their sample_index, DUPLICATE or REJECTED."""
        store = Store(self.url)
        rows, samples = read_part(store, part)
        return Spool(store, self.chunk_starts).take(rows, columns), samples

    def heads(self, part: int, columns: tuple[str, ...]) -> pa.Table:
        """The first row of each of a part's groups."""
        store = Store(self.url)
        rows, samples = read_part(store, part)
        rows, spool = rows[samples >= 0], Spool(store, self.chunk_starts)
        return spool.take(rows[_heads(spool.take(rows, ("group_id",))["group_id"])], columns)


class PromptsWork(PartWork):
    """One prompt a group, as its first row has it."""

    def __init__(self, place: SpoolPlace) -> None:
        self._place = place

    def setup(self) -> None:
        """Nothing to acquire."""

    def start(self, part: int) -> Future[PartOutput]:
        """Make a part in a thread of its own."""
        return in_background(lambda: PartOutput(table=prompts_part(self._place, part)))


class RolloutsWork(PartWork):
    """The rollouts of each group, and what was rejected."""

    def __init__(self, place: SpoolPlace) -> None:
        self._place = place

    def setup(self) -> None:
        """Nothing to acquire."""

    def start(self, part: int) -> Future[PartOutput]:
        """Make a part in a thread of its own."""
        return in_background(rollouts_part, self._place, part)


class SignalWork(PartWork):
    """One signal, aligned with the rollouts. reward: its number in the spool; None for labelled steps."""

    def __init__(self, place: SpoolPlace, *, spec: shards.DatasetSpec, rollouts: str, reward: int | None) -> None:
        self._place, self._spec, self._rollouts, self._reward = place, spec, rollouts, reward
        self._source: shards.CompleteDataset

    def setup(self) -> None:
        """The rollouts."""
        self._source = reopen(self._rollouts, "rollouts", self._spec)

    def start(self, part: int) -> Future[PartOutput]:
        """Make a part in a thread of its own."""
        return in_background(self._part, part)

    def _part(self, part: int) -> PartOutput:
        rollouts = self._source.read_part(part, ["rollout_id", "token_ids"])
        make = partial(reward_part, number=self._reward) if self._reward is not None else steps_part
        return PartOutput(table=make(self._place, part, rollouts))


def prompts_part(place: SpoolPlace, part: int) -> pa.Table:
    """The prompts of a part's groups, in order."""
    rows = place.heads(part, _TASK)
    prompts = rows["prompt"]
    lacking = _true(pc.is_null(prompts)) & _true(pc.is_null(rows["messages"]))
    if lacking.any() and place.tokenizer is not None:
        decoded = prompts.to_pylist()
        for at in np.flatnonzero(lacking).tolist():
            decoded[at] = prompt_text(rows["prompt_token_ids"][at].as_py(), place.tokenizer)
        prompts = pa.chunked_array([pa.array(decoded, pa.string())])
    messages = [None if chat is None else json.loads(chat) for chat in rows["messages"].to_pylist()]
    columns = {
        "prompt_id": rows["group_id"],
        "prompt": prompts,
        "messages": pa.array(messages, shards.PROMPTS.field("messages").type),
        "answer": rows["answer"],
        "source": pc.fill_null(rows["source"], place.source),
        "extra": rows["extra"],
    }
    return pa.table(columns, schema=shards.PROMPTS)


def rollouts_part(place: SpoolPlace, part: int) -> PartOutput:
    """The rollouts of a part, and its rejected rows in the source's order."""
    more = _ENCODED if place.tokenizer is not None else (TURNS,) if place.turns else ()
    rows, samples = place.rows(part, _ROLLOUT + more)
    refused: dict[int, RowError] = {}
    where = rows["where"]
    for at in np.flatnonzero(samples == REJECTED).tolist():
        refused[at] = RowError(rows["reason"][at].as_py(), rows["detail"][at].as_py())
    for at in np.flatnonzero(samples == DUPLICATE).tolist():
        refused[at] = RowError("duplicate_rollout", f"its group {rows['group_id'][at]} has this sample_index already")
    for at in _conflicts(rows, samples).tolist():
        detail = f"its group {rows['group_id'][at]} has another prompt; rollouts of one group answer one prompt"
        refused[at] = RowError("conflicting_prompt", detail)
    good = np.setdiff1d(np.arange(len(rows)), np.fromiter(refused, np.int64))
    kept, indices = rows.take(pa.array(good)), samples[good]
    if place.tokenizer is not None:
        kept, wrong = with_tokens(kept, place.tokenizer, place.form)
        refused |= {int(good[at]): error for at, error in wrong.items()}
        stay = np.setdiff1d(np.arange(len(good)), np.fromiter(wrong, np.int64))
        kept, indices = kept.take(pa.array(stay)), indices[stay]
    rejected = [_rejection(str(where[at]), rows, samples, at, refused[at]) for at in sorted(refused)]
    table = _rollouts(kept, indices)
    table = table.append_column(TURNS, kept[TURNS]) if place.turns else table
    return PartOutput(table=table, rejected=tuple(rejected))


def reward_part(place: SpoolPlace, part: int, rollouts: pa.Table, *, number: int) -> pa.Table:
    """An outcome signal: the source's reward, a verdict unknown."""
    rows = _aligned(place, part, rollouts, ("group_id", "reward_names", "rewards"))
    counts_R = list_lengths(rows["rewards"])
    names_N = pc.list_flatten(rows["reward_names"]).to_numpy()
    values_N = pc.list_flatten(rows["rewards"]).to_numpy().astype(np.float64)
    here_N = names_N == number
    reward_R = np.full(len(rows), np.nan)
    reward_R[np.repeat(np.arange(len(rows)), counts_R)[here_N]] = values_N[here_N]
    known_R = pa.array(np.isfinite(reward_R))
    columns = {
        "rollout_id": rollouts["rollout_id"],
        "status": pc.if_else(known_R, "ok", "no_input"),
        "detail": pc.if_else(known_R, pa.scalar(None, pa.string()), "the source has no reward of it"),
        "outcome_reward": pc.if_else(known_R, pa.array(reward_R, pa.float32()), pa.scalar(None, pa.float32())),
        "verify_status": pa.repeat("unknown", len(rows)),
        "extracted_answer": pa.nulls(len(rows), pa.string()),
    }
    return pa.table(columns, schema=shards.signal_schema("outcome"))


def steps_part(place: SpoolPlace, part: int, rollouts: pa.Table) -> pa.Table:
    """A process signal: the labels of the source's steps, at the tokens that they end at."""
    assert place.tokenizer is not None
    rows = _aligned(place, part, rollouts, ("group_id", "steps", "step_scores", "between")).to_pylist()
    ids = rollouts["token_ids"].to_pylist()
    made = [step_row(own, row, place.tokenizer) for own, row in zip(ids, rows, strict=True)]
    return sidecar("process_steps", rollouts, made)


def _rollouts(rows: pa.Table, samples: Array) -> pa.Table:
    indices = pa.array(samples, pa.int32())
    columns = {
        "group_id": rows["group_id"],
        "sample_index": indices,
        "rollout_id": _rollout_ids(rows["group_id"], indices),
        "prompt_token_ids": rows["prompt_token_ids"],
        "token_ids": rows["token_ids"],
        "text": rows["text"],
        "behavior_logprobs": rows["logprobs"],
        "loss_mask": rows["loss_mask"],
        "finish_reason": rows["finish_reason"],
        "seed": pa.nulls(len(rows), pa.int64()),
        "answer": rows["answer"],
    }
    return pa.table({name: columns[name] for name in shards.ROLLOUTS.names})


def _aligned(place: SpoolPlace, part: int, rollouts: pa.Table, columns: tuple[str, ...]) -> pa.Table:
    """The spooled rows of the rollouts that there are, in their order."""
    rows, samples = place.rows(part, columns)
    good = np.flatnonzero(samples >= 0)
    rows = rows.take(pa.array(good))
    ids = _rollout_ids(rows["group_id"], pa.array(samples[good], pa.int32()))
    return rows.take(pc.index_in(rollouts["rollout_id"], value_set=ids.combine_chunks()))


def _rollout_ids(group_ids: pa.ChunkedArray, samples: pa.Array) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(group_ids, pc.cast(samples, pa.string()), "/")


def _heads(group_ids: pa.ChunkedArray) -> Array:
    """The first row of each group."""
    if len(group_ids) == 0:
        return np.zeros(0, np.int64)
    differs = pc.not_equal(group_ids.slice(1), group_ids.slice(0, len(group_ids) - 1)).to_numpy()
    return np.concatenate([[0], np.flatnonzero(differs) + 1])


def _conflicts(rows: pa.Table, samples: Array) -> Array:
    """Good rows whose task is not that of their group's first row."""
    good = np.flatnonzero(samples >= 0)
    kept = rows.select(["group_id", "task"]).take(pa.array(good))
    heads = _heads(kept["group_id"])
    if len(heads) == 0:
        return heads
    first = np.repeat(heads, np.diff(heads, append=len(kept)))
    return good[_true(pc.not_equal(kept["task"], kept["task"].take(pa.array(first))))]


def _rejection(where: str, rows: pa.Table, samples: Array, at: int, error: RowError) -> Rejection:
    """A row that could not be read has no group: it stands under its place, as the only rollout there."""
    own = samples[at] >= 0
    return Rejection(
        prompt_id=rows["group_id"][at].as_py() if samples[at] != REJECTED else where.replace("/", "%2F"),
        sample_index=int(samples[at]) if own else 0,
        reason=error.reason,
        detail=f"{where}: {error}",
        payload={"where": where},
    )


def _true(column: pa.ChunkedArray) -> Array:
    values: Array = column.to_numpy()
    return values.astype(np.bool_)
