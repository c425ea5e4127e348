"""Where a completion stops and what its text shows, on every engine: special tokens, characters cut in two."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from pipelines.engines import (
    Engine,
    EngineOptionError,
    EngineOptions,
    RequestRejected,
    SampleRequest,
    Sampling,
    release,
)
from pipelines.engines import start_engine as start
from pipelines.engines.base import Sample
from pipelines.engines.text import completion_text, ends_inside_character, stops, tokens_to_stop
from tests.conftest import byte_tokenizer

SAID = "\x80<think>ab END</think>8<|im_end|>xyz"  # "\x80" stands for bytes C2 80; the last byte of an emoji is 80
ENGINES = {
    "vllm": EngineOptions(dtype="float32", kv_cache_gib=0.25, max_num_seqs=8),
    "transformers": EngineOptions(kind="transformers"),
}


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest, reciting_model: Callable[..., str]) -> Iterator[Engine]:
    release()  # a process runs one vLLM engine
    engine = start(reciting_model(SAID, end="<pad>"), ENGINES[request.param])
    yield engine
    engine.close()


def say(engine: Engine, prompt: list[int], **sampling: object) -> Sample:
    sampling = {"max_tokens": 12, "temperature": 0.0, **sampling}
    return engine.submit(SampleRequest(prompt_token_ids=prompt, seed=1, sampling=Sampling(**sampling))).result(60)


def prompt_of(engine: Engine, text: bytes) -> list[int]:
    """Byte tokens, so that a text may end anywhere."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    written = bytes_to_unicode()
    return list(engine.tokenizer.convert_tokens_to_ids([written[byte] for byte in text]))


CUT = "say END now \N{GRINNING FACE}".encode()[:-1]


@pytest.mark.parametrize("prompt", [CUT, CUT[:-1], CUT[:-2], "END é".encode()[:-1], "END \ufffd".encode()])
def test_a_stop_string_of_the_prompt_ends_nothing_where_it_ends_inside_a_character(engine, prompt) -> None:
    free = say(engine, prompt_of(engine, prompt), max_tokens=5)
    held = say(engine, prompt_of(engine, prompt), max_tokens=5, stop=["END"])
    assert (len(free.token_ids), free.finish_reason) == (5, "length")
    assert held.token_ids.tolist() == free.token_ids.tolist()
    assert held.finish_reason == "length"
    np.testing.assert_array_equal(held.logprobs, free.logprobs)


@pytest.mark.parametrize("prompt", [CUT, b"say END now"])
def test_a_stop_string_of_the_completion_ends_it_wherever_the_prompt_ends(engine, prompt) -> None:
    sample = say(engine, prompt_of(engine, prompt), stop=["END", "8"])
    assert (sample.text.lstrip("\ufffd\x80"), sample.finish_reason) == ("ab END", "stop")
    assert len(sample.logprobs) == len(sample.token_ids) == len("\x80".encode()) + 1 + len("ab END")


@pytest.mark.parametrize("stop", ["<|im_end|>", "<think>", "</think>"])
def test_a_special_token_stops_by_its_id(engine, stop) -> None:
    sample = say(engine, [7], stop=["never", stop], max_tokens=20)
    assert sample.token_ids[-1] == engine.tokenizer.convert_tokens_to_ids(stop)
    before = SAID.partition(stop)[0]
    assert sample.token_ids.tolist() == engine.tokenizer(before + stop, add_special_tokens=False).input_ids
    assert sample.finish_reason == "stop"
    assert "<" not in sample.text


def test_special_tokens_stay_in_the_text_where_they_are_named(engine) -> None:
    sample = say(engine, [7], max_tokens=12, keep_special_tokens=["<think>", "</think>"])
    assert sample.text == "\x80<think>ab END</think>8"
    stopped = say(engine, [7], max_tokens=20, keep_special_tokens=["<think>", "</think>"], stop=["END</think>"])
    assert (stopped.text, stopped.finish_reason) == ("\x80<think>ab END</think>", "stop")
    assert say(engine, [7], max_tokens=12).text == "\x80ab END8"


def test_a_stop_that_could_never_be_found_is_refused(engine) -> None:
    for sampling, said in (
        ({"stop": ["8<|im_end|>"]}, r"'<\|im_end\|>' in it is a special token.*Stop at '<\|im_end\|>' alone"),
        ({"keep_special_tokens": ["<thinking>"]}, "'<thinking>', which is no token; did you mean '<think>'"),
    ):
        with pytest.raises(RequestRejected, match=said) as rejected:
            say(engine, [7], **sampling)
        assert rejected.value.reason == "bad_sampling"


@pytest.mark.parametrize(("token_ids", "start"), [([7], 1), ([7, 8, 9], 3)])
def test_scoring_nothing_gives_an_empty_array_and_harms_no_other_request(engine, token_ids, start) -> None:
    beside = engine.submit(SampleRequest(prompt_token_ids=[7], seed=1, sampling=Sampling(max_tokens=4)))
    scores = engine.score(token_ids, start=start).result(60)
    assert (scores.shape, scores.dtype) == ((0,), np.float32)
    assert len(beside.result(60).token_ids) == 4


def test_what_a_text_without_and_with_special_tokens_is() -> None:
    tokenizer = byte_tokenizer()
    ids = tokenizer("<think>a</think>b<|im_end|>", add_special_tokens=False).input_ids
    assert completion_text(tokenizer, ids) == "ab"
    assert completion_text(tokenizer, ids, keep=["</think>"]) == "a</think>b"
    assert completion_text(tokenizer, np.asarray(ids, dtype=np.int32), keep=["<think>"]) == "<think>ab"


def test_a_character_in_two_is_seen_behind_special_tokens_too() -> None:
    tokenizer = byte_tokenizer()
    whole = tokenizer("é", add_special_tokens=False).input_ids
    special = [tokenizer.convert_tokens_to_ids("<think>")] * 20
    assert ends_inside_character(tokenizer, [*whole[:1], *special])
    assert not ends_inside_character(tokenizer, [*whole, *special])
    assert not ends_inside_character(tokenizer, special)


@pytest.mark.parametrize(("least", "expected"), [(0, 2), (1, 2), (2, 5), (3, 5), (4, 5), (5, None)])
def test_the_first_token_at_which_a_string_is_complete(least: int, expected: int | None) -> None:
    tokenizer = byte_tokenizer()
    ids = tokenizer("abcab", add_special_tokens=False).input_ids
    assert tokens_to_stop(tokenizer, ids, ["ab", "zz"], min_tokens=least) == expected
    assert tokens_to_stop(tokenizer, ids, ["zz"], min_tokens=least) is None


def test_a_stop_is_told_by_its_name() -> None:
    tokenizer = byte_tokenizer()
    found = stops(tokenizer, ("END", "<|im_end|>"))
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert found.found([9, end], "x") == "<|im_end|>"
    assert found.found([end, 9], "x END") == "END"
    assert found.found([end, 9], "x") is None
    with pytest.raises(EngineOptionError, match="never be found"):
        stops(tokenizer, ("\n<|im_end|>",))
    assert stops(tokenizer, ("\n<|im_end|>",), ("<|im_end|>",)).strings == ("\n<|im_end|>",)
