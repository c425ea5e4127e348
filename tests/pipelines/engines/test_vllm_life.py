"""The vLLM engine from its start over new weights to its end, and what it leaves in the process."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.engines import (
    Engine,
    EngineOptionError,
    EngineOptions,
    EngineStartError,
    RequestRejected,
    Sample,
    SampleRequest,
    Sampling,
    WeightsMismatchError,
    acquire,
    release,
    start_engine,
)
from pipelines.engines.vllm import VllmBackend
from tests.pipelines.engines.asking import RAW, grid, request, sample_all


def alone(engine: Engine, requests: list[SampleRequest]) -> list[Sample]:
    """Answers to one request at a time: which requests share a step, a matter of threads, may show in the last bits."""
    return [engine.submit(asked).result(timeout=120) for asked in requests]


def test_reloaded_weights_give_exactly_what_a_fresh_engine_gives(
    engine: Engine, tiny_model: str, tiny_model_updated: str
) -> None:
    prompt = engine.tokenizer.encode(
        "7+8=?\n" * 50
    )  # longer than two cache blocks, so that the prefix cache is in play
    requests = [
        SampleRequest(prompt_token_ids=prompt, seed=seed, sampling=Sampling(max_tokens=40)) for seed in range(8)
    ]
    old = alone(engine, requests)
    engine.load_weights(tiny_model_updated)
    reloaded = alone(engine, requests)
    scored = engine.score(prompt, start=1).result(timeout=120)
    release()
    fresh_engine = acquire(tiny_model_updated, RAW)
    fresh = alone(fresh_engine, requests)
    assert [s.token_ids.tolist() for s in reloaded] == [s.token_ids.tolist() for s in fresh]
    assert [s.logprobs.tolist() for s in reloaded] == [s.logprobs.tolist() for s in fresh]
    assert scored.tolist() == fresh_engine.score(prompt, start=1).result(timeout=120).tolist()
    assert [s.token_ids.tolist() for s in old] != [s.token_ids.tolist() for s in fresh]


def test_a_head_tied_to_the_embedding_is_reloaded_with_it(tiny_model_factory: Callable[..., str]) -> None:
    release()
    first, second = (tiny_model_factory(seed=seed, tied=True) for seed in (1, 2))
    text = list(range(2, 40))
    engine = acquire(first, RAW)
    old = engine.score(text, start=1).result(timeout=120)
    engine.load_weights(second)
    reloaded = engine.score(text, start=1).result(timeout=120)
    plain = start_engine(second, EngineOptions(kind="transformers"))
    np.testing.assert_allclose(reloaded, plain.score(text, start=1).result(timeout=120), atol=1e-4)
    assert np.abs(reloaded - old).max() > 0.1
    plain.close()
    release()


def test_what_was_submitted_before_a_reload_is_sampled_with_the_old_weights(
    engine: Engine, tiny_model: str, tiny_model_updated: str
) -> None:
    before = sample_all(engine, grid(engine))
    in_flight = [engine.submit(asked) for asked in grid(engine)]
    engine.load_weights(tiny_model_updated)
    assert [f.result(timeout=120).token_ids.tolist() for f in in_flight] == [s.token_ids.tolist() for s in before]
    engine.load_weights(tiny_model)


def test_dropped_requests_leave_the_scheduler_and_disturb_no_other(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sample_all(engine, grid(engine))
    step, steps = VllmBackend.step, itertools.count()
    asked, begun, dropped = threading.Event(), threading.Event(), threading.Event()

    def held(backend: VllmBackend) -> Any:
        """Not before all is asked; after the first steps it waits until it is dropped."""
        assert asked.wait(120)
        if next(steps) == 3:
            begun.set()
            assert dropped.wait(120)
        return step(backend)

    monkeypatch.setattr(VllmBackend, "step", held)
    long = [request(engine, "a", seed, max_tokens=400, ignore_eos=True) for seed in range(64)]  # half of them must wait
    futures, kept = [engine.submit(one) for one in long], engine.submit(grid(engine)[0])
    asked.set()
    assert begun.wait(120)
    engine.drop(futures)
    dropped.set()
    assert kept.result(timeout=120).token_ids.tolist() == before[0].token_ids.tolist()
    assert all(future.done() for future in futures), "none was computed to its end before a short one behind it"
    assert all(future.cancelled() or isinstance(future.exception(), RequestRejected) for future in futures)
    assert [s.token_ids.tolist() for s in sample_all(engine, grid(engine))] == [s.token_ids.tolist() for s in before]


def test_weights_of_another_architecture_are_refused_and_the_engine_lives(
    engine: Engine, tiny_model_factory: Callable[..., str]
) -> None:
    with pytest.raises(WeightsMismatchError, match="vocab_size"):
        engine.load_weights(tiny_model_factory(seed=1, characters="abc"))
    with pytest.raises(FileNotFoundError, match="no-such-model"):
        engine.load_weights("no-such-model")
    assert sample_all(engine, [request(engine, "a", 1)])


def test_rollouts_do_not_change_when_the_cache_is_too_small_for_all(engine: Engine, tiny_model: str) -> None:
    sampling = {"max_tokens": 300, "ignore_eos": True}
    expected = sample_all(engine, [request(engine, "a", seed, **sampling) for seed in range(8)])
    blocks = 10 * 128 * 512 / 2**30  # 10 blocks of 128 tokens of 512 bytes; 8 rollouts need 24, so some are preempted
    small = acquire(tiny_model, EngineOptions(dtype="float32", kv_cache_gib=blocks, max_num_seqs=32))
    preempted = sample_all(small, [request(small, "a", seed, **sampling) for seed in range(8)])
    assert [s.token_ids.tolist() for s in preempted] == [s.token_ids.tolist() for s in expected]


def test_starting_and_closing_leave_the_process_as_it_was(tiny_model: str) -> None:
    release()
    children_before = set(children())
    acquire(tiny_model, RAW)  # whatever the import of vLLM leaves behind is not this test's subject
    release()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    expected = (random.random(), np.random.rand(), torch.rand(1).item())
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    environment, set_num_threads = dict(os.environ), torch.set_num_threads
    threads = set(threading.enumerate())
    acquire(tiny_model, RAW)
    assert gc.isenabled()
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected
    assert torch.set_num_threads is set_num_threads
    assert {k: v for k, v in os.environ.items() if not k.startswith("VLLM_")} == {
        k: v for k, v in environment.items() if not k.startswith("VLLM_")
    }
    release()
    release()
    assert gc.get_freeze_count() == 0
    assert {t.name for t in set(threading.enumerate()) - threads} <= {"tqdm_monitor"}
    assert set(children()) <= children_before


def test_a_start_that_fails_leaves_the_search_for_garbage_as_it_was(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.v1.engine.llm_engine import LLMEngine

    frozen = []

    def fails(*_: object, **__: object) -> None:
        frozen.append(gc.get_freeze_count())
        raise ValueError("no room")

    release()
    gc.unfreeze()
    monkeypatch.setattr(LLMEngine, "from_engine_args", fails)
    with pytest.raises(EngineStartError, match="no room"):
        start_engine(tiny_model, RAW)
    assert frozen[0] > 100_000, "the modules are set aside while it starts"
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def children() -> list[str]:
    found: list[str] = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that has ended since it was listed
            found += [pid for pid in (task / "children").read_text().split() if alive(pid)]
    return found


def alive(pid: str) -> bool:
    try:
        return "vllm" in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False


def test_a_second_vllm_engine_in_the_process_is_refused(engine: Engine, tiny_model: str) -> None:
    with pytest.raises(EngineStartError, match="already runs"):
        start_engine(tiny_model, RAW)
    assert sample_all(engine, [request(engine, "a", 1)])


def test_a_context_longer_than_the_models_is_refused(tiny_model: str) -> None:
    release()
    with pytest.raises(EngineOptionError, match=r"max_model_len is 9999, but the model .* takes at most 512"):
        acquire(tiny_model, EngineOptions(dtype="float32", max_model_len=9999))
    assert acquire(tiny_model, RAW).max_model_len == 512, "a failed start does not stand in the way"
