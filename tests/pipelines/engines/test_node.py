"""A node: two engines in processes of their own behind one, on shares of the CPU."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.engines import (
    Engine,
    EngineAsleep,
    EngineDead,
    EngineOptionError,
    EngineOptions,
    EngineStartError,
    RequestRejected,
    Sample,
    SampleRequest,
    Sampling,
    acquire,
    release,
    start_engine,
    use_gpus,
)
from pipelines.engines.driver import DrivenEngine
from pipelines.engines.errors import ChildrenDied
from pipelines.engines.node import NodeBackend, start
from tests.pipelines.engines.asking import RAW, grid, sample_all
from tests.processes import MARK, Process, marked, wait_until

TWO: Any = ("cpu", "cpu")
RECORDED = EngineOptions(kind="recorded", recording="synthetic:3", extra={"latency": 0.3})
ENDLESS = EngineOptions(kind="recorded", recording="synthetic:3", extra={"latency": 3600.0})
PLAIN = EngineOptions(kind="transformers", extra={"batch_size": 1})


@pytest.fixture(autouse=True)
def mark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """What the processes of a test are found by; at its end none of them may be left."""
    monkeypatch.setenv(MARK, str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # sums in one order, however many children share the cores
    yield str(tmp_path)
    use_gpus(None)
    wait_until(lambda: not marked(str(tmp_path)))


class Node:
    """A node whose backend the test may look at."""

    def __init__(self, model: str, options: EngineOptions) -> None:
        def make() -> NodeBackend:
            self.backend = NodeBackend(model, options, [("cpu",), ("cpu",)])
            return self.backend

        self.engine = DrivenEngine(make, model=model, name="node's", width=2)

    def kill(self, place: int) -> Any:
        """As the kernel does where memory runs out, once the process is up; the other place may be starting.

        Returns the child.
        """
        wait_until(lambda: self._child(place).ready is not None or not self.probe())
        dead = self._child(place)
        os.kill(dead.pid, signal.SIGKILL)
        return dead

    def replaced(self, place: int, dead: Any) -> None:
        """Wait until the backend has noticed."""
        wait_until(lambda: self.probe() and self._child(place) is not dead)

    def probe(self) -> Sample:
        """An answer; the backend looks at its children only while one is asked for."""
        return self.engine.submit(ask(0)).result(timeout=120)

    def _child(self, place: int) -> Any:
        return self.backend._children[place]


@pytest.fixture
def node(tiny_model: str) -> Iterator[Node]:
    node = Node(tiny_model, RECORDED)
    yield node
    node.engine.close()


def ask(seed: int, prompt: tuple[int, ...] = (5, 6, 7), **sampling: Any) -> SampleRequest:
    return SampleRequest(prompt_token_ids=prompt, seed=seed, sampling=Sampling(**{"max_tokens": 20, **sampling}))


def answers(engine: Engine, requests: list[SampleRequest]) -> list[tuple[Any, ...]]:
    return [plain(future.result(timeout=120)) for future in [engine.submit(request) for request in requests]]


def plain(sample: Sample) -> tuple[Any, ...]:
    return sample.token_ids.tolist(), sample.logprobs.tolist(), sample.finish_reason, sample.text


def alone(model: str, options: EngineOptions, requests: list[SampleRequest]) -> list[tuple[Any, ...]]:
    """What one engine in this process says, adding in the order in which a child with one core does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    engine = start_engine(model, options)
    try:
        return answers(engine, requests)
    finally:
        engine.close()
        torch.set_num_threads(threads)


def engines(mark: str) -> list[Process]:
    return [process for process in marked(mark) if process.is_engine]


