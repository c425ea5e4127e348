"""vLLM as a classifier of tokens: the demo's PRM against the same checkpoint in transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.demo_models.prm import prm_input
from benchmarks.demo_models.tokenizer import STEP_TAG
from pipelines.demo.arithmetic import Split, make_prompts
from pipelines.demo.assets import asset_folder
from pipelines.engines import (
    Engine,
    EngineOptionError,
    EngineOptions,
    RequestRejected,
    SampleRequest,
    Sampling,
    acquire,
    start_engine,
)
from pipelines.engines.process_reward import Qwen2ForProcessRewardModel
from pipelines.models.folder import load_tokenizer

PRM = str(asset_folder("prm"))
STEPS = ["a+9=66", "b-8=58", "=58", "A62"]


def pooled(**pooling: object) -> EngineOptions:
    return EngineOptions(dtype="float32", kv_cache_gib=0.25, max_num_seqs=32, pooling=pooling)


@pytest.fixture
def engine() -> Engine:
    tag = load_tokenizer(PRM).convert_tokens_to_ids(STEP_TAG)
    return acquire(PRM, pooled(pooling_type="STEP", step_tag_id=tag))


def ids_of(count: int) -> list[list[int]]:
    tokenizer = load_tokenizer(PRM)
    prompts = make_prompts(count, seed=4, split=Split.HELD_OUT)
    return [tokenizer(prm_input(prompt, STEPS[: 1 + i % 4])).input_ids for i, prompt in enumerate(prompts)]


def test_each_step_tag_has_the_classes_of_a_plain_forward_pass(engine: Engine) -> None:
    tag = engine.tokenizer.convert_tokens_to_ids(STEP_TAG)
    model = Qwen2ForProcessRewardModel.from_pretrained(PRM, dtype=torch.float32).eval()
    rows = ids_of(12)
    for ids, future in zip(rows, [engine.pool(ids) for ids in rows], strict=True):
        with torch.inference_mode():
            expected = model(torch.tensor([ids]))[0].softmax(-1)[torch.tensor(ids) == tag]
        found = future.result(timeout=120)
        assert (found.shape, found.dtype) == ((ids.count(tag), 2), np.float32)
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)


def test_tokens_that_cannot_be_classified_are_rejected_and_their_neighbours_live(engine: Engine) -> None:
    wrong = {"rollout_too_long": [5] * (engine.max_model_len + 1), "empty_prompt": [], "bad_token_ids": [9999]}
    (good,) = ids_of(1)
    futures = {reason: engine.pool(ids) for reason, ids in wrong.items()}
    whole = engine.pool([5] * engine.max_model_len)
    for reason, future in futures.items():
        error = future.exception(timeout=120)
        assert isinstance(error, RequestRejected)
        assert error.reason == reason
    assert whole.result(timeout=120).shape == (0, 2), "no step tag, nothing to classify"
    assert engine.pool(good).result(timeout=120).shape == (1, 2)


def test_an_engine_that_pools_does_not_sample_nor_score(engine: Engine) -> None:
    asked = SampleRequest(prompt_token_ids=[5], seed=0, sampling=Sampling())
    with pytest.raises(EngineOptionError, match=r"runs pooled, so it cannot sample or score.*leave out"):
        engine.submit(asked)
    with pytest.raises(EngineOptionError, match="cannot sample or score"):
        engine.score([5, 6], start=1)


def test_an_engine_that_samples_does_not_pool(tiny_model: str) -> None:
    engine = acquire(tiny_model, EngineOptions(kind="recorded"))
    with pytest.raises(EngineOptionError, match=r"runs to sample, so it cannot classify.*set EngineOptions.pooling"):
        engine.pool([5, 6])


def test_a_pooling_that_vllm_does_not_know_is_refused() -> None:
    with pytest.raises(EngineOptionError, match="step_tag"):
        acquire(PRM, pooled(step_tag=3))
    with pytest.raises(EngineOptionError, match="transformers engine; it has pooling_type"):
        acquire(PRM, EngineOptions(kind="transformers", pooling={"step_tag": 3}))
    with pytest.raises(EngineOptionError, match="pooling has tokens, which kind recorded does not know"):
        EngineOptions(kind="recorded", pooling={"tokens": ["a", "b"]})
    with pytest.raises(EngineOptionError, match="which does not classify tokens"):
        acquire(str(asset_folder("policy")), EngineOptions(kind="transformers", pooling={}))


def test_transformers_pools_as_vllm_does(engine: Engine) -> None:
    rows = ids_of(40)  # more than one batch
    expected = [future.result(timeout=120) for future in [engine.pool(ids) for ids in rows]]
    tag = engine.tokenizer.convert_tokens_to_ids(STEP_TAG)
    options = EngineOptions(kind="transformers", pooling={"pooling_type": "STEP", "step_tag_id": tag})
    plain = start_engine(PRM, options)
    try:
        for ids, wanted in zip(rows, expected, strict=True):
            np.testing.assert_allclose(plain.pool(ids).result(timeout=120), wanted, atol=1e-4)
    finally:
        plain.close()
