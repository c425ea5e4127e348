"""The process that keeps a pool's engines: started when asked for, replaced, ended; whoever is killed."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.engines import Engine, EngineDead, EngineOptions, EngineStartError
from pipelines.engines.errors import ChildrenDied
from pipelines.engines.kept import start
from pipelines.runners.keeping import Address
from tests.pipelines.engines.test_node import alone, answers, ask, plain, poison
from tests.processes import MARK, marked, wait_until

RECORDED = EngineOptions(kind="recorded", recording="synthetic:3", extra={"latency": 0.3})
ENDLESS = EngineOptions(kind="recorded", recording="synthetic:3", extra={"latency": 3600.0})
POOL = """
import json, signal, sys
from dataclasses import asdict
from pipelines.runners.keeping import EngineKeeper, socket_folder
with socket_folder() as folder:
    keeper = EngineKeeper(folder, 0, gpus=None, idle_seconds=float(sys.argv[1]))
    print(json.dumps(asdict(keeper.address)), flush=True)
    signal.pause()
"""
WORKER = """
import signal, sys
from pipelines.engines import EngineOptions, SampleRequest, Sampling, acquire
options = EngineOptions(kind="recorded", recording="synthetic:3", extra={"latency": 3600.0})
engine = acquire(sys.argv[1], options)
futures = [engine.submit(SampleRequest(prompt_token_ids=[5, 6], seed=i, sampling=Sampling())) for i in range(200)]
print("asked", flush=True)
signal.pause()
"""


class Pool:
    """A process that keeps engines as the worker pool does."""

    def __init__(self, log: Path, mark: str, *, idle_seconds: float = 600.0) -> None:
        self.log, self.mark = log, mark
        command = [sys.executable, "-c", POOL, str(idle_seconds)]
        with open(log, "wb") as output:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=output, text=True)
        assert self.process.stdout is not None
        self.address = Address(**json.loads(self.process.stdout.readline()))

    def start(self, model: str, options: EngineOptions = RECORDED) -> Engine:
        return start(model, options, self.address)

    @property
    def hosts(self) -> list[int]:
        return [process.pid for process in marked(self.mark) if "kept_host" in process.command]

    def starts(self) -> int:
        return self.log.read_text().count("started an engine")

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(autouse=True)
def mark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """What the processes of a test are found by; at its end none of them may be left."""
    monkeypatch.setenv(MARK, str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield str(tmp_path)
    wait_until(lambda: not marked(str(tmp_path)))


@pytest.fixture
def pool(mark: str, tmp_path: Path) -> Iterator[Pool]:
    made = Pool(tmp_path / "log", mark)
    yield made
    made.end()


def test_it_is_started_when_asked_for_and_a_kill_of_it_changes_no_answer(pool: Pool, tiny_model: str) -> None:
    assert not pool.hosts
    assert stat.S_IMODE(os.stat(pool.address.path).st_mode) == 0o600
    assert stat.S_IMODE(Path(pool.address.path).parent.stat().st_mode) == 0o700
    first, second = pool.start(tiny_model), pool.start(tiny_model)
    requests = [ask(seed) for seed in range(20)]
    expected = alone(tiny_model, RECORDED, requests)
    (killed,) = pool.hosts
    futures = [(first.submit(request), second.submit(request)) for request in requests[:10]]
    futures[0][0].result(timeout=120)
    futures += [(first.submit(request), second.submit(request)) for request in requests[10:]]  # open for 0.3 s
    os.kill(killed, signal.SIGKILL)
    assert [(plain(a.result(timeout=120)), plain(b.result(timeout=120))) for a, b in futures] == [
        (one, one) for one in expected
    ]
    wait_until(lambda: killed not in pool.hosts)
    # Whoever had all answers before the kill notices it when it asks again.
    assert [answers(one, requests[:1]) for one in (first, second)] == [expected[:1]] * 2
    assert len(pool.hosts) == 1
    first.close()
    second.close()
    third = pool.start(tiny_model)
    assert answers(third, requests) == expected
    third.close()
    assert pool.starts() == 2, "one of each process, for five engines that were asked for"


def test_a_worker_killed_with_sigkill_leaves_the_engine_to_the_next_and_its_requests_to_nobody(
    pool: Pool, tiny_model: str
) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, tiny_model], env=os.environ | pool.address.variable(), stdout=subprocess.PIPE
    )
    try:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"asked\n"
    finally:
        worker.kill()
        worker.wait()
    # Another engine needs the device; it would wait an hour for what the dead one asked.
    (host,) = pool.hosts
    engine = pool.start(tiny_model)
    assert answers(engine, [ask(1)]) == alone(tiny_model, RECORDED, [ask(1)])
    engine.close()
    assert pool.hosts == [host]


def test_a_killed_pool_takes_its_engines_along(pool: Pool, mark: str, tiny_model: str) -> None:
    engine = pool.start(tiny_model, ENDLESS)
    future = engine.submit(ask(1))
    assert pool.hosts
    pool.end()
    wait_until(lambda: not marked(mark))
    error = future.exception(timeout=120)
    assert isinstance(error, EngineDead)
    assert "worker pool's engines cannot be reached" in str(error)
    engine.close()


def test_an_idle_process_ends_and_the_next_worker_gets_another(mark: str, tmp_path: Path, tiny_model: str) -> None:
    pool = Pool(tmp_path / "log", mark, idle_seconds=1.0)
    try:
        pool.start(tiny_model).close()
        wait_until(lambda: not pool.hosts)
        engine = pool.start(tiny_model)
        assert answers(engine, [ask(1)]) == alone(tiny_model, RECORDED, [ask(1)])
        engine.close()
        assert pool.starts() == 2
    finally:
        pool.end()


def test_a_request_that_kills_whoever_computes_it_ends_with_the_name_of_the_machine(
    pool: Pool, tiny_model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pool.end()
    poison(monkeypatch, tmp_path, "pipelines.engines.recorded", "synthetic_sample", when="request.seed == 666")
    pool = Pool(tmp_path / "log2", pool.mark)
    try:
        engine = pool.start(tiny_model)
        error = engine.submit(ask(666)).exception(timeout=240)
        assert isinstance(error, EngineDead)
        assert isinstance(error.__cause__, ChildrenDied)
        for words in ("3 processes that kept an engine died", "while the same request was open", os.uname().nodename):
            assert words in str(error)
        engine.close()
    finally:
        pool.end()


def test_a_process_that_cannot_begin_is_tried_three_times(
    mark: str, tmp_path: Path, tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = 'import sys\nif "kept_host" in " ".join(sys.orig_argv):\n    sys.exit("no such library")\n'
    (tmp_path / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    pool = Pool(tmp_path / "log", mark)
    try:
        with pytest.raises(EngineStartError, match=r"3 processes of the worker pool .* died before"):
            pool.start(tiny_model)
        assert "no such library" in pool.log.read_text()
    finally:
        pool.end()
