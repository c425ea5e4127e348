"""Engines that a worker pool keeps: who gets one, and what becomes of it. The keeping process is this one."""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.engines import (
    Engine,
    EngineAsleep,
    EngineOptions,
    EngineStartError,
    RequestRejected,
    acquire,
    release,
    start_engine,
)
from pipelines.engines.kept import connected, start
from pipelines.engines.kept_host import Host, Lending
from pipelines.engines.ledger import Ledger
from pipelines.runners.keeping import VARIABLE, Address
from tests.pipelines.engines.test_node import alone, answers, ask, plain
from tests.processes import wait_until

RECORDED = EngineOptions(kind="recorded", recording="synthetic:3")
OTHER = EngineOptions(kind="recorded", recording="synthetic:4")
ENDLESS = EngineOptions(kind="recorded", recording="synthetic:3", extra={"latency": 3600.0})
PLAIN = EngineOptions(kind="transformers", extra={"batch_size": 1})
REWARD = EngineOptions(kind="recorded", recording="synthetic:3", pooling={})


class Here:
    """Hosts in this process, one after another. started: every engine they ever did. ends: how many are over."""

    def __init__(self, folder: Path, *, patience: float = 3600.0, idle_seconds: float = 1.0) -> None:
        self.started: list[Engine] = []
        self.options: list[EngineOptions] = []
        self.address = Address(path=str(folder / "engines.sock"), key=os.urandom(32).hex())
        self.ledger = Ledger(start=self._start, meter=lambda: None)
        self.gate = threading.Event()  # closed, no engine gets beyond its start
        self.gate.set()
        self._stop = threading.Event()
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(self.address.path)
        self._listening.listen()
        self._listening.setblocking(False)
        self._lending = Lending(self.ledger, patience=patience)
        self.ends = 0
        self._host = self._next_host()
        self._thread = threading.Thread(target=self._run, args=(idle_seconds,))
        self._thread.start()

    def _run(self, idle_seconds: float) -> None:
        while not self._stop.is_set():
            self._host.run(self._listening, idle_seconds=idle_seconds)
            self.ends += 1
            self._host = self._next_host()

    def _next_host(self) -> Host:
        return Host(self._lending, bytes.fromhex(self.address.key))

    def start(self, model: str, options: EngineOptions = RECORDED) -> Engine:
        return start(model, options, self.address)

    def later(self, pool: ThreadPoolExecutor, model: str, options: EngineOptions) -> Future[Engine]:
        return pool.submit(self.start, model, options)

    def close(self) -> None:
        self._stop.set()
        self._host._worn = True  # it ends once nobody is served any more
        self._thread.join(60)
        assert not self._thread.is_alive()
        self.ledger.close()
        self._listening.close()

    def _start(self, model: str, options: EngineOptions) -> Engine:
        self.options.append(options)
        assert self.gate.wait(60)
        self.started.append(start_engine(model, options))
        return self.started[-1]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Engines of the host add in the order in which `alone` does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Here]]:
    made: list[Here] = []

    def make(**options: Any) -> Here:
        made.append(Here(tmp_path_factory.mktemp("k"), **options))
        return made[-1]

    yield make
    for here in made:
        here.close()


@pytest.fixture
def here(make: Callable[..., Here]) -> Here:
    return make()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def test_the_next_job_finds_the_engine_asleep_and_gets_the_same_answers(here: Here, tiny_model: str) -> None:
    requests = [ask(seed, prompt) for prompt in ((5, 6, 7), (8, 9)) for seed in range(4)]
    for _ in range(3):
        engine = here.start(tiny_model)
        assert answers(engine, requests) == alone(tiny_model, RECORDED, requests)
        assert engine.score([5, 6, 7, 8], start=2).result(timeout=120).shape == (2,)
        assert not here.started[0].asleep
        engine.close()
        wait_until(lambda: here.started[0].asleep)
    assert len(here.started) == 1


def test_two_workers_share_an_engine_and_keep_their_answers_apart(here: Here, tiny_model: str) -> None:
    first, second = here.start(tiny_model), here.start(tiny_model)
    mine, theirs = [ask(seed) for seed in range(20)], [ask(seed, (8, 9)) for seed in range(20)]
    futures = [(first.submit(a), second.submit(b)) for a, b in zip(mine, theirs, strict=True)]
    assert [plain(a.result(timeout=120)) for a, _ in futures] == alone(tiny_model, RECORDED, mine)
    assert [plain(b.result(timeout=120)) for _, b in futures] == alone(tiny_model, RECORDED, theirs)
    first.close()
    assert answers(second, mine) == alone(tiny_model, RECORDED, mine)
    assert not here.started[0].asleep
    assert len(here.started) == 1
    second.close()


