"""One engine for every temperature: processed logprobs are the raw ones where nothing is tempered or cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from pipelines.engines import Engine, EngineOptions, Sampling, acquire, release
from tests.pipelines.engines.asking import RAW, grid, sample_all

KINDS = {"vllm": RAW, "transformers": EngineOptions(kind="transformers", max_num_seqs=8)}
SAME = ({"temperature": 1.0}, {"temperature": 0.0}, {"temperature": 0.0, "top_p": 0.9})
OTHER = ({"temperature": 0.6}, {"temperature": 0.6, "top_p": 0.95})
RAW_ONLY = (
    {"temperature": 1.0, "top_p": 0.9},
    {"temperature": 1.0, "extra": {"repetition_penalty": 1.1}},
    {"temperature": 0.0, "extra": {"repetition_penalty": 1.1}},
)


@pytest.fixture(autouse=True)
def _end_without_an_engine() -> Iterator[None]:
    yield
    release()


def needed(kind: str, sampling: dict[str, Any]) -> EngineOptions:
    return replace(KINDS[kind], logprobs_mode=Sampling(**sampling).needed_mode)


@pytest.mark.parametrize("kind", KINDS)
def test_at_temperature_1_and_greedily_the_bytes_are_those_of_the_raw_mode(kind: str, tiny_model: str) -> None:
    raw = [answers(acquire(tiny_model, KINDS[kind]), sampling) for sampling in SAME]
    engine = acquire(tiny_model, needed(kind, SAME[0]))
    shared = [answers(engine, sampling) for sampling in SAME]
    scored = engine.score([1, 2, 3, 4, 5], start=1).result(timeout=120)
    assert shared == raw
    assert scored.tobytes() == acquire(tiny_model, KINDS[kind]).score([1, 2, 3, 4, 5], start=1).result(60).tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_another_temperature_restarts_nothing_and_has_its_own_logprobs(kind: str, tiny_model: str) -> None:
    engine = acquire(tiny_model, needed(kind, {"temperature": 1.0}))
    tempered = answers(engine, OTHER[0])
    for sampling in (*OTHER, *SAME):
        assert acquire(tiny_model, needed(kind, sampling)) is engine
    release()
    asked = replace(KINDS[kind], logprobs_mode="processed_logprobs")
    assert tempered == answers(acquire(tiny_model, asked), OTHER[0])


@pytest.mark.parametrize("sampling", RAW_ONLY, ids=str)
def test_where_the_modes_differ_the_raw_one_is_asked_for(sampling: dict[str, Any]) -> None:
    assert Sampling(**sampling).needed_mode == "raw_logprobs"
    assert Sampling(**sampling | {"temperature": 0.6}).needed_mode == "processed_logprobs"


def answers(engine: Engine, sampling: dict[str, Any]) -> list[tuple[bytes, bytes]]:
    """One request after another: the last bits depend on what is in a batch, and that on when requests arrive."""
    asked = grid(engine, **sampling, max_tokens=12)[::6]
    found = [sample for request in asked for sample in sample_all(engine, [request])]
    return [(sample.token_ids.tobytes(), sample.logprobs.tobytes()) for sample in found]
