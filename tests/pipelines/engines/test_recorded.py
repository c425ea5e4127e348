"""The engine without a model: deterministic, and true to its recording."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.engines import (
    Engine,
    EngineOptionError,
    EngineOptions,
    RequestRejected,
    Sample,
    SampleRequest,
    Sampling,
    start_engine,
)
from pipelines.engines.recorded import RecordingError

ROWS = [
    {
        "prompt_token_ids": [5, 6],
        "seed": 7,
        "token_ids": [8, 9, 1],
        "behavior_logprobs": [-0.5, -1.5, -0.25],
        "finish_reason": "stop",
    },
    {
        "prompt_token_ids": [5, 6],
        "seed": 8,
        "token_ids": [2],
        "behavior_logprobs": [-2.0],
        "finish_reason": "length",
    },
]


@pytest.fixture
def synthetic(tiny_model: str) -> Iterator[Engine]:
    engine = start_engine(tiny_model, EngineOptions(kind="recorded", recording="synthetic:3"))
    yield engine
    engine.close()


def ask(prompt: list[int], seed: int, **sampling: int) -> SampleRequest:
    return SampleRequest(prompt_token_ids=prompt, seed=seed, sampling=Sampling(**sampling))


def content(sample: Sample) -> tuple[list[int], list[float], str, str]:
    return sample.token_ids.tolist(), sample.logprobs.tolist(), sample.finish_reason, sample.text


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_a_recording_answers_by_prompt_and_seed(tiny_model: str, tmp_path: Path, form: str) -> None:
    path = tmp_path / f"recording.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist([{**row, "text": "not read"} for row in ROWS]), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    engine = start_engine(tiny_model, EngineOptions(kind="recorded", recording=str(path)))
    try:
        sample = engine.submit(ask([5, 6], 7)).result(timeout=120)
        assert content(sample) == ([8, 9, 1], [-0.5, -1.5, -0.25], "stop", engine.tokenizer.decode([8, 9]))
        assert engine.submit(ask([5, 6], 8)).result(timeout=120).finish_reason == "length"
        assert engine.score([5, 6, 8, 9, 1], start=2).result(timeout=120).tolist() == [-0.5, -1.5, -0.25]
        for missing in (engine.submit(ask([5, 6], 9)), engine.submit(ask([5], 7)), engine.score([5, 6, 8], start=2)):
            error = missing.exception(timeout=120)
            assert isinstance(error, RequestRejected)
            assert error.reason == "not_recorded"
    finally:
        engine.close()


def test_synthetic_answers_depend_on_prompt_and_seed_alone(synthetic: Engine, tiny_model: str) -> None:
    first = content(synthetic.submit(ask([5, 6], 1)).result(timeout=120))
    others = [ask([5, 6], 2), ask([6, 5], 1), ask([5], 1)]
    assert first not in [content(synthetic.submit(other).result(timeout=120)) for other in others]
    assert content(synthetic.submit(ask([5, 6], 1)).result(timeout=120)) == first
    again = start_engine(tiny_model, EngineOptions(kind="recorded", recording="synthetic:3"))
    other = start_engine(tiny_model, EngineOptions(kind="recorded", recording="synthetic:4"))
    try:
        assert content(again.submit(ask([5, 6], 1)).result(timeout=120)) == first
        assert content(other.submit(ask([5, 6], 1)).result(timeout=120)) != first
    finally:
        again.close()
        other.close()


def test_synthetic_completions_look_like_completions(synthetic: Engine) -> None:
    end = synthetic.tokenizer.eos_token_id
    samples = [synthetic.submit(ask([5, 6], seed, max_tokens=40)).result(timeout=120) for seed in range(200)]
    reasons = {sample.finish_reason for sample in samples}
    assert reasons == {"stop", "length"}
    for sample in samples:
        assert 1 <= len(sample.token_ids) == len(sample.logprobs) <= 40
        assert (sample.logprobs <= 0).all()
        assert np.isfinite(sample.logprobs).all()
        assert (end in sample.token_ids) == (sample.finish_reason == "stop")
        assert sample.text == synthetic.tokenizer.decode(sample.token_ids, skip_special_tokens=True)


def test_synthetic_scores_of_a_prefix_agree(synthetic: Engine) -> None:
    whole = synthetic.score([5, 6, 7, 8], start=1).result(timeout=120)
    part = synthetic.score([5, 6, 7], start=1).result(timeout=120)
    assert whole[:2].tolist() == part.tolist()
    assert (whole <= 0).all()


def test_a_bad_recording_is_named(tiny_model: str, tmp_path: Path) -> None:
    lacking = tmp_path / "lacking.jsonl"
    lacking.write_text('{"prompt_token_ids": [1], "seed": 1}\n')
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"not parquet")
    for path, fact in ((lacking, "token_ids"), (broken, "cannot be read"), (tmp_path / "no.jsonl", "cannot be read")):
        with pytest.raises(RecordingError, match=fact) as error:
            start_engine(tiny_model, EngineOptions(kind="recorded", recording=str(path)))
        assert str(path) in str(error.value)
    with pytest.raises(EngineOptionError, match="synthetic:x"):
        start_engine(tiny_model, EngineOptions(kind="recorded", recording="synthetic:x"))


def test_scores_at_another_temperature_are_refused_by_name(synthetic: Engine) -> None:
    with pytest.raises(RequestRejected, match=r"only kind transformers scores at temperature 0\.7"):
        synthetic.score([5, 6, 7], start=1, temperature=0.7).result()
