"""RunInference with this project's engine: a seed and sampling for each element, ids and log-probs out."""

from __future__ import annotations

import pickle
import threading
from dataclasses import replace

import numpy as np
import pytest

from pipelines.beam import Completion, EngineHandler, Refused
from pipelines.engines import (
    EngineDead,
    EngineOptionError,
    EngineOptions,
    SampleRequest,
    Sampling,
    acquire,
    release,
)
from pipelines.runners.quiet import beam
from tests.pipelines.beam.running import ran
from tests.processes import wait_until

RECORDED = EngineOptions(kind="recorded", recording="synthetic:3")
SAMPLING = Sampling(max_tokens=12)


@pytest.fixture(autouse=True, scope="module")
def _no_engine_is_left():
    yield
    release()


def infer(requests: list, handler: EngineHandler, tmp_path, **arguments) -> list:
    from apache_beam.ml.inference.base import RunInference

    def construct(pipeline):
        return {"results": pipeline | beam.Create(requests) | RunInference(handler, **arguments)}

    return ran(construct, tmp_path)["results"]


def requests_for(engine, texts: list[str]) -> list[SampleRequest]:
    return [SampleRequest(prompt_token_ids=engine.tokenizer(text).input_ids, seed=seed, sampling=SAMPLING)
            for seed, text in enumerate(texts)]  # fmt: skip


def held_against_the_engine(results: list, engine) -> None:
    """Each answer is what the engine gives to its request alone."""
    for result in results:
        sample = engine.submit(result.example).result()
        found = result.inference
        assert isinstance(found, Completion)
        assert found.token_ids == sample.token_ids.tolist()
        np.testing.assert_allclose(found.behavior_logprobs, sample.logprobs, atol=1e-5)
        assert (found.text, found.finish_reason, found.seed) == (sample.text, sample.finish_reason, result.example.seed)
        assert found.prompt_token_ids == list(result.example.prompt_token_ids)


def test_recorded_answers_come_back_with_their_requests(tiny_model, tmp_path):
    engine = acquire(tiny_model, replace(RECORDED, logprobs_mode="either"))
    asked = requests_for(engine, [f"{n}+1=" for n in range(30)])
    results = infer(asked, EngineHandler(tiny_model, RECORDED, max_batch_size=8), tmp_path)
    assert len(results) == 30
    assert {result.model_id for result in results} == {tiny_model}
    held_against_the_engine(results, engine)
    again = infer(asked[::-1], EngineHandler(tiny_model, RECORDED, max_batch_size=3), tmp_path)
    assert {r.example.seed: r.inference for r in again} == {r.example.seed: r.inference for r in results}


def test_a_request_may_be_plain_data(tiny_model, tmp_path):
    engine = acquire(tiny_model, replace(RECORDED, logprobs_mode="either"))
    ids = engine.tokenizer("1+1=").input_ids
    asked = [
        {"prompt": "1+1=", "seed": 5},
        beam.Row(prompt_token_ids=ids, seed=5),
        {"prompt": "1+1=", "seed": 5, "sampling": {"max_tokens": 2, "temperature": 0.7}},
        {"messages": [{"role": "user", "content": "1+1="}], "seed": 5, "sampling": SAMPLING},
    ]
    handler = EngineHandler(tiny_model, RECORDED, sampling=SAMPLING)
    text, row, short, chat = (infer([one], handler, tmp_path)[0].inference for one in asked)
    assert text == row
    assert text.prompt_token_ids == ids
    assert len(short.token_ids) <= 2 < len(text.token_ids)
    assert engine.tokenizer.decode(chat.prompt_token_ids) == "u: 1+1=\na: "


BAD = {
    "no seed": ({"prompt": "1"}, "bad_request", "needs seed"),
    "two prompts": ({"prompt": "1", "prompt_token_ids": [3], "seed": 1}, "bad_request", "needs seed and one of"),
    "a typo": ({"prompt": "1", "seed": 1, "temprature": 1}, "bad_request", "temprature is none of"),
    "a strange option": ({"prompt": "1", "seed": 1, "sampling": {"temprature": 1}}, "bad_request", "temprature"),
    "a seed too large": ({"prompt": "1", "seed": 2**63}, "bad_request", "seed is"),
    "no prompt": ({"prompt": "", "seed": 1}, "empty_prompt", "no token"),
    "unknown ids": ({"prompt_token_ids": [10**6], "seed": 1}, "bad_token_ids", "1000000"),
    "words for ids": ({"prompt_token_ids": ["x"], "seed": 1}, "bad_request", "ValueError"),
    "too long": ({"prompt": "1" * 600, "seed": 1}, "prompt_too_long", "600 tokens"),
    "no dict": (7, "bad_request", "expected a SampleRequest or a dict, got int"),
}


def test_what_is_wrong_with_one_element_costs_that_element_only(tiny_model, tmp_path):
    good = [{"prompt": f"{n}+1=", "seed": n} for n in range(4)]
    handler = EngineHandler(tiny_model, RECORDED, sampling=SAMPLING, min_batch_size=8, max_batch_size=64)
    results = infer([*good[:2], *(element for element, _, _ in BAD.values()), *good[2:]], handler, tmp_path)
    assert len(results) == len(good) + len(BAD)
    for element, reason, words in BAD.values():
        (found,) = [result.inference for result in results if result.example == element]
        assert isinstance(found, Refused)
        assert found.reason == reason
        assert words in found.detail
    answered = [result.inference for result in results if result.example in good]
    assert len(answered) == 4
    assert all(isinstance(one, Completion) for one in answered)


