"""One engine a process: reused, reloaded or restarted. On the light kinds; vLLM's reload is in test_vllm."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines.engines import EngineOptions, SampleRequest, Sampling, acquire, release, start_engine

RECORDED = EngineOptions(kind="recorded")
PLAIN = EngineOptions(kind="transformers")


@pytest.fixture(autouse=True)
def _start_and_end_without_an_engine() -> Iterator[None]:
    release()
    yield
    release()


def test_the_same_model_and_options_reuse_the_engine(tiny_model: str) -> None:
    assert acquire(tiny_model, RECORDED) is acquire(tiny_model, EngineOptions(kind="recorded"))


def test_threads_that_ask_at_once_get_one_engine(tiny_model: str) -> None:
    got: list[object] = []
    barrier = threading.Barrier(8)

    def ask() -> None:
        barrier.wait()
        got.append(acquire(tiny_model, RECORDED))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 8
    assert len({id(engine) for engine in got}) == 1


def test_other_weights_of_the_architecture_are_reloaded(tiny_model: str, tiny_model_updated: str) -> None:
    asked = SampleRequest(prompt_token_ids=[5, 6], seed=1, sampling=Sampling(max_tokens=20))
    engine = acquire(tiny_model, PLAIN)
    old = engine.submit(asked).result(timeout=120).logprobs.tolist()
    assert acquire(tiny_model_updated, PLAIN) is engine
    new = engine.submit(asked).result(timeout=120).logprobs.tolist()
    fresh = start_engine(tiny_model_updated, PLAIN)
    try:
        assert new == fresh.submit(asked).result(timeout=120).logprobs.tolist()
    finally:
        fresh.close()
    assert acquire(tiny_model, PLAIN) is engine
    assert engine.submit(asked).result(timeout=120).logprobs.tolist() == old != new


def test_a_folder_whose_weights_were_rewritten_is_reloaded(
    tiny_model: str, tiny_model_updated: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "policy")
    asked = SampleRequest(prompt_token_ids=[5, 6], seed=1, sampling=Sampling(max_tokens=20))
    old = acquire(str(folder), PLAIN).submit(asked).result(timeout=120).logprobs.tolist()
    shutil.copy(Path(tiny_model_updated) / "model.safetensors", folder / "model.safetensors")
    assert acquire(str(folder), PLAIN).submit(asked).result(timeout=120).logprobs.tolist() != old


def test_other_options_or_another_architecture_start_another_engine(
    tiny_model: str, tiny_model_factory: Callable[..., str]
) -> None:
    first = acquire(tiny_model, RECORDED)
    second = acquire(tiny_model, EngineOptions(kind="recorded", max_model_len=100))
    assert second is not first
    third = acquire(tiny_model_factory(seed=1, characters="abc"), EngineOptions(kind="recorded", max_model_len=100))
    assert third is not second
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("engine-recorded") == 1, "the engines before it are closed"


def test_a_closed_engine_is_replaced(tiny_model: str) -> None:
    first = acquire(tiny_model, RECORDED)
    first.close()
    second = acquire(tiny_model, RECORDED)
    assert second is not first
    asked = SampleRequest(prompt_token_ids=[5], seed=1, sampling=Sampling())
    assert len(second.submit(asked).result(timeout=120).token_ids) > 0


def test_a_missing_folder_leaves_the_running_engine(tiny_model: str) -> None:
    first = acquire(tiny_model, RECORDED)
    with pytest.raises(FileNotFoundError, match="no-such-model"):
        acquire("no-such-model", RECORDED)
    assert acquire(tiny_model, RECORDED) is first
