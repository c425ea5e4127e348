"""Requests to an engine of the tiny model, and their answers."""

from __future__ import annotations

from typing import Any

from pipelines.engines import Engine, EngineOptions, Sample, SampleRequest, Sampling

RAW = EngineOptions(dtype="float32", kv_cache_gib=0.25, max_num_seqs=32)
PROMPTS = ("1+2=?", "a", "7+7+7=?\n", "what is the sum of 12 and 30?", "z.z.z")


def request(engine: Engine, text: str, seed: int, **sampling: Any) -> SampleRequest:
    sampling = {"max_tokens": 40, **sampling}
    return SampleRequest(prompt_token_ids=engine.tokenizer.encode(text), seed=seed, sampling=Sampling(**sampling))


def sample_all(engine: Engine, requests: list[SampleRequest]) -> list[Sample]:
    return [future.result(timeout=120) for future in [engine.submit(r) for r in requests]]


def grid(engine: Engine, **sampling: Any) -> list[SampleRequest]:
    return [request(engine, text, seed, **sampling) for text in PROMPTS for seed in range(8)]