def test_log_probabilities_of_another_mode_are_refused(tiny_model, tmp_path):
    """One engine gives either those of the raw logits or those after temperature and cuts."""
    cut = {"prompt": "1", "seed": 1, "sampling": {"top_k": 3}}
    (result,) = infer([cut], EngineHandler(tiny_model, RECORDED, sampling=Sampling(temperature=0.7)), tmp_path)
    assert result.inference.token_ids  # at 0.7 processed ones are wanted anyway
    (result,) = infer([{**cut, "sampling": {"top_k": 3, "temperature": 1.0}}],
                      EngineHandler(tiny_model, RECORDED, sampling=Sampling(temperature=0.7)), tmp_path)  # fmt: skip
    assert result.inference.reason == "bad_sampling"
    assert "raw_logprobs" in result.inference.detail


def test_a_completion_is_a_row_of_the_contract():
    import pyarrow as pa

    from pass_ops.shards.schemas import ROLLOUTS, conform

    made = Completion(
        prompt_token_ids=[1], token_ids=[2, 3], behavior_logprobs=[-1.0, -2.0], finish_reason="stop", text="x", seed=9
    )
    row = made.as_rollout(group_id="q", sample_index=3, answer="4")
    table = conform(pa.Table.from_pylist([row], schema=ROLLOUTS), "generate")
    assert table.to_pylist() == [row]
    assert row["rollout_id"] == "q/3"
    more = replace(made, entropy=[0.5, 0.5], sum_pi_squared=[0.2, 0.2]).as_rollout(group_id="q", sample_index=0)
    assert more["entropy"] == [0.5, 0.5]


def test_the_handler_travels_without_the_engine_and_finds_the_process_one(tiny_model):
    handler = pickle.loads(pickle.dumps(EngineHandler(tiny_model, RECORDED)))
    engine = handler.load_model()
    assert pickle.loads(pickle.dumps(handler)).load_model() is engine
    engine.close()
    request = SampleRequest(prompt_token_ids=[5], seed=1, sampling=SAMPLING)
    (result,) = handler.run_inference([request], engine)  # RunInference still holds the dead one
    assert isinstance(result.inference, Completion)


def test_an_engine_that_dies_meanwhile_fails_the_bundle(tiny_model):
    """No element is to blame, and the runner tries the bundle again."""
    handler = EngineHandler(tiny_model, replace(RECORDED, extra={"latency": 30.0}))
    engine = handler.load_model()
    request = SampleRequest(prompt_token_ids=[5], seed=1, sampling=SAMPLING)
    answers = handler.run_inference([request, request], engine)

    def close_once_asked() -> None:
        wait_until(lambda: engine.in_flight == 2)
        engine.close()

    threading.Thread(target=close_once_asked).start()
    with pytest.raises(EngineDead):
        list(answers)


def test_other_weights_are_loaded_on_a_model_update(tiny_model, tiny_model_updated):
    handler = EngineHandler(tiny_model, RECORDED)
    engine = handler.load_model()
    handler.update_model_path(tiny_model_updated)
    assert handler.load_model() is engine
    (result,) = handler.run_inference([{"prompt": "1", "seed": 1}], engine)
    assert result.model_id == tiny_model_updated


def test_arguments_for_all_elements_alike_are_refused(tiny_model):
    from apache_beam.ml.inference.base import RunInference

    with pytest.raises(EngineOptionError, match="would hold for all elements"), beam.Pipeline("FnApiRunner") as p:
        _ = p | beam.Create([1]) | RunInference(EngineHandler(tiny_model, RECORDED), inference_args={"temperature": 1})
    with pytest.raises(EngineOptionError, match="pooling"):
        EngineHandler(tiny_model, replace(RECORDED, pooling={}))


def test_vllm_answers_each_element_by_its_own_seed(tiny_model, tmp_path):
    options = EngineOptions(kind="vllm", dtype="float32", max_num_seqs=8, kv_cache_gib=0.1)
    sampled = Sampling(max_tokens=8, temperature=0.8)
    asked = [{"prompt": f"{n}+1=", "seed": n, "sampling": sampled} for n in range(6)]
    asked.append({"prompt": "0+1=", "seed": 99, "sampling": sampled})
    wrong = {"prompt": "1" * 600, "seed": 1}
    handler = EngineHandler(tiny_model, options, sampling=sampled)
    results = infer([*asked, wrong], handler, tmp_path)
    by_seed = {result.example["seed"]: result.inference for result in results if result.example != wrong}
    (refused,) = [result.inference for result in results if result.example == wrong]
    assert refused.reason == "prompt_too_long"
    engine = acquire(tiny_model, replace(options, logprobs_mode="processed_logprobs"))
    for one in asked:
        request = SampleRequest(
            prompt_token_ids=engine.tokenizer(one["prompt"]).input_ids, seed=one["seed"], sampling=sampled
        )
        sample = engine.submit(request).result()
        assert by_seed[one["seed"]].token_ids == sample.token_ids.tolist()
        np.testing.assert_allclose(by_seed[one["seed"]].behavior_logprobs, sample.logprobs, atol=1e-4)
    assert by_seed[99].token_ids != by_seed[0].token_ids
