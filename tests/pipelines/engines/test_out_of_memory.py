"""The device runs out of memory, by hand, wherever an engine may meet it: a sentence, and nothing left behind."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.engines import EngineDead, EngineOptions, EngineStartError, Sample, acquire, release, start_engine, vllm
from pipelines.engines.driver import DrivenEngine
from tests.pipelines.engines.test_driver import Echo, ask

TORCH = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.25 GiB."
FULL = torch.OutOfMemoryError(TORCH)
PLAIN = EngineOptions(kind="transformers")


@pytest.fixture(autouse=True)
def _start_and_end_without_an_engine() -> Iterator[None]:
    release()
    yield
    release()


def full(*arguments: Any, **options: Any) -> Any:
    raise torch.OutOfMemoryError(TORCH)


@pytest.mark.parametrize(
    "said",
    [
        FULL,
        RuntimeError("Engine core initialization failed. Worker: CUDA out of memory. Tried to allocate 2 GiB"),
        ValueError(
            "Free memory on device cuda:0 (12.1/79.25 GiB) on startup is less than desired GPU memory utilization (0.9)"
        ),
        ValueError("No available memory for the cache blocks. Try increasing `gpu_memory_utilization`"),
        ValueError(
            "To serve at least one request with the model's max seq len (32768), (4.0 GiB KV cache is needed, which is "
            "larger than the available KV cache memory (1.2 GiB)."
        ),
    ],
    ids=lambda error: str(error)[:20],
)
def test_vllm_that_cannot_start_for_memory_says_what_to_lower(
    said: Exception, tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*arguments: Any, **options: Any) -> Any:
        raise said

    from vllm.v1.engine.llm_engine import LLMEngine

    monkeypatch.setattr(LLMEngine, "from_engine_args", start)
    with pytest.raises(EngineStartError, match="has not the memory for the vllm engine") as raised:
        start_engine(tiny_model, EngineOptions(max_num_seqs=8))
    assert str(said).rstrip(".") in str(raised.value)
    for option in ("max_model_len", "max_num_batched_tokens", "max_num_seqs", "gpu_memory_utilization"):
        assert option in str(raised.value)


def test_any_other_failure_to_start_keeps_its_own_words(tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*arguments: Any, **options: Any) -> Any:
        raise ValueError("unsupported quantization")

    from vllm.v1.engine.llm_engine import LLMEngine

    monkeypatch.setattr(LLMEngine, "from_engine_args", start)
    with pytest.raises(EngineStartError, match=r"vLLM could not start on .*unsupported quantization$"):
        start_engine(tiny_model, EngineOptions(max_num_seqs=8))


@pytest.mark.parametrize("options", [PLAIN, EngineOptions(kind="transformers", pooling={"tokens": ["1", "2"]})])
def test_a_model_that_does_not_fit_is_refused_and_gone(
    options: EngineOptions, tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = models_alive()
    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(EngineStartError, match="has not the memory for the transformers engine") as kept:
        start_engine(tiny_model, options)
    assert TORCH in str(kept.value)
    assert models_alive() == before, "the error that is kept does not keep the model"


def test_an_engine_that_runs_out_while_it_computes_says_what_to_lower(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = acquire(tiny_model, PLAIN)
    before = models_alive()
    monkeypatch.setattr("pipelines.engines.transformers.TransformersBackend._sample", full)
    error = engine.submit(ask(1)).exception(timeout=120)
    assert isinstance(error, EngineDead)
    assert "ran out of memory while it computed: CUDA out of memory" in str(error)
    assert "engine.extra.batch_size" in str(error)
    engine.close()
    assert models_alive() == before - 1, "the error that is kept does not keep the model"
    monkeypatch.undo()
    assert isinstance(acquire(tiny_model, PLAIN).submit(ask(1)).result(timeout=120), Sample), "another one starts"


def test_so_does_a_reward_model(tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = acquire(tiny_model, EngineOptions(kind="transformers", pooling={"tokens": ["1", "2"]}))
    monkeypatch.setattr("pipelines.engines.transformers_pooling.TransformersPoolingBackend._logits", full)
    error = engine.pool([1, 2]).exception(timeout=120)
    assert isinstance(error, EngineDead)
    assert "out of memory" in str(error)
    assert "engine.extra.batch_size" in str(error)


def test_a_vllm_that_runs_out_while_it_computes_says_what_to_lower(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm.VllmBackend, "step", full)
    engine = acquire(tiny_model, EngineOptions(dtype="float32", kv_cache_gib=0.25, max_num_seqs=8))
    error = engine.submit(ask(1)).exception(timeout=120)
    assert isinstance(error, EngineDead)
    assert all(option in str(error) for option in ("gpu_memory_utilization", "max_num_batched_tokens"))


def test_a_dead_engine_holds_nothing_while_its_errors_are_kept(tiny_model: str) -> None:
    class Large(Echo):
        def __init__(self) -> None:
            super().__init__()
            self.tensor = np.zeros(10)

    backend = Large()
    reference = weakref.ref(backend)
    made = [backend]
    del backend
    engine = DrivenEngine(made.pop, model=tiny_model, name="large")
    error = engine.submit(ask(666)).exception(timeout=120)
    engine.close()
    gc.collect()
    assert isinstance(error, EngineDead)
    assert isinstance(error.__cause__, MemoryError)
    assert error.__cause__.__traceback__ is not None
    assert reference() is None


def models_alive() -> int:
    gc.collect()
    return sum(type(thing).__name__ == "LlamaForCausalLM" for thing in gc.get_objects())