def test_two_children_answer_as_one_engine_and_take_new_weights(tiny_model: str, tiny_model_updated: str) -> None:
    requests = [ask(seed, prompt) for prompt in ((5, 6, 7), (8, 9)) for seed in range(4)]
    engine = start(tiny_model, PLAIN, TWO)
    try:
        assert engine.width == 2
        assert answers(engine, requests) == alone(tiny_model, PLAIN, requests)
        engine.load_weights(tiny_model_updated)
        expected = alone(tiny_model_updated, PLAIN, requests)
        assert answers(engine, requests) == expected
        engine.sleep()
        assert isinstance(engine.submit(requests[0]).exception(timeout=120), EngineAsleep)
        engine.wake(tiny_model)
        assert answers(engine, requests) != expected
        assert engine.score([5, 6, 7, 8], start=2).result(timeout=120).shape == (2,)
    finally:
        engine.close()


def test_what_is_wrong_with_one_request_is_its_own(node: Node, tiny_model: str, tmp_path: Path) -> None:
    long = ask(0, tuple([5] * 600))
    futures: list[Future[Any]] = [node.engine.submit(request) for request in (ask(1), long, ask(2))]
    assert isinstance(futures[1].exception(timeout=120), RequestRejected)
    assert [plain(futures[i].result(timeout=120)) for i in (0, 2)] == alone(tiny_model, RECORDED, [ask(1), ask(2)])
    with pytest.raises(EngineOptionError, match="pooling"):
        node.engine.pool([5, 6])


def test_a_rejection_that_only_the_child_knows_reaches_its_future(tiny_model: str, tmp_path: Path) -> None:
    recording = tmp_path / "recording.jsonl"
    recording.write_text(
        '{"prompt_token_ids": [5], "seed": 1, "token_ids": [6], "behavior_logprobs": [-1.0], "finish_reason": "stop"}\n'
    )
    engine = start(tiny_model, EngineOptions(kind="recorded", recording=str(recording)), TWO)
    try:
        known, unknown = engine.submit(ask(1, (5,))), engine.submit(ask(2, (5,)))
        assert known.result(timeout=120).token_ids.tolist() == [6]
        rejection = unknown.exception(timeout=120)
        assert isinstance(rejection, RequestRejected)
        assert rejection.reason == "not_recorded"
    finally:
        engine.close()


def test_the_rollouts_of_a_prompt_stay_together_up_to_sixteen_and_prompts_go_to_whoever_is_free(
    tiny_model: str,
) -> None:
    node = Node(tiny_model, ENDLESS)
    try:
        sampling = Sampling(max_tokens=4)
        for ids in ([5, 6], [7, 8]):
            for seed in range(20):
                node.engine.submit(SampleRequest(prompt_token_ids=ids, seed=seed, sampling=sampling))
        wait_until(lambda: sum(len(child.open) for child in node.backend._children) == 40)
        assert [len(child.open) for child in node.backend._children] == [20, 20]
    finally:
        node.engine.close()


def test_ten_kills_of_children_change_no_answer(node: Node, mark: str, tiny_model: str) -> None:
    chances = random.Random(7)
    for number in range(10):
        requests = [ask(100 * number + i, (5, 6 + number)) for i in range(16)]
        futures = [node.engine.submit(request) for request in requests]
        for future in futures[: chances.choice([0, 1, 8])]:
            future.result(timeout=120)
        place = chances.randrange(2)
        dead = node.kill(place)
        assert [plain(future.result(timeout=120)) for future in futures] == alone(tiny_model, RECORDED, requests)
        node.replaced(place, dead)
    wait_until(lambda: node.probe() and len(engines(mark)) == 2)


