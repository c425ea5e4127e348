"""Engines that give the device up and take it again, with other weights."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.engines import (
    EngineAsleep,
    EngineDead,
    EngineOptions,
    Sample,
    SampleRequest,
    Sampling,
    WeightsMismatchError,
    acquire,
    release,
    start_engine,
    vllm,
)
from pipelines.engines.driver import DrivenEngine
from tests.pipelines.engines.asking import RAW, grid, sample_all
from tests.pipelines.engines.test_driver import Echo, ask

PLAIN = EngineOptions(kind="transformers")
ASKED = SampleRequest(prompt_token_ids=[5, 6], seed=1, sampling=Sampling(max_tokens=20))


class Sleeper(Echo):
    """An Echo that tells what was done to it."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[str] = []

    def sleep(self) -> None:
        self.done.append("sleep")

    def wake(self, model: str) -> None:
        self.done.append("wake")
        if model.endswith("torn"):
            raise OSError("disk gone")
        self.weights = "woken"


@pytest.fixture
def sleeper() -> Sleeper:
    return Sleeper()


@pytest.fixture
def engine(sleeper: Sleeper, tiny_model: str) -> Iterator[DrivenEngine]:
    engine = DrivenEngine(lambda: sleeper, model=tiny_model, name="sleeper")
    yield engine
    engine.close()


def test_what_was_submitted_before_it_fell_asleep_is_answered(engine: DrivenEngine, sleeper: Sleeper) -> None:
    asked = [engine.submit(ask(seed)) for seed in range(20)]
    engine.sleep()
    assert all(future.done() for future in asked)
    assert sleeper.done == ["sleep"]


def test_a_sleeping_engine_answers_no_request_and_says_so(engine: DrivenEngine, tiny_model: str) -> None:
    engine.sleep()
    for future in (engine.submit(ask(1)), engine.score([1, 2], start=1)):
        assert isinstance(future.exception(timeout=120), EngineAsleep)
    with pytest.raises(EngineAsleep, match="wake"):
        engine.load_weights(tiny_model)
    assert engine.asleep
    assert not engine.dead


def test_woken_it_has_the_given_weights(engine: DrivenEngine, sleeper: Sleeper, tiny_model_updated: str) -> None:
    engine.sleep()
    engine.sleep()
    engine.wake(tiny_model_updated)
    assert not engine.asleep
    assert engine.submit(ask(1)).result(timeout=120).text == "woken"
    assert sleeper.done == ["sleep", "wake"], "asleep it is not put to sleep again"
    engine.wake(tiny_model_updated)
    assert sleeper.weights == "second", "awake it loads them"


def test_a_folder_that_does_not_fit_leaves_it_asleep(engine: DrivenEngine, tiny_model_factory: Any) -> None:
    engine.sleep()
    with pytest.raises(WeightsMismatchError):
        engine.wake(tiny_model_factory(seed=1, characters="abc"))
    assert engine.asleep
    assert not engine.dead


def test_a_torn_waking_ends_it(engine: DrivenEngine, tiny_model: str, tmp_path: Any) -> None:
    torn = tmp_path / "torn"
    torn.symlink_to(tiny_model)
    engine.sleep()
    with pytest.raises(OSError, match="disk gone"):
        engine.wake(str(torn))
    assert isinstance(engine.submit(ask(1)).exception(timeout=120), EngineDead)


def test_transformers_holds_no_weights_asleep_and_wakes_with_new_ones(tiny_model: str, tiny_model_updated: str) -> None:
    before = models_alive()
    engine = start_engine(tiny_model, PLAIN)
    try:
        engine.submit(ASKED).result(timeout=120)
        assert models_alive() == before + 1
        engine.sleep()
        assert models_alive() == before
        engine.wake(tiny_model_updated)
        woken = engine.submit(ASKED).result(timeout=120)
    finally:
        engine.close()
    fresh = start_engine(tiny_model_updated, PLAIN)
    try:
        assert woken.logprobs.tolist() == fresh.submit(ASKED).result(timeout=120).logprobs.tolist()
    finally:
        fresh.close()


def test_vllm_on_a_cpu_wakes_with_new_weights_and_no_old_prefix(tiny_model: str, tiny_model_updated: str) -> None:
    engine = acquire(tiny_model, RAW)
    before = sample_all(engine, grid(engine))
    engine.sleep()
    assert isinstance(engine.submit(ASKED).exception(timeout=120), EngineAsleep)
    engine.wake(tiny_model_updated)
    woken = sample_all(engine, grid(engine))
    release()
    fresh = acquire(tiny_model_updated, RAW)
    assert ids_of(woken) == ids_of(sample_all(fresh, grid(fresh))) != ids_of(before)
    release()


class ScriptedLLMEngine:
    """Takes vLLM's calls down, in order."""

    def __init__(self, calls: list[Any], *, sleep_mode: bool) -> None:
        self.calls = calls
        self.model_config = SimpleNamespace(enable_sleep_mode=sleep_mode, get_vocab_size=lambda: 100)
        self.engine_core = SimpleNamespace(shutdown=lambda: calls.append("shutdown"))
        self.renderer = SimpleNamespace(shutdown=lambda: None)

    def sleep(self, level: int) -> None:
        self.calls.append(("sleep", level))

    def wake_up(self, tags: list[str]) -> bool:
        self.calls.append(("wake_up", *tags))
        return tags == ["kv_cache"]

    def collective_rpc(self, name: str, kwargs: dict[str, str]) -> None:
        self.calls.append((name, kwargs["weights_path"]))

    def reset_prefix_cache(self) -> bool:
        self.calls.append("reset_prefix_cache")
        return True

    def reset_encoder_cache(self) -> None:
        pass


@pytest.mark.parametrize("sleep_mode", [True, False])
def test_vllm_on_a_gpu_drops_everything_and_takes_weights_before_the_cache(
    sleep_mode: bool, tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    release()
    calls: list[Any] = []

    def start(model: str, options: EngineOptions) -> tuple[ScriptedLLMEngine, int]:
        calls.append("start")
        return ScriptedLLMEngine(calls, sleep_mode=sleep_mode), 512

    monkeypatch.setattr(vllm, "_start_engine", start)
    monkeypatch.setattr(vllm, "device_kind", lambda: "cuda")
    monkeypatch.setattr(vllm, "set_environment", lambda options: None)
    engine = vllm.start(tiny_model, EngineOptions())
    engine.sleep()
    engine.wake(tiny_model)
    engine.close()
    if sleep_mode:
        slept_and_woke = [
            ("sleep", 2),
            ("wake_up", "weights"),
            ("reload_weights", tiny_model),  # the same folder: what level 2 dropped has to be read again
            "reset_prefix_cache",
            ("wake_up", "kv_cache"),
        ]
    else:
        slept_and_woke = ["shutdown", "start"]
    assert calls == ["start", *slept_and_woke, "shutdown"]


def models_alive() -> int:
    return sum(type(thing).__name__ == "LlamaForCausalLM" for thing in gc.get_objects())


def ids_of(samples: list[Sample]) -> list[list[int]]:
    return [sample.token_ids.tolist() for sample in samples]
