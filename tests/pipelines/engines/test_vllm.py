"""The vLLM engine, on a tiny random model and the CPU, against a plain forward pass of transformers in float32."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
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
    acquire,
    release,
    start_engine,
)
from pipelines.engines.vllm import VllmBackend, sampled_logprobs
from pipelines.engines.vllm_arguments import check_architecture, engine_arguments, token_bytes
from tests.pipelines.engines.asking import grid, request, sample_all

PROCESSED = EngineOptions(dtype="float32", kv_cache_gib=0.25, max_num_seqs=32, logprobs_mode="processed_logprobs")


def oracle_logits(oracle: Any, asked: SampleRequest, sample: Sample) -> torch.Tensor:
    prompt = list(asked.prompt_token_ids)
    return oracle(prompt + sample.token_ids.tolist(), start=len(prompt))


def pick(logprobs: torch.Tensor, sample: Sample) -> np.ndarray:
    return logprobs[torch.arange(len(sample.token_ids)), torch.tensor(sample.token_ids).long()].numpy()


def test_stored_logprobs_are_those_of_the_forward_pass(engine: Engine, oracle: Any, capsys: Any) -> None:
    requests = grid(engine)
    samples = sample_all(engine, requests)
    difference = max(
        float(np.abs(pick(oracle_logits(oracle, r, s).log_softmax(-1), s) - s.logprobs).max())
        for r, s in zip(requests, samples, strict=True)
    )
    tokens = sum(len(s.token_ids) for s in samples)
    with capsys.disabled():
        print(
            f"\nvLLM's logprobs against transformers in float32: largest difference {difference:.2e} ({tokens} tokens)"
        )
    assert difference < 1e-4


def test_the_logprob_is_the_sampled_tokens_and_not_the_likeliests(engine: Engine, oracle: Any) -> None:
    requests = grid(engine)
    unlikely = 0
    for asked, sample in zip(requests, sample_all(engine, requests), strict=True):
        best = oracle_logits(oracle, asked, sample).log_softmax(-1).max(-1)
        elsewhere = best.indices.numpy() != sample.token_ids
        unlikely += int(elsewhere.sum())
        assert (sample.logprobs[elsewhere] < best.values.numpy()[elsewhere]).all()
    assert unlikely > 100


def test_a_seed_gives_the_same_rollout_alone_and_in_a_batch(engine: Engine) -> None:
    requests = grid(engine)
    together = sample_all(engine, requests)
    for i in (0, 7, 19, 33):
        (alone,) = sample_all(engine, [requests[i]])
        assert alone.token_ids.tolist() == together[i].token_ids.tolist()
        np.testing.assert_allclose(alone.logprobs, together[i].logprobs, atol=1e-5)
    assert len({tuple(s.token_ids.tolist()) for s in together[:8]}) == 8, "other seeds give other rollouts"


def test_threads_share_the_engine(engine: Engine) -> None:
    requests = grid(engine)
    expected = sample_all(engine, requests)
    with ThreadPoolExecutor(4) as pool:
        quarters = list(pool.map(lambda i: sample_all(engine, requests[i::4]), range(4)))
    for i, quarter in enumerate(quarters):
        assert [s.token_ids.tolist() for s in quarter] == [s.token_ids.tolist() for s in expected[i::4]]


def test_text_is_the_decoded_tokens_without_special_ones(engine: Engine) -> None:
    samples = sample_all(engine, grid(engine))
    stopped = [s for s in samples if s.finish_reason == "stop"]
    assert stopped, "the grid has completions that end"
    for sample in stopped:
        assert sample.token_ids[-1] == engine.tokenizer.eos_token_id
        assert "<eos>" not in sample.text
    for sample in samples:
        assert sample.text == engine.tokenizer.decode(sample.token_ids, skip_special_tokens=True)


def test_greedy_takes_the_likeliest_token(engine: Engine, oracle: Any) -> None:
    asked = request(engine, "1+2=?", 5, temperature=0.0)
    (sample,) = sample_all(engine, [asked])
    logits = oracle_logits(oracle, asked, sample)
    assert sample.token_ids.tolist() == logits.argmax(-1).tolist()
    np.testing.assert_allclose(sample.logprobs, pick(logits.log_softmax(-1), sample), atol=1e-5)


def test_any_sampling_parameter_of_vllm_can_be_set(engine: Engine) -> None:
    allowed = engine.tokenizer.encode("abc")
    (only,) = sample_all(engine, [request(engine, "1+2=?", 0, extra={"allowed_token_ids": allowed})])
    assert set(only.text) == set("abc")
    (chosen,) = sample_all(engine, [request(engine, "1+2=?", 0, extra={"structured_outputs": {"choice": ["a.b"]}})])
    assert chosen.text == "a.b"
    (free,) = sample_all(engine, [request(engine, "1+2=?", 0, ignore_eos=True)])
    ends = {"stop_token_ids": [int(free.token_ids[5])]}
    (ended,) = sample_all(engine, [request(engine, "1+2=?", 0, ignore_eos=True, extra=ends)])
    assert (
        ended.token_ids.tolist()
        == free.token_ids[: free.token_ids.tolist().index(ends["stop_token_ids"][0]) + 1].tolist()
    )


def test_a_value_that_vllm_refuses_rejects_the_request(engine: Engine) -> None:
    wrong = engine.submit(request(engine, "a", 1, extra={"repetition_penalty": -3.0})).exception(timeout=120)
    assert isinstance(wrong, RequestRejected)
    assert "repetition_penalty" in wrong.detail


def test_a_stop_string_ends_the_completion_and_its_tokens_stay(engine: Engine) -> None:
    asked = request(engine, "1+2=?", 0, max_tokens=60, ignore_eos=True)
    (free,) = sample_all(engine, [asked])
    stop = free.text[20:22]
    (stopped,) = sample_all(engine, [request(engine, "1+2=?", 0, max_tokens=60, ignore_eos=True, stop=[stop])])
    length = free.text.index(stop) + 2  # a token is a character, or special and no text
    assert stopped.finish_reason == "stop"
    assert stopped.text == free.text[:length]
    assert stopped.token_ids.tolist() == free.token_ids[: len(stopped.token_ids)].tolist()
    assert len(stopped.logprobs) == len(stopped.token_ids)


def test_a_completion_ends_where_the_context_does(engine: Engine) -> None:
    prompt = [5] * (engine.max_model_len - 7)
    asked = SampleRequest(prompt_token_ids=prompt, seed=1, sampling=Sampling(max_tokens=50, ignore_eos=True))
    (sample,) = sample_all(engine, [asked])
    assert (len(sample.token_ids), sample.finish_reason) == (7, "length")
    scored = engine.score(prompt + sample.token_ids.tolist(), start=len(prompt)).result(timeout=120)
    np.testing.assert_allclose(scored, sample.logprobs, atol=1e-5)


def test_a_request_that_cannot_be_used_is_rejected_and_its_neighbours_live(engine: Engine) -> None:
    good = engine.submit(request(engine, "1+2=?", 0))
    sampling = Sampling(max_tokens=4)
    wrong = {
        "prompt_too_long": [5] * engine.max_model_len,
        "empty_prompt": [],
        "bad_token_ids": [5, 9999],
    }
    futures = {
        reason: engine.submit(SampleRequest(prompt_token_ids=ids, seed=1, sampling=sampling))
        for reason, ids in wrong.items()
    }
    last = engine.submit(request(engine, "1+2=?", 0))
    for reason, future in futures.items():
        error = future.exception(timeout=120)
        assert isinstance(error, RequestRejected)
        assert (error.reason, error.transient) == (reason, False)
    assert good.result(timeout=120).token_ids.tolist() == last.result(timeout=120).token_ids.tolist()


def test_weights_that_give_nan_reject_every_request_and_the_engine_lives(
    engine: Engine, tiny_model: str, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    (before,) = sample_all(engine, [request(engine, "a", 3)])
    broken = shutil.copytree(tiny_model, tmp_path / "nan")
    weights = load_file(broken / "model.safetensors")
    weights["lm_head.weight"][:] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    engine.load_weights(str(broken))
    try:
        error = engine.submit(request(engine, "a", 3)).exception(timeout=120)
        assert isinstance(error, RequestRejected)
        assert error.reason == "non_finite_logprob"
        error = engine.score([4, 5, 6], start=1).exception(timeout=120)
        assert isinstance(error, RequestRejected)
        assert error.reason == "non_finite_logprob"
    finally:
        engine.load_weights(tiny_model)
    (after,) = sample_all(engine, [request(engine, "a", 3)])
    assert after.logprobs.tolist() == before.logprobs.tolist()


def test_score_is_the_forward_pass_for_every_length(engine: Engine, oracle: Any) -> None:
    rng = np.random.default_rng(0)
    rollouts = [rng.integers(2, 40, size=n).tolist() for n in (2, 3, 17, 300, engine.max_model_len)]
    starts = [1, 2, 5, 299, 1]
    futures = [engine.score(ids, start=start) for ids, start in zip(rollouts, starts, strict=True)]
    for ids, start, future in zip(rollouts, starts, futures, strict=True):
        logprobs = oracle(ids, start=start).log_softmax(-1)
        expected = logprobs[torch.arange(len(ids) - start), torch.tensor(ids[start:])]
        scored = future.result(timeout=120)
        assert scored.dtype == np.float32
        np.testing.assert_allclose(scored, expected.numpy(), atol=1e-4)


def test_vllm_and_the_transformers_engine_score_alike(engine: Engine, tiny_model: str) -> None:
    samples = list(zip(grid(engine), sample_all(engine, grid(engine)), strict=True))
    plain = start_engine(tiny_model, EngineOptions(kind="transformers"))
    try:
        for asked, sample in samples:
            ids = [*asked.prompt_token_ids, *sample.token_ids.tolist()]
            start = len(asked.prompt_token_ids)
            ours, theirs = engine.score(ids, start=start), plain.score(ids, start=start)
            np.testing.assert_allclose(ours.result(timeout=120), theirs.result(timeout=120), atol=1e-4)
    finally:
        plain.close()


@pytest.mark.parametrize(
    "cut",
    [{}, {"temperature": 1.5}, {"top_k": 3}, {"top_p": 0.6}, {"min_p": 0.3}, {"top_k": 8, "top_p": 0.8, "min_p": 0.02}],
)
class TestProcessedLogprobs:
    """A class of its own, so that random order keeps these together: they need an engine of other options."""

    def test_they_are_of_the_distribution_that_was_drawn_from(
        self, tiny_model: str, oracle: Any, cut: dict[str, Any]
    ) -> None:
        engine = acquire(tiny_model, PROCESSED)
        requests = grid(engine, **({"temperature": 0.7} | cut))
        for asked, sample in zip(requests, sample_all(engine, requests), strict=True):
            logits = oracle_logits(oracle, asked, sample)
            left = torch.stack([left_by(asked.sampling, row) for row in logits])
            np.testing.assert_allclose(sample.logprobs, pick(left.log_softmax(-1), sample), atol=1e-4)

    def test_scores_are_at_temperature_one_all_the_same(
        self, tiny_model: str, oracle: Any, cut: dict[str, Any]
    ) -> None:
        engine = acquire(tiny_model, PROCESSED)
        sampled = [engine.submit(request(engine, "z.z", seed, **({"temperature": 0.7} | cut))) for seed in range(4)]
        ids = [*engine.tokenizer.encode("1+2=?"), 5, 6, 7]
        expected = oracle(ids, start=2).log_softmax(-1)[torch.arange(len(ids) - 2), torch.tensor(ids[2:])]
        np.testing.assert_allclose(engine.score(ids, start=2).result(timeout=120), expected.numpy(), atol=1e-4)
        assert all(len(future.result(timeout=120).token_ids) for future in sampled)


def left_by(sampling: Sampling, logits: torch.Tensor) -> torch.Tensor:
    """Temperature and truncation written out on one row by probabilities, apart from the engines' own code."""
    logits = logits / sampling.temperature
    probabilities = logits.softmax(-1)
    logits = torch.where(probabilities < sampling.min_p * probabilities.max(), -torch.inf, logits)
    order = logits.argsort(descending=True).tolist()
    if sampling.top_k:
        logits[order[sampling.top_k :]] = -torch.inf
    probabilities, reached = logits.softmax(-1), 0.0
    for token in order:
        if reached >= sampling.top_p:
            logits[token] = -torch.inf
        reached += float(probabilities[token])
    return logits


