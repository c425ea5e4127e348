"""One part of prompts -> its rollouts: a rollout program each, all of them under way at once on one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pass_ops import shards
from pass_ops.reading.ragged import list_array, offsets
from pass_ops.shards import Rejection
from pipelines.engines.base import Engine, EngineDead, RequestRejected, Sample, Sampling
from pipelines.parts.loop import PartOutput
from pipelines.programs import Prompt, RolloutFull, Sampler
from pipelines.programs.conversation import Completion, Conversation
from pipelines.rollouts.encode import PlannedPrompt

LoadedProgram = Callable[[Prompt, Sampler], Awaitable[None]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Rollout:
    """One completion of a prompt."""

    prompt: PlannedPrompt
    sample_index: int
    seed: int
    completion: Completion

    @property
    def rollout_id(self) -> str:
        """Its name in its dataset."""
        return rollout_id(self.prompt.prompt_id, self.sample_index)


async def sample_part(
    engine: Engine,
    planned: Sequence[PlannedPrompt | Rejection],
    *,
    program: LoadedProgram,
    sampling: Sampling,
    seeds: Callable[[str], Sequence[int]],
    kept: Mapping[str, Completion] = MappingProxyType({}),
    keep: Callable[[Rollout], None] | None = None,
) -> PartOutput:
    """Every rollout of a part; rows in order of prompt and sample_index, whatever the order they came in.

    seeds: prompt_id -> the seed of each rollout of its group. kept: rollout_id -> its completion, where it is known
    from an earlier attempt. keep: told of every rollout as soon as it is finished, but not of those kept already.
    Raises what is no single rollout's fault (EngineDead).
    """

    async def begin(prompt: PlannedPrompt, index: int, seed: int) -> Rollout | Rejection:
        known = kept.get(rollout_id(prompt.prompt_id, index))
        if known is not None:
            return Rollout(prompt=prompt, sample_index=index, seed=seed, completion=known)
        conversation = Conversation(engine, prompt_token_ids=prompt.token_ids, seed=seed, sampling=sampling)
        made = await _rollout(program, prompt, index, conversation)
        if keep is not None and isinstance(made, Rollout):
            keep(made)
        return made

    answers = await asyncio.gather(
        *(
            begin(prompt, index, seed)
            for prompt in planned
            if isinstance(prompt, PlannedPrompt)
            for index, seed in enumerate(seeds(prompt.prompt_id))
        )
    )
    rejected = [item for item in (*planned, *answers) if isinstance(item, Rejection)]
    rollouts = [item for item in answers if isinstance(item, Rollout)]
    table = rollouts_table(rollouts, statistics=sampling.token_statistics > 0)
    return PartOutput(table=table, rejected=tuple(rejected))


def rollout_id(prompt_id: str, sample_index: int) -> str:
    """The rollout's name in its dataset."""
    return f"{prompt_id}/{sample_index}"


async def _rollout(
    program: LoadedProgram, prompt: PlannedPrompt, index: int, conversation: Conversation
) -> Rollout | Rejection:
    """Run the program to its end, or say why its rollout has none."""
    try:
        await program(prompt.task, conversation)
    except RolloutFull:
        pass
    except RequestRejected as error:
        return _rejection(
            prompt, index, conversation, reason=error.reason, detail=error.detail, transient=error.transient
        )
    except (EngineDead, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - a program is other people's code; it costs its own rollout
        return _rejection(
            prompt, index, conversation, reason="program_error", detail=f"{type(error).__name__}: {error}"
        )
    return Rollout(prompt=prompt, sample_index=index, seed=conversation.seed, completion=conversation.completion())


def _rejection(prompt: PlannedPrompt, index: int, conversation: Conversation, **why: Any) -> Rejection:
    payload = {"seed": conversation.seed} | ({"text": conversation.text} if conversation.text else {})
    return Rejection(
        prompt_id=prompt.prompt_id, sample_index=index, attempts=max(conversation.attempts, 1), payload=payload, **why
    )


def rollouts_table(rollouts: Sequence[Rollout], *, statistics: bool = False) -> pa.Table:
    """Rows of the contract's `rollouts`, in the order given; with the columns of token statistics where asked for."""
    samples = [rollout.completion.sample for rollout in rollouts]
    columns = {
        "group_id": [rollout.prompt.prompt_id for rollout in rollouts],
        "sample_index": [rollout.sample_index for rollout in rollouts],
        "rollout_id": [rollout.rollout_id for rollout in rollouts],
        "prompt_token_ids": _lists([rollout.prompt.token_ids for rollout in rollouts], np.int32),
        "token_ids": _lists([sample.token_ids for sample in samples], np.int32),
        "text": [sample.text for sample in samples],
        "behavior_logprobs": _lists([sample.logprobs for sample in samples], np.float32),
        "loss_mask": _lists([rollout.completion.loss_mask for rollout in rollouts], np.bool_),
        "finish_reason": [sample.finish_reason for sample in samples],
        "seed": [rollout.seed for rollout in rollouts],
        "answer": [rollout.prompt.answer for rollout in rollouts],
    }
    if not statistics:
        return pa.table(columns, schema=shards.ROLLOUTS)
    for row, name in enumerate(shards.TOKEN_STATISTICS.names):
        columns[name] = _lists([_statistic(sample, row) for sample in samples], np.float32)
    return pa.table(columns, schema=pa.schema([*shards.ROLLOUTS, *shards.TOKEN_STATISTICS]))


def _statistic(sample: Sample, row: int) -> NDArray[np.float32]:
    """Row `row` of a sample's statistics; nothing of an empty completion."""
    return np.zeros(0, np.float32) if sample.statistics is None else sample.statistics[row]


def _lists(rows: Sequence[Any], dtype: type[np.generic]) -> pa.ListArray:
    """A list column from one sequence a row."""
    arrays = [np.asarray(row, dtype) for row in rows]
    counts_R = np.array([len(array) for array in arrays], np.int64)
    return list_array(offsets(counts_R), np.concatenate([np.zeros(0, dtype), *arrays]))
