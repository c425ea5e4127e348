"""The plain engine against a forward pass, and its sampling against the distribution it is to draw from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

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
from pipelines.engines.transformers import processed_logits

PROMPTS = ("1+2=?", "a", "what is the sum of 12 and 30?")


@pytest.fixture(scope="module")
def engine(tiny_model: str) -> Iterator[Engine]:
    engine = start_engine(tiny_model, EngineOptions(kind="transformers", extra={"batch_size": 100}))
    yield engine
    engine.close()


def sample_all(engine: Engine, prompts: tuple[str, ...] = PROMPTS, seeds: int = 6, **sampling: Any) -> list[Sample]:
    sampling = {"max_tokens": 30, **sampling}
    futures = [
        engine.submit(
            SampleRequest(prompt_token_ids=engine.tokenizer.encode(text), seed=seed, sampling=Sampling(**sampling))
        )
        for text in prompts
        for seed in range(seeds)
    ]
    return [future.result(timeout=120) for future in futures]


def prompts_of(engine: Engine, seeds: int = 6) -> list[list[int]]:
    return [engine.tokenizer.encode(text) for text in PROMPTS for _ in range(seeds)]


def test_stored_logprobs_are_those_of_the_forward_pass(engine: Engine, oracle: Callable[..., torch.Tensor]) -> None:
    for prompt, sample in zip(prompts_of(engine), sample_all(engine), strict=True):
        ids = prompt + sample.token_ids.tolist()
        logprobs = oracle(ids, start=len(prompt)).log_softmax(-1)
        expected = logprobs[torch.arange(len(sample.token_ids)), torch.tensor(ids[len(prompt) :])]
        np.testing.assert_allclose(sample.logprobs, expected.numpy(), atol=1e-4)
        scored = engine.score(ids, start=len(prompt)).result(timeout=120)
        np.testing.assert_allclose(scored, expected.numpy(), atol=1e-4)


def test_processed_logprobs_are_at_the_temperature(tiny_model: str, oracle: Callable[..., torch.Tensor]) -> None:
    engine = start_engine(tiny_model, EngineOptions(kind="transformers", logprobs_mode="processed_logprobs"))
    try:
        for prompt, sample in zip(prompts_of(engine), sample_all(engine, temperature=0.7), strict=True):
            ids = prompt + sample.token_ids.tolist()
            logprobs = (oracle(ids, start=len(prompt)) / 0.7).log_softmax(-1)
            expected = logprobs[torch.arange(len(sample.token_ids)), torch.tensor(ids[len(prompt) :])]
            np.testing.assert_allclose(sample.logprobs, expected.numpy(), atol=1e-4)
    finally:
        engine.close()


def test_a_rollout_is_the_same_alone_and_in_a_batch(engine: Engine) -> None:
    together = sample_all(engine)
    alone = sample_all(engine, prompts=PROMPTS[2:], seeds=1)[0]
    assert alone.token_ids.tolist() == together[12].token_ids.tolist()


def test_first_tokens_follow_the_models_distribution(engine: Engine, oracle: Callable[..., torch.Tensor]) -> None:
    draws = 800
    samples = sample_all(engine, prompts=("1+2=?",), seeds=draws, max_tokens=1)
    counts = Counter(int(sample.token_ids[0]) for sample in samples)
    prompt = engine.tokenizer.encode("1+2=?")
    probabilities = oracle([*prompt, 0], start=len(prompt)).softmax(-1)[0].numpy()
    observed = np.array([counts[token] for token in range(len(probabilities))])
    spread = np.sqrt(draws * probabilities * (1 - probabilities)) + 1
    assert (np.abs(observed - draws * probabilities) / spread).max() < 5


def test_stop_strings_limits_and_end_tokens(engine: Engine) -> None:
    (free,) = sample_all(engine, prompts=("a",), seeds=1, max_tokens=60, ignore_eos=True)
    assert (len(free.token_ids), free.finish_reason) == (60, "length")
    stop = free.text[10:12]
    (stopped,) = sample_all(engine, prompts=("a",), seeds=1, max_tokens=60, ignore_eos=True, stop=(stop,))
    assert (stopped.finish_reason, stopped.text) == ("stop", free.text[: free.text.index(stop) + 2])
    ended = [s for s in sample_all(engine, seeds=20, max_tokens=60) if s.finish_reason == "stop"]
    assert ended
    for sample in ended:
        assert sample.token_ids[-1] == engine.tokenizer.eos_token_id
        assert engine.tokenizer.eos_token_id not in sample.token_ids[:-1]
        assert "<eos>" not in sample.text
    prompt = [5] * (engine.max_model_len - 3)
    asked = SampleRequest(prompt_token_ids=prompt, seed=0, sampling=Sampling(max_tokens=9, ignore_eos=True))
    assert len(engine.submit(asked).result(timeout=120).token_ids) == 3


def test_processed_logits_by_hand() -> None:
    logits = torch.log(torch.tensor([0.1, 0.4, 0.2, 0.3]))
    cases = {
        (1, 3, 2): Sampling(top_k=3),
        (1, 3): Sampling(top_p=0.65),
        (1,): Sampling(top_p=0.35),
        (1, 3, 2, 0): Sampling(top_p=1.0, top_k=0),
        (1, 2, 3): Sampling(min_p=0.45),
        (3, 1): Sampling(top_k=3, top_p=0.75),  # of the three left 4/9, 3/9, 2/9: two reach 0.75
    }
    for left, sampling in cases.items():
        kept = processed_logits(logits, sampling).isfinite().nonzero().flatten().tolist()
        assert kept == sorted(left), sampling
    halved = processed_logits(logits, Sampling(temperature=0.5)).softmax(-1)
    assert halved.tolist() == pytest.approx([0.01 / 0.3, 0.16 / 0.3, 0.04 / 0.3, 0.09 / 0.3])
    assert processed_logits(logits, Sampling(temperature=0.0)).softmax(-1).tolist() == [0, 1, 0, 0]


def test_nan_logits_reject_the_request_and_the_engine_lives(tiny_model: str) -> None:
    from pipelines.engines.transformers import TransformersBackend

    backend = TransformersBackend(tiny_model, EngineOptions(kind="transformers"))
    good = backend._model.lm_head.weight.detach().clone()
    backend._model.lm_head.weight.data[:] = float("nan")
    asked = SampleRequest(prompt_token_ids=[3, 4], seed=0, sampling=Sampling())
    backend.add(1, asked)
    ((_, answer),) = backend.step()
    assert isinstance(answer, RequestRejected)
    assert answer.reason == "non_finite_logprob"
    backend._model.lm_head.weight.data[:] = good
    backend.add(2, asked)
    ((_, answer),) = backend.step()
    assert isinstance(answer, Sample)


def test_an_unknown_extra_option_is_refused(tiny_model: str) -> None:
    with pytest.raises(EngineOptionError, match="batch_sise"):
        start_engine(tiny_model, EngineOptions(kind="transformers", extra={"batch_sise": 4}))