def test_a_prompt_fits_one_prefill_step_on_a_cpu() -> None:
    arguments = engine_arguments("m", EngineOptions(), device="cpu", dtype="float32", context_length=32768)
    assert arguments["enable_chunked_prefill"] is False
    assert arguments["max_num_batched_tokens"] >= arguments["max_model_len"] == 32769
    extra = EngineOptions(extra={"block_size": 64, "enforce_eager": False})
    arguments = engine_arguments("m", extra, device="cuda", dtype="bfloat16", context_length=4096)
    assert (arguments["block_size"], arguments["enforce_eager"]) == (64, False)
    assert "enable_chunked_prefill" not in arguments


def cpu_cache(options: EngineOptions, *, token_bytes: int | None, length: int = 200) -> int:
    """Bytes for keys and values on a CPU."""
    found = engine_arguments(
        "m", options, device="cpu", dtype="float32", context_length=length, token_bytes=token_bytes
    )
    return int(found["kv_cache_memory_bytes"])


@pytest.mark.parametrize(
    ("changes", "length", "blocks"),
    [
        ({}, 200, 8 * 2 + 1),  # 201 tokens are two blocks of 128, and vLLM keeps one block
        ({}, 127, 8 * 1 + 1),
        ({}, 128, 8 * 2 + 1),  # and the one token more that a scored prompt needs
        ({"max_num_seqs": None}, 200, 256 * 2 + 1),
    ],
)
def test_no_more_keys_and_values_are_taken_on_a_cpu_than_all_seats_fill(
    changes: dict[str, Any], length: int, blocks: int
) -> None:
    options = EngineOptions(**{"max_num_seqs": 8, **changes})
    assert cpu_cache(options, token_bytes=512, length=length) == blocks * 128 * 512