def test_the_next_rounds_weights_are_loaded_into_the_engine_that_is_there(
    here: Here, tiny_model: str, tiny_model_updated: str
) -> None:
    requests = [ask(seed) for seed in range(3)]
    for model in (tiny_model, tiny_model_updated, tiny_model):
        engine = here.start(model, PLAIN)
        assert answers(engine, requests) == alone(model, PLAIN, requests)
        engine.close()
    engine = here.start(tiny_model, PLAIN)
    engine.load_weights(tiny_model_updated)
    assert answers(engine, requests) == alone(tiny_model_updated, PLAIN, requests)
    engine.sleep()
    assert isinstance(engine.submit(ask(0)).exception(timeout=120), EngineAsleep)
    engine.wake(tiny_model)
    assert answers(engine, requests) == alone(tiny_model, PLAIN, requests)
    engine.close()
    assert len(here.started) == 1


def test_one_that_wants_another_engine_waits_until_the_first_is_given_back(
    here: Here, pool: ThreadPoolExecutor, tiny_model: str
) -> None:
    first = here.start(tiny_model)
    waiting = here.later(pool, tiny_model, OTHER)
    time.sleep(1.0)
    assert not waiting.done()
    assert answers(first, [ask(1)]) == alone(tiny_model, RECORDED, [ask(1)])
    first.close()
    second = waiting.result(timeout=120)
    assert answers(second, [ask(1)]) == alone(tiny_model, OTHER, [ask(1)])
    assert [options.recording for options in here.options] == ["synthetic:3", "synthetic:4"]
    assert here.started[0].dead, "one device, one engine"
    second.close()


def test_one_that_asks_nothing_for_a_while_makes_room_and_gets_its_engine_again_when_it_asks(
    make: Callable[..., Here], pool: ThreadPoolExecutor, tiny_model: str
) -> None:
    here = make(patience=0.5)
    first = here.start(tiny_model)
    second = here.later(pool, tiny_model, OTHER).result(timeout=120)
    assert answers(second, [ask(2)]) == alone(tiny_model, OTHER, [ask(2)])
    assert answers(first, [ask(1)]) == alone(tiny_model, RECORDED, [ask(1)])
    assert len(here.started) == 3
    first.close()
    second.close()


def test_one_whose_engine_still_starts_does_not_make_room(
    make: Callable[..., Here], pool: ThreadPoolExecutor, tiny_model: str
) -> None:
    here = make(patience=0.5)
    here.gate.clear()
    first = here.later(pool, tiny_model, RECORDED)
    wait_until(lambda: here.options)
    second = here.later(pool, tiny_model, OTHER)
    time.sleep(1.5)
    assert len(here.options) == 1
    here.gate.set()
    assert answers(first.result(timeout=120), [ask(1)]) == alone(tiny_model, RECORDED, [ask(1)])
    assert answers(second.result(timeout=120), [ask(1)]) == alone(tiny_model, OTHER, [ask(1)])
    first.result().close()
    second.result().close()


def test_one_that_waits_for_an_answer_does_not_make_room(
    make: Callable[..., Here], pool: ThreadPoolExecutor, tiny_model: str
) -> None:
    here = make(patience=0.2)
    first = here.start(tiny_model, ENDLESS)
    first.submit(ask(1))
    wait_until(lambda: here._lending._holders[0].asked.open)
    waiting = here.later(pool, tiny_model, OTHER)
    time.sleep(1.5)
    assert not waiting.done()
    first.close()  # drops what it asked
    waiting.result(timeout=120).close()


def test_what_a_worker_left_open_is_dropped_and_the_others_answers_are_not(here: Here, tiny_model: str) -> None:
    leaving, staying = here.start(tiny_model, ENDLESS), here.start(tiny_model, ENDLESS)
    for seed in range(5):
        leaving.submit(ask(seed))
        staying.submit(ask(seed))
    (engine,) = here.started
    wait_until(lambda: engine.in_flight == 10)
    leaving.close()
    wait_until(lambda: engine.in_flight == 5)
    assert not engine.asleep
    staying.close()
    wait_until(lambda: engine.in_flight == 0 and engine.asleep)


