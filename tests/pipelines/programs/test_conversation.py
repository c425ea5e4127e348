"""A rollout of several turns: what the engine is asked, and what is stored of it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from pipelines.engines.base import RequestRejected, Sampling
from pipelines.programs import Prompt, RolloutFull, Sampler
from pipelines.programs.conversation import Completion, Conversation
from tests.conftest import refusing_tokenizer

PROMPT = [5, 4]  # "7="
END = 1


def run(engine: Any, program: Any, *, seed: int = 9, **sampling: Any) -> Completion:
    """The completion a program makes; a full rollout ends as it is."""
    options = Sampling(**{"max_tokens": 20, **sampling})
    conversation = Conversation(engine, prompt_token_ids=PROMPT, seed=seed, sampling=options)

    async def go() -> None:
        with contextlib.suppress(RolloutFull):
            await program(Prompt(prompt_id="p"), conversation)

    asyncio.run(go())
    return conversation.completion()


async def tool_at_equals(prompt: Prompt, sample: Sampler) -> None:
    """Inserts "ab" after each "=" ."""
    while (await sample(stop=["="])).stop is not None:
        sample.insert("ab")


def test_inserted_tokens_are_masked_with_logprob_zero_and_sampled_ones_are_kept_as_they_came(
    scripted: Callable,
) -> None:
    engine = scripted(([2, 3, 4], "stop"), ([5, END], "stop"))
    done = run(engine, tool_at_equals)
    assert done.sample.token_ids.tolist() == [2, 3, 4, 12, 5, END]
    assert done.loss_mask.tolist() == [True, True, True, False, True, True]
    assert done.sample.logprobs.tolist() == [-0.25, -0.5, -0.75, 0.0, -0.25, -0.5]
    assert (done.sample.text, done.sample.finish_reason) == ("ab=ab7", "stop")
    assert engine.tokenizer("ab=ab7")["input_ids"] != [2, 3, 4, 12, 5], "the text alone would give other ids"


def test_every_call_goes_on_from_the_ids_so_far_with_a_seed_of_its_own(scripted: Callable) -> None:
    engine = scripted(([4], "stop"), ([3, 4], "stop"), ([END], "stop"))
    run(engine, tool_at_equals, seed=9, temperature=0.5)
    assert [request.prompt_token_ids for request in engine.asked] == [
        PROMPT,
        [*PROMPT, 4, 12],
        [*PROMPT, 4, 12, 3, 4, 12],
    ]
    derived = [int.from_bytes(hashlib.sha256(f"[9,{n}]".encode()).digest()[:8], "big") // 2 for n in (1, 2)]
    assert [request.seed for request in engine.asked] == [9, *derived]
    assert {request.sampling.temperature for request in engine.asked} == {0.5}
    assert [request.sampling.max_tokens for request in engine.asked] == [20, 18, 15]


def test_max_tokens_bounds_what_is_sampled_and_inserted_together(scripted: Callable) -> None:
    engine = scripted(([2, 4], "stop"), ([2, 2, 4], "stop"))
    done = run(engine, tool_at_equals, max_tokens=6)
    assert [request.sampling.max_tokens for request in engine.asked] == [6, 3]
    assert done.sample.token_ids.tolist() == [2, 4, 12, 2, 2, 4], "the second answer of the tool does not fit"
    assert done.sample.finish_reason == "length"


def test_the_context_bounds_a_rollout_too(scripted: Callable) -> None:
    engine = scripted(([2, 4], "stop"), ([2], "length"), max_model_len=6)
    done = run(engine, tool_at_equals)
    assert engine.asked[1].sampling.max_tokens == 1
    assert (done.sample.token_ids.tolist(), done.sample.finish_reason) == ([2, 4, 12, 2], "length")


def test_a_turn_may_be_shorter_and_the_rollout_goes_on(scripted: Callable) -> None:
    async def twice(prompt: Prompt, sample: Sampler) -> None:
        first = await sample(max_tokens=1)
        assert (first.finish_reason, first.stop) == ("length", None)
        last = await sample(max_tokens=99)
        assert (last.text, last.token_ids, last.finish_reason) == ("7", (5, END), "stop")

    engine = scripted(([2], "length"), ([5, END], "stop"))
    assert run(engine, twice).sample.finish_reason == "stop"
    assert [request.sampling.max_tokens for request in engine.asked] == [1, 19]


def test_stop_strings_of_the_configuration_hold_where_the_program_gives_none(scripted: Callable) -> None:
    async def once(prompt: Prompt, sample: Sampler) -> None:
        assert (await sample()).stop == "="

    engine = scripted(([2, 4], "stop"))
    run(engine, once, stop=["7", "="])
    assert engine.asked[0].sampling.stop == ("7", "=")


def test_names_of_special_tokens_in_a_tools_words_are_spelled_out_unless_asked_for(scripted: Callable) -> None:
    async def insert(prompt: Prompt, sample: Sampler) -> None:
        sample.insert("a<eos>")
        sample.insert("<eos>", special_tokens=True)

    done = run(scripted(), insert)
    assert done.sample.token_ids.tolist() == [2, *range(6, 11), END]
    assert done.sample.text == "a<eos>"
    assert not done.loss_mask.any()


@pytest.mark.parametrize("special_tokens", [False, True])
def test_a_tools_words_that_no_token_spells_reject_the_rollout(scripted: Callable, special_tokens: bool) -> None:
    async def insert(prompt: Prompt, sample: Sampler) -> None:
        sample.insert("a+", special_tokens=special_tokens)

    engine = scripted()
    engine.tokenizer = refusing_tokenizer()
    with pytest.raises(RequestRejected, match="unspelled_text"):
        run(engine, insert)


def test_one_call_at_a_time(scripted: Callable) -> None:
    async def both(prompt: Prompt, sample: Sampler) -> None:
        await asyncio.gather(sample(), sample())

    with pytest.raises(RuntimeError, match="one call at a time"):
        run(scripted(([2], "stop"), ([2], "stop")), both)


def test_a_transient_rejection_of_a_later_call_is_asked_again_with_the_same_seed(scripted: Callable) -> None:
    busy = RequestRejected("aborted", transient=True)
    engine = scripted(([4], "stop"), busy, ([END], "stop"))
    assert run(engine, tool_at_equals).sample.token_ids.tolist() == [4, 12, END]
    assert engine.asked[1] == engine.asked[2]