def test_nor_more_than_asked_for_and_what_cannot_be_computed_is_as_asked_for() -> None:
    small = EngineOptions(max_num_seqs=8, kv_cache_gib=2**-20)
    assert cpu_cache(small, token_bytes=512) == 1024
    drafted = EngineOptions(max_num_seqs=8, extra={"speculative_config": {"method": "ngram"}})
    changed = EngineOptions(max_num_seqs=8, extra={"hf_overrides": {"num_hidden_layers": 48}})
    for options, given in ((EngineOptions(max_num_seqs=8), None), (drafted, 512), (changed, 512)):
        assert cpu_cache(options, token_bytes=given) == 2**30


def test_vllm_makes_exactly_that_many_blocks_of_them(tiny_model: str) -> None:
    release()
    backend = VllmBackend(tiny_model, EngineOptions(dtype="float32", max_num_seqs=8, max_model_len=200))
    try:
        assert backend._engine.vllm_config.cache_config.num_gpu_blocks == 8 * 2 + 1
    finally:
        backend.close()


LAYERS = ["full_attention", "full_attention", "sliding_attention", "full_attention"]


@pytest.mark.parametrize(("kinds", "bytes_"), [(LAYERS[:2], 2 * 2 * 2 * 16 * 4), (LAYERS[1:3], None)])
def test_keys_and_values_of_a_token_are_counted_where_all_layers_are_of_one_kind(
    tmp_path: Path, kinds: list[str], bytes_: int | None
) -> None:
    from vllm import EngineArgs

    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_hidden_layers": 2,
        "intermediate_size": 64,
        "vocab_size": 32,
        "max_position_embeddings": 128,
        "layer_types": kinds,
        "use_sliding_window": True,
        "sliding_window": 64,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    made = EngineArgs(model=str(tmp_path), dtype="float32", skip_tokenizer_init=True).create_model_config()
    assert token_bytes(made) == bytes_


@pytest.mark.parametrize(("changes", "refused"), [({}, True), ({"multi_query": False}, False)])
def test_a_model_vllm_computes_wrongly_is_refused(tmp_path: Path, changes: dict[str, Any], refused: bool) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt_bigcode", **changes}))
    with pytest.raises(EngineOptionError, match="gpt_bigcode") if refused else nullcontext():
        check_architecture(str(tmp_path))


class Flat:
    """vLLM's FlatLogprobs: position 0 lists the likeliest (8) before the sampled (5), position 1 the sampled alone."""

    start_indices = (0, 2)
    end_indices = (2, 3)
    token_ids = (8, 5, 6)
    logprobs = (-0.1, -2.5, -1.25)


def test_the_entry_is_found_by_its_token_and_not_by_its_place() -> None:
    assert sampled_logprobs(Flat, np.array([5, 6], dtype=np.int32)).tolist() == [-2.5, -1.25]
    with pytest.raises(RuntimeError, match="no logprob for token 7 at position 1"):
        sampled_logprobs(Flat, np.array([5, 7], dtype=np.int32))
