"""One part of prompts -> its rollouts, all of them under way at once: one completion each, or a rollout program each.

A rollout that is one completion is one request to the engine, and the thread that made all of them takes the answers
as they come. A program is a coroutine; all of a part's are on one event loop. A program that samples once makes the
rollout that no program makes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from queue import SimpleQueue
from types import MappingProxyType

import numpy as np

from pass_ops.shards import Rejection
from pipelines.engines.base import Engine, EngineDead, RequestRejected, Sample, SampleRequest, Sampling
from pipelines.parts.loop import PartOutput
from pipelines.programs import Prompt, RolloutFull, Sampler
from pipelines.programs.conversation import REQUEST_ATTEMPTS, Completion, Conversation, check_sample
from pipelines.rollouts.encode import PlannedPrompt
from pipelines.rollouts.rows import Place, Rollout, rollouts_table

LoadedProgram = Callable[[Prompt, Sampler], Awaitable[None]]
Keep = Callable[[Rollout], None]
Made = Rollout | Rejection


def unkept(rollout: Rollout) -> None:
    """Keeps no rollout."""


def sample_part(
    engine: Engine,
    planned: Sequence[PlannedPrompt | Rejection],
    *,
    program: LoadedProgram | None,
    sampling: Sampling,
    seeds: Mapping[str, Sequence[int]],
    kept: Mapping[str, Completion] = MappingProxyType({}),
    keep: Keep = unkept,
) -> PartOutput:
    """Every rollout of a part; rows in order of prompt and sample_index, whatever the order they came in.

    program: None for one completion. seeds: prompt_id -> the seeds of its group's rollouts. kept: rollout_id -> its
    completion, where it is known from an earlier attempt. keep: told of every rollout as soon as it is finished, but
    not of those kept already. Raises what is no single rollout's fault (EngineDead).
    """
    places = [
        Place(prompt=prompt, sample_index=index, seed=seed)
        for prompt in planned
        if isinstance(prompt, PlannedPrompt)
        for index, seed in enumerate(seeds[prompt.prompt_id])
    ]
    known = {place: kept[place.rollout_id] for place in places if place.rollout_id in kept} if kept else {}
    todo = [place for place in places if place not in known]
    made: dict[Place, Made] = {place: Rollout(place=place, completion=known[place]) for place in known}
    if program is None:
        made |= _completions(engine, todo, sampling=sampling, keep=keep)
    else:
        made |= asyncio.run(_programs(engine, todo, program=program, sampling=sampling, keep=keep))
    found = [made[place] for place in places]
    rejected = [item for item in (*planned, *found) if isinstance(item, Rejection)]
    rollouts = [item for item in found if isinstance(item, Rollout)]
    table = rollouts_table(rollouts, statistics=sampling.token_statistics > 0)
    return PartOutput(table=table, rejected=tuple(rejected))


def _completions(engine: Engine, todo: Sequence[Place], *, sampling: Sampling, keep: Keep) -> dict[Place, Made]:
    """One request a rollout; one that is rejected for now is made again."""
    answered: SimpleQueue[Future[Sample]] = SimpleQueue()
    under_way: dict[Future[Sample], tuple[Place, int]] = {}  # -> which attempt at it this is
    made: dict[Place, Made] = {}

    def ask(place: Place, attempt: int) -> None:
        room = engine.max_model_len - len(place.prompt.token_ids)
        drawn = sampling if sampling.max_tokens <= room else replace(sampling, max_tokens=room)
        future = engine.submit(SampleRequest(prompt_token_ids=place.prompt.token_ids, seed=place.seed, sampling=drawn))
        under_way[future] = place, attempt
        future.add_done_callback(answered.put)

    try:
        for place in todo:
            ask(place, 1)
        while under_way:
            future = answered.get()
            place, attempt = under_way.pop(future)
            try:
                sample = future.result()
                check_sample(sample)
            except RequestRejected as error:
                if error.transient and attempt < REQUEST_ATTEMPTS:
                    ask(place, attempt + 1)
                else:
                    made[place] = _rejection(place, error, attempts=attempt)
            else:
                completion = Completion(sample=sample, loss_mask=np.ones(len(sample.token_ids), np.bool_))
                made[place] = rollout = Rollout(place=place, completion=completion)
                keep(rollout)
    finally:
        for future in under_way:  # what ends a part leaves nobody who waits for the rest of it
            future.cancel()
    return made


async def _programs(
    engine: Engine, todo: Sequence[Place], *, program: LoadedProgram, sampling: Sampling, keep: Keep
) -> dict[Place, Made]:
    """One coroutine a rollout."""

    async def run(place: Place) -> Made:
        conversation = Conversation(engine, prompt_token_ids=place.prompt.token_ids, seed=place.seed, sampling=sampling)
        made = await _converse(program, place, conversation)
        if isinstance(made, Rollout):
            keep(made)
        return made

    return dict(zip(todo, await asyncio.gather(*map(run, todo)), strict=True))


async def _converse(program: LoadedProgram, place: Place, conversation: Conversation) -> Made:
    """Run the program to its end, or say why its rollout has none."""
    try:
        await program(place.prompt.task, conversation)
    except RolloutFull:
        pass
    except RequestRejected as error:
        return _rejection(place, error, attempts=conversation.attempts, text=conversation.text)
    except (EngineDead, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - a program is other people's code; it costs its own rollout
        found = RequestRejected("program_error", f"{type(error).__name__}: {error}")
        return _rejection(place, found, attempts=conversation.attempts, text=conversation.text)
    return Rollout(place=place, completion=conversation.completion())


def _rejection(place: Place, error: RequestRejected, *, attempts: int, text: str = "") -> Rejection:
    return Rejection(
        prompt_id=place.prompt.prompt_id,
        sample_index=place.sample_index,
        reason=error.reason,
        detail=error.detail,
        transient=error.transient,
        attempts=max(attempts, 1),
        payload={"seed": place.seed} | ({"text": text} if text else {}),
    )
