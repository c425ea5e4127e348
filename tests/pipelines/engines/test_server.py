"""The engine of kind server against a vLLM server that is started for it, on loopback, and ended by its pid."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pass_ops import shards
from pipelines.engines import (
    EngineDead,
    EngineOptionError,
    EngineOptions,
    EngineStartError,
    RequestRejected,
    Sample,
    SampleRequest,
    Sampling,
    acquire,
    start_engine,
)
from pipelines.options import ConfigError
from pipelines.prompts.stage import PromptSource, write_prompts
from pipelines.rollouts.stage import GenerateOptions, generate
from tests.processes import kept_port

HERE = EngineOptions(dtype="float32", kv_cache_gib=0.25, max_num_seqs=32)
FLAGS = (
    "--dtype float32 --max-num-seqs 32 --enforce-eager --no-enable-chunked-prefill --max-num-batched-tokens 4096 "
    "--kv-cache-memory-bytes 268435456"
)


@pytest.fixture(scope="module")
def server(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """(url, pid) of a server that is ready."""
    log = tmp_path_factory.mktemp("server") / "log"
    with kept_port() as port:
        yield from served(tiny_model, port, log)


def served(tiny_model: str, port: int, log: Path) -> Iterator[tuple[str, int]]:
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", tiny_model, *FLAGS.split()]
    environment = dict(os.environ, VLLM_NO_USAGE_STATS="1", HF_HUB_OFFLINE="1", VLLM_LOGGING_LEVEL="ERROR")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(url, process, log)
        yield url, process.pid
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(120)


def wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    while True:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.2)


@pytest.fixture
def options(server: tuple[str, int]) -> EngineOptions:
    return EngineOptions(kind="server", url=server[0], max_num_seqs=16)


@pytest.fixture
def engine(tiny_model: str, options: EngineOptions) -> Iterator[Any]:
    engine = start_engine(tiny_model, options)
    yield engine
    engine.close()


def ask(engine: Any, text: str, seed: int, **sampling: Any) -> SampleRequest:
    ids = engine.tokenizer.encode(text)
    return SampleRequest(prompt_token_ids=ids, seed=seed, sampling=Sampling(**{"max_tokens": 30, **sampling}))


def sample_all(engine: Any, requests: list[SampleRequest]) -> list[Sample]:
    return [future.result(timeout=120) for future in [engine.submit(request) for request in requests]]


def test_a_server_gives_the_rollouts_of_the_engine_in_process(engine: Any, tiny_model: str) -> None:
    requests = [ask(engine, text, seed) for text in ("1+2=?", "a", "z.z") for seed in range(6)]
    requests += [ask(engine, "a", 3, stop=["b", "1"], ignore_eos=True), ask(engine, "a", 4, extra={"min_tokens": 9})]
    here = acquire(tiny_model, HERE)
    for ours, theirs in zip(sample_all(engine, requests), sample_all(here, requests), strict=True):
        assert ours.token_ids.tolist() == theirs.token_ids.tolist()
        assert (ours.text, ours.finish_reason) == (theirs.text, theirs.finish_reason)
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-5)
    ids = [5, 6, 7, 8, 9, 4, 4]
    scored = engine.score(ids, start=2).result(timeout=120)
    np.testing.assert_allclose(scored, here.score(ids, start=2).result(timeout=120), atol=1e-5)


def test_what_the_server_refuses_rejects_that_request_alone(engine: Any) -> None:
    good = engine.submit(ask(engine, "a", 1))
    too_long = engine.submit(SampleRequest(prompt_token_ids=[5] * 600, seed=1, sampling=Sampling()))
    refused = engine.submit(ask(engine, "a", 1, extra={"repetition_penalty": -1.0}))
    for future, reason, detail in ((too_long, "prompt_too_long", "600"), (refused, "request_failed", "400")):
        error = future.exception(timeout=120)
        assert isinstance(error, RequestRejected)
        assert error.reason == reason
        assert detail in error.detail
    assert len(good.result(timeout=120).token_ids)


def test_dropped_requests_are_forgotten_and_the_next_is_answered(engine: Any) -> None:
    sampling = Sampling(max_tokens=20)
    asked = [SampleRequest(prompt_token_ids=[5, 6], seed=seed, sampling=sampling) for seed in range(80)]
    futures = [engine.submit(one) for one in asked]
    engine.drop(futures)
    answer = engine.submit(asked[0]).result(timeout=120)
    assert all(future.done() for future in futures)
    assert answer.token_ids.tolist() == engine.submit(asked[0]).result(timeout=120).token_ids.tolist()


def test_rollouts_are_generated_through_a_server(tmp_path: Path, tiny_model: str, options: EngineOptions) -> None:
    (tmp_path / "p.jsonl").write_text("".join(f'{{"prompt": "{i}+{i}=?"}}\n' for i in range(4)))
    write_prompts(PromptSource(source=str(tmp_path / "p.jsonl"), prompts_per_part=2), out=str(tmp_path / "prompts"))
    sampling = GenerateOptions(group_size=2, sampling=Sampling(max_tokens=12))
    tables = []
    for name, engine in (("server", options), ("here", HERE)):
        out = str(tmp_path / name)
        generate(prompts=str(tmp_path / "prompts"), out=out, model=tiny_model, engine=engine, options=sampling)
        dataset = shards.open_dataset(out)
        tables.append([row["token_ids"] for part in range(2) for row in dataset.read_part(part).to_pylist()])
        assert dataset.spec.environment["vllm"].startswith("0.")
    assert tables[0] == tables[1]


def test_a_server_that_runs_other_weights_or_other_logprobs_is_refused(
    tiny_model: str, tiny_model_updated: str, options: EngineOptions
) -> None:
    with pytest.raises(EngineStartError, match="whose weights are not those of"):
        start_engine(tiny_model_updated, options)
    with pytest.raises(EngineStartError, match="gives raw_logprobs, but this sampling needs processed_logprobs"):
        start_engine(tiny_model, replace(options, logprobs_mode="processed_logprobs"))
    with pytest.raises(EngineStartError, match="not gpt-9; name one as"):
        start_engine(tiny_model, replace(options, extra={"served_model": "gpt-9"}))


def test_options_of_a_server_are_checked(tiny_model: str, options: EngineOptions) -> None:
    with pytest.raises(EngineOptionError, match="needs `url`"):
        start_engine(tiny_model, EngineOptions(kind="server"))
    with pytest.raises(EngineOptionError, match=r"extra\.served is no option"):
        start_engine(tiny_model, replace(options, extra={"served": "x"}))
    with pytest.raises(ConfigError, match="NO_SUCH_KEY is not set"):
        start_engine(tiny_model, replace(options, extra={"api_key": "env:NO_SUCH_KEY"}))
    with kept_port() as port, pytest.raises(EngineStartError, match="No vLLM server answers"):
        start_engine(tiny_model, EngineOptions(kind="server", url=f"http://127.0.0.1:{port}"))


def test_a_connection_that_is_gone_is_a_dead_engine(tiny_model: str, options: EngineOptions) -> None:
    import httpx

    engine = start_engine(tiny_model, options)
    backend: Callable[..., Any] = lambda *_, **__: (_ for _ in ()).throw(httpx.ConnectError("refused"))  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpx.Client, "post", backend)
        error = engine.submit(ask(engine, "a", 1)).exception(timeout=120)
    assert isinstance(error, EngineDead)
    assert "refused" in str(error)