def test_a_request_that_kills_whoever_computes_it_ends_the_engine_with_its_last_words(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    poison(monkeypatch, tmp_path, "pipelines.engines.recorded", "synthetic_sample", when="request.seed == 666")
    engine = start(tiny_model, RECORDED, TWO)
    try:
        assert engine.submit(ask(1)).result(timeout=120)
        error = engine.submit(ask(666)).exception(timeout=240)
        assert isinstance(error, EngineDead)
        assert isinstance(error.__cause__, ChildrenDied)
        for words in ("3 processes of a node died", "while the same request was open", "SIGKILL", "poisoned"):
            assert words in str(error)
        assert engine.dead
    finally:
        engine.close()


def test_children_that_die_before_their_engine_runs_are_tried_three_times(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    poison(monkeypatch, tmp_path, "pipelines.engines.recorded", "start", when="True")
    with pytest.raises(ChildrenDied, match=r"3 processes of a node died .* before the engine ran(.|\n)*poisoned"):
        start(tiny_model, RECORDED, TWO)


def poison(monkeypatch: pytest.MonkeyPatch, folder: Path, module: str, name: str, *, when: str) -> None:
    """Children, which find this sitecustomize, die in a call of that function; the test's own process does not."""
    code = f"""
import os, signal, sys
if any(name in " ".join(sys.orig_argv) for name in ("node_child", "kept_host")):
    import {module} as module
    was = module.{name}
    def replaced(request, *args, **options):
        if {when}:
            print("poisoned", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return was(request, *args, **options)
    module.{name} = replaced
"""
    (folder / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")


def test_why_an_engine_cannot_start_is_told_in_its_own_words(tiny_model: str) -> None:
    with pytest.raises(EngineStartError, match="device is cuda"):
        start(tiny_model, EngineOptions(kind="transformers", device="cuda", dtype="float32"), TWO)


def test_one_that_dies_asleep_is_started_again_when_woken(node: Node, mark: str, tiny_model: str) -> None:
    expected = plain(node.probe())
    node.engine.sleep()
    node.kill(0)
    wait_until(lambda: len(engines(mark)) == 1)
    node.engine.wake(tiny_model)
    assert len(engines(mark)) == 2
    assert plain(node.probe()) == expected


def test_acquire_runs_engines_on_the_gpus_in_use_and_here_again_after(tiny_model: str, mark: str) -> None:
    use_gpus(TWO)
    engine = acquire(tiny_model, RECORDED)
    assert acquire(tiny_model, RECORDED) is engine
    assert len(engines(mark)) == 2
    use_gpus(None)
    assert not engines(mark)
    assert acquire(tiny_model, RECORDED).width == 1
    release()


def test_a_client_killed_with_sigkill_takes_its_children_along(tiny_model: str, mark: str) -> None:
    code = f"""
import signal
from pipelines.engines import EngineOptions, acquire, use_gpus
use_gpus(("cpu", "cpu"))
acquire({tiny_model!r}, EngineOptions(kind="recorded"))
signal.pause()
"""
    client = subprocess.Popen([sys.executable, "-c", code])
    try:
        wait_until(lambda: len(engines(mark)) == 2 or client.poll() is not None)
        assert client.poll() is None
    finally:
        client.kill()
        client.wait()
    wait_until(lambda: not engines(mark))


def test_a_child_maps_no_shared_memory_and_has_a_share_of_the_cores(node: Node, mark: str) -> None:
    cores = os.sched_getaffinity(0)
    shares = [os.sched_getaffinity(process.pid) for process in engines(mark)]
    if len(cores) >= 2:
        assert not shares[0] & shares[1]
        assert shares[0] | shares[1] == cores
    for process in engines(mark):
        assert "/dev/shm/" not in Path(f"/proc/{process.pid}/maps").read_text()


def test_vllm_in_two_children_keeps_its_rollouts_through_sleep(tiny_model: str) -> None:
    engine = start(tiny_model, RAW, TWO)
    try:
        before = sample_all(engine, grid(engine))
        engine.sleep()
        engine.wake(tiny_model)
        after = sample_all(engine, grid(engine))
    finally:
        engine.close()
    # Which rollouts share a batch, and so the last bits of a logit, is a matter of time.
    same = [a.token_ids.tolist() == b.token_ids.tolist() for a, b in zip(before, after, strict=True)]
    assert sum(same) >= 0.9 * len(same)