def test_a_worker_drops_single_requests(here: Here, tiny_model: str) -> None:
    worker = here.start(tiny_model, ENDLESS)
    futures = [worker.submit(ask(seed)) for seed in range(4)]
    (engine,) = here.started
    wait_until(lambda: engine.in_flight == 4)
    worker.drop(futures[:3])
    wait_until(lambda: engine.in_flight == 1)
    for future in futures[:3]:
        rejection = future.exception(timeout=120)
        assert isinstance(rejection, RequestRejected)
        assert rejection.reason == "aborted"
    assert not futures[3].done()
    worker.close()


def test_a_reward_model_ends_when_nobody_has_it(here: Here, tiny_model: str) -> None:
    worker = here.start(tiny_model, REWARD)
    assert worker.pool([5, 6]).result(timeout=120).shape == (2, 2)
    worker.close()
    wait_until(lambda: here.started[0].dead)


def test_why_an_engine_cannot_start_is_told_in_its_own_words_and_the_process_is_renewed(
    make: Callable[..., Here], tiny_model: str
) -> None:
    here = make(idle_seconds=3600.0)
    with pytest.raises(EngineStartError, match="device is cuda"):
        here.start(tiny_model, EngineOptions(kind="transformers", device="cuda", dtype="float32"))
    wait_until(lambda: here.ends)
    worker = here.start(tiny_model)
    assert answers(worker, [ask(1)]) == alone(tiny_model, RECORDED, [ask(1)])
    worker.close()


def test_a_failed_start_does_not_disturb_who_has_an_engine(here: Here, tmp_path: Path, tiny_model: str) -> None:
    worker = here.start(tiny_model)
    with pytest.raises(FileNotFoundError):
        connected_start(here, str(tmp_path / "absent"))
    assert answers(worker, [ask(1)]) == alone(tiny_model, RECORDED, [ask(1)])
    worker.close()


def connected_start(here: Here, model: str) -> None:
    """Ask for a model that is not there, past the worker's own look at it."""
    from pipelines.engines.node_wire import Start

    with connected(here.address) as line:
        line.send(Start(model=model, options=RECORDED, share=None))
        raise line.recv().error


def test_nobody_without_the_key_is_served_and_nothing_of_his_is_unpickled(
    here: Here, tiny_model: str, tmp_path: Path
) -> None:
    wrong = Address(path=here.address.path, key="00" * 32)
    with pytest.raises(EngineStartError, match="cannot be reached"):
        start(tiny_model, RECORDED, wrong)
    trace = tmp_path / "trace"
    stranger = socket.socket(socket.AF_UNIX)
    stranger.connect(here.address.path)
    with Connection(stranger.detach()) as line:
        line.recv_bytes()  # the challenge
        with contextlib.suppress(EOFError, OSError):  # he is hung up on, at the latest after the second
            line.send_bytes(pickle.dumps(Bomb(str(trace))))
            line.send_bytes(pickle.dumps(Bomb(str(trace))))
            while True:
                line.recv_bytes()
    assert not trace.exists()
    assert not here.started


class Bomb:
    """Whoever unpickles it makes a folder."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def test_acquire_takes_the_pools_engine_where_a_pool_started_this_process(
    here: Here, tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    release()
    monkeypatch.setenv(VARIABLE, here.address.variable()[VARIABLE])
    try:
        engine = acquire(tiny_model, RECORDED)
        assert acquire(tiny_model, RECORDED) is engine
        assert answers(engine, [ask(1)]) == alone(tiny_model, RECORDED, [ask(1)])
        assert len(here.started) == 1
        acquire(tiny_model, OTHER)
        assert engine.dead, "a worker that waits for another engine holds none"
        assert len(here.started) == 2
    finally:
        release()


def test_a_server_has_a_machine_of_its_own_and_is_asked_directly(
    here: Here, tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    release()
    monkeypatch.setenv(VARIABLE, here.address.variable()[VARIABLE])
    with pytest.raises(EngineStartError, match="No vLLM server answers"):
        acquire(tiny_model, EngineOptions(kind="server", url="http://127.0.0.1:9"))
    assert not here.options
    release()


def test_a_pool_that_is_gone_is_told_in_words(tmp_path: Path, tiny_model: str) -> None:
    path = tmp_path / "0.sock"
    with pytest.raises(EngineStartError, match="worker pool's engines cannot be reached at"):
        start(tiny_model, RECORDED, Address(path=str(path), key="00"))
    assert not path.exists() or not stat.S_ISSOCK(path.stat().st_mode)
