"""The driver thread, with a backend of a few lines: every future is answered, whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
import pytest

from pipelines.engines import EngineDead, RequestRejected, Sample, SampleRequest, Sampling, WeightsMismatchError
from pipelines.engines.driver import Answer, DrivenEngine, ScoreRequest


class Echo:
    """Answers a request with its seed as the one token, when `gate` is open. Seed 13 is unlucky, 666 is fatal."""

    tokenizer = None
    max_model_len = 10
    vocab_size = 100

    pools = False

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.waiting: list[tuple[int, SampleRequest | ScoreRequest]] = []
        self.weights = "first"
        self.closed_on: list[str] = []

    def add(self, key: int, request: SampleRequest | ScoreRequest) -> None:
        if isinstance(request, SampleRequest) and request.seed == 13:
            raise RequestRejected("unlucky", "seed 13")
        self.waiting.append((key, request))

    def step(self) -> list[tuple[int, Answer]]:
        self.entered.set()
        self.gate.wait()
        if any(isinstance(r, SampleRequest) and r.seed == 666 for _, r in self.waiting):
            raise MemoryError("no room")
        answers = [(key, self.answer(request)) for key, request in self.waiting]
        self.waiting.clear()
        return answers

    def answer(self, request: SampleRequest | ScoreRequest) -> Answer:
        if isinstance(request, ScoreRequest):
            return np.zeros(len(request.token_ids) - request.start, dtype=np.float32)
        token_ids = np.array([request.seed], dtype=np.int32)
        return Sample(token_ids=token_ids, logprobs=np.zeros(1, np.float32), finish_reason="stop", text=self.weights)

    def drop(self, keys: Collection[int]) -> None:
        self.waiting = [work for work in self.waiting if work[0] not in keys]

    def load_weights(self, model: str) -> None:
        if model.endswith("torn"):
            raise OSError("disk gone")
        self.weights = "second"

    def close(self) -> None:
        self.closed_on.append(threading.current_thread().name)


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def engine(echo: Echo, tiny_model: str) -> Iterator[DrivenEngine]:
    engine = DrivenEngine(lambda: echo, model=tiny_model, name="echo")
    yield engine
    echo.gate.set()
    engine.close()


def ask(seed: int, prompt: tuple[int, ...] = (1, 2)) -> SampleRequest:
    return SampleRequest(prompt_token_ids=prompt, seed=seed, sampling=Sampling())


def test_a_rejected_request_leaves_its_neighbours_alone(engine: DrivenEngine) -> None:
    before, unlucky, after = [engine.submit(ask(seed)) for seed in (1, 13, 2)]
    assert before.result(timeout=120).token_ids.tolist() == [1]
    assert isinstance(unlucky.exception(timeout=120), RequestRejected)
    assert after.result(timeout=120).token_ids.tolist() == [2]


def test_what_is_in_flight_is_counted_until_it_is_answered(engine: DrivenEngine, echo: Echo) -> None:
    echo.gate.clear()
    first = engine.submit(ask(1))
    assert echo.entered.wait(120)
    behind = [engine.submit(ask(seed)) for seed in (2, 3)]  # these wait until the step is over
    assert engine.in_flight == 3
    echo.gate.set()
    for future in (first, *behind):
        future.result(timeout=120)
    assert engine.in_flight == 0


def test_a_failing_backend_answers_every_future_and_closes(engine: DrivenEngine, echo: Echo) -> None:
    echo.gate.clear()
    futures = [engine.submit(ask(1))]
    assert echo.entered.wait(120)
    futures += [engine.submit(ask(seed)) for seed in (2, 666, 3)]
    first_step_ends_then_the_fatal_one_begins = futures[0]
    echo.gate.set()
    assert first_step_ends_then_the_fatal_one_begins.result(timeout=120).token_ids.tolist() == [1]
    for future in futures[1:]:
        error = future.exception(timeout=120)
        assert isinstance(error, EngineDead)
        assert "MemoryError: no room" in str(error)
        assert isinstance(error.__cause__, MemoryError)
    late = engine.submit(ask(4))
    assert isinstance(late.exception(timeout=120), EngineDead)
    assert engine.dead
    engine.close()
    assert echo.closed_on == ["engine-echo"]


def test_what_arrives_during_the_fatal_step_is_answered_too(engine: DrivenEngine, echo: Echo) -> None:
    echo.gate.clear()
    fatal = engine.submit(ask(666))
    assert echo.entered.wait(120)
    behind = engine.submit(ask(1))
    echo.gate.set()
    assert isinstance(fatal.exception(timeout=120), EngineDead)
    assert isinstance(behind.exception(timeout=120), EngineDead)


def test_closing_answers_what_is_in_flight_and_what_waits(engine: DrivenEngine, echo: Echo) -> None:
    echo.gate.clear()
    futures = [engine.submit(ask(seed)) for seed in range(5)]
    assert echo.entered.wait(120)
    futures += [engine.submit(ask(seed)) for seed in range(5)]
    closer = threading.Thread(target=engine.close)
    closer.start()
    assert engine._closing.wait(120)
    echo.gate.set()
    closer.join(120)
    assert not closer.is_alive()
    outcomes = [future.exception(timeout=120) for future in futures]
    assert all(outcome is None or isinstance(outcome, EngineDead) for outcome in outcomes)
    assert isinstance(outcomes[-1], EngineDead)
    assert echo.closed_on == ["engine-echo"]
    assert "engine-echo" not in [thread.name for thread in threading.enumerate()]


def test_weights_are_replaced_between_what_came_before_and_after(
    engine: DrivenEngine, echo: Echo, tiny_model_updated: str
) -> None:
    echo.gate.clear()
    before = engine.submit(ask(1))
    assert echo.entered.wait(120)
    loader = threading.Thread(target=engine.load_weights, args=(tiny_model_updated,))
    loader.start()
    echo.gate.set()
    loader.join(120)
    assert before.result(timeout=120).text == "first"
    assert engine.submit(ask(1)).result(timeout=120).text == "second"


def test_a_folder_that_does_not_fit_is_refused_and_harms_nothing(
    engine: DrivenEngine, tiny_model_factory: Callable[..., str]
) -> None:
    with pytest.raises(WeightsMismatchError, match="vocab_size"):
        engine.load_weights(tiny_model_factory(seed=1, characters="abc"))
    assert engine.submit(ask(1)).result(timeout=120).text == "first"


def test_a_torn_load_ends_the_engine(engine: DrivenEngine, tiny_model: str, tmp_path: Any) -> None:
    torn = tmp_path / "torn"
    torn.symlink_to(tiny_model)
    with pytest.raises(OSError, match="disk gone"):
        engine.load_weights(str(torn))
    assert isinstance(engine.submit(ask(1)).exception(timeout=120), EngineDead)


def test_a_cancelled_request_is_dropped(engine: DrivenEngine, echo: Echo) -> None:
    echo.gate.clear()
    first = engine.submit(ask(1))
    assert echo.entered.wait(120)
    dropped, kept = engine.submit(ask(2)), engine.submit(ask(3))
    assert dropped.cancel()
    echo.gate.set()
    assert first.result(timeout=120).token_ids.tolist() == [1]
    assert kept.result(timeout=120).token_ids.tolist() == [3]


def test_dropped_requests_reach_nobody_and_the_others_are_answered(engine: DrivenEngine, echo: Echo) -> None:
    answered = engine.submit(ask(0))
    assert answered.result(timeout=120)
    backend, unanswered = echo.step, threading.Event()
    echo.step = lambda: backend() if unanswered.is_set() else []  # type: ignore[method-assign]
    begun = [engine.submit(ask(seed)) for seed in (1, 2, 3)]
    while len(echo.waiting) < 3:
        time.sleep(0.001)
    engine.drop([answered, *begun[:2]])
    for future in begun[:2]:
        rejection = future.exception(timeout=120)
        assert isinstance(rejection, RequestRejected)
        assert rejection.reason == "aborted"
    assert [request.seed for _, request in echo.waiting] == [3]
    unanswered.set()
    assert begun[2].result(timeout=120).token_ids.tolist() == [3]
    assert answered.result().token_ids.tolist() == [0]


def test_an_order_does_not_wait_for_what_is_dropped(engine: DrivenEngine, echo: Echo, tiny_model_updated: str) -> None:
    echo.step = list  # type: ignore[method-assign]
    future = engine.submit(ask(1))
    loading = threading.Thread(target=engine.load_weights, args=(tiny_model_updated,))
    loading.start()
    engine.drop([future])
    loading.join(120)
    assert not loading.is_alive()
    assert echo.weights == "second"


def test_a_callback_may_submit_and_close(engine: DrivenEngine) -> None:
    followed: list[Any] = []
    done = threading.Event()

    def follow(_: Any) -> None:
        followed.append(engine.submit(ask(2)))
        done.set()

    engine.submit(ask(1)).add_done_callback(follow)
    assert done.wait(120)
    assert followed[0].result(timeout=120).token_ids.tolist() == [2]
    engine.submit(ask(3)).add_done_callback(lambda _: engine.close())
    engine.close()
    assert engine.dead


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [((), "empty_prompt"), ((1,) * 10, "prompt_too_long"), ((1, 100), "bad_token_ids"), ((-1, 1), "bad_token_ids")],
)
def test_prompts_are_checked_before_they_reach_the_backend(
    engine: DrivenEngine, prompt: tuple[int, ...], reason: str
) -> None:
    error = engine.submit(ask(1, prompt)).exception(timeout=120)
    assert isinstance(error, RequestRejected)
    assert error.reason == reason


@pytest.mark.parametrize(("start", "reason"), [(0, "bad_start"), (4, "bad_start")])
def test_a_score_begins_inside_its_tokens(engine: DrivenEngine, start: int, reason: str) -> None:
    error = engine.score([1, 2, 3], start=start).exception(timeout=120)
    assert isinstance(error, RequestRejected)
    assert error.reason == reason
    assert engine.score([1] * 10, start=10).result(timeout=120).tolist() == []
    assert isinstance(engine.score([1] * 11, start=1).exception(timeout=120), RequestRejected)


def test_an_error_at_start_is_the_constructors(tiny_model: str) -> None:
    def start() -> Echo:
        raise OSError("no model")

    with pytest.raises(OSError, match="no model"):
        DrivenEngine(start, model=tiny_model, name="broken")
    assert "engine-broken" not in [thread.name for thread in threading.enumerate()]


def test_an_interrupt_while_the_engine_starts_does_not_wait_for_it_and_it_ends_by_itself(tiny_model: str) -> None:
    go_on = threading.Event()

    def start() -> Echo:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        go_on.wait(120)
        return Echo()

    with pytest.raises(KeyboardInterrupt):
        DrivenEngine(start, model=tiny_model, name="interrupted")
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "engine-interrupted"]
    go_on.set()
    thread.join(120)
    assert not thread.is_alive()


def test_a_forked_child_gets_an_error_and_never_waits(engine: DrivenEngine) -> None:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        error = engine.submit(ask(1)).exception(timeout=120)
        engine.close()
        os.write(write, type(error).__name__.encode())
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(read, 100) == b"EngineDead"
    assert engine.submit(ask(1)).result(timeout=120).text == "first"


def test_a_process_that_just_ends_is_not_held_up(tiny_model: str) -> None:
    script = f"""
from pipelines.engines import EngineOptions, SampleRequest, Sampling, acquire
engine = acquire({tiny_model!r}, EngineOptions(kind="recorded", extra={{"latency": 3600.0}}))
engine.submit(SampleRequest(prompt_token_ids=[1], seed=1, sampling=Sampling()))
print("end")
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout) == (0, "end\n")
