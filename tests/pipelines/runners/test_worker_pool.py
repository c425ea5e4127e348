"""The worker pool as a process of its own: it starts workers, ends them, and takes them along when it is killed."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc

from pipelines.runners.keeping import VARIABLE, Address

NOWHERE = "localhost:1"  # the worker waits for this provision service as long as it lives


class Pool:
    """A pool process and its service."""

    def __init__(self, *options: str) -> None:
        command = [sys.executable, "-m", "pipelines.runners.worker_pool", "--port=0", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        told = self.process.stdout.readline()
        assert told.startswith("worker pool on localhost:")
        address = told.removeprefix("worker pool on ").strip()
        assert not address.endswith(":0"), "it tells the port that it was given"
        self.stub = beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolStub(grpc.insecure_channel(address))

    def start_worker(self, worker_id: str = "1-1") -> int:
        """Start a worker; its process id."""
        before = self._children()
        request = beam_fn_api_pb2.StartWorkerRequest(worker_id=worker_id)
        request.provision_endpoint.url = NOWHERE
        assert self.stub.StartWorker(request, wait_for_ready=True).error == ""
        (worker,) = self._children() - before
        return worker

    def _children(self) -> set[int]:
        found: set[int] = set()
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            with suppress(OSError):  # a thread that ended meanwhile; its children are another's by now
                found |= {int(child) for child in (task / "children").read_text().split()}
        return found


@pytest.fixture
def pool() -> Iterator[Pool]:
    made = Pool()
    yield made
    made.process.kill()
    made.process.wait()


def is_alive(pid: int) -> bool:
    with suppress(OSError):  # ProcessLookupError where it goes between the opening and the reading
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def gone(pid: int) -> bool:
    """Whether a process is gone within five minutes; one that begins notices only once it has begun."""
    return any(not is_alive(pid) or time.sleep(0.1) for _ in range(3000))


def test_each_worker_sees_the_gpus_that_the_fewest_others_see():
    pool = Pool("--gpus", "0,1", "2,3")
    try:
        seen = [gpus_of(pool.start_worker(f"1-{i}")) for i in range(3)]
        pool.stub.StopWorker(beam_fn_api_pb2.StopWorkerRequest(worker_id="1-1"))
        seen.append(gpus_of(pool.start_worker("1-4")))
    finally:
        pool.process.kill()
        pool.process.wait()
    assert seen == ["0,1", "2,3", "0,1", "2,3"]


def gpus_of(pid: int) -> str:
    return environment_of(pid)["CUDA_VISIBLE_DEVICES"]


def environment_of(pid: int) -> dict[str, str]:
    """That of a process that was just started."""
    environment = Path(f"/proc/{pid}/environ")
    while not (entries := environment.read_text().split("\0"))[0]:  # empty for a moment while it begins
        time.sleep(0.01)
    return dict(entry.partition("=")[::2] for entry in entries)


def test_workers_on_the_same_gpus_are_told_of_the_same_kept_engines_and_nobody_else(pool: Pool) -> None:
    with_groups = Pool("--gpus", "0", "1")
    try:
        first, other, again = (environment_of(with_groups.start_worker(f"1-{i}")) for i in range(3))
        assert first[VARIABLE] == again[VARIABLE] != other[VARIABLE]
        address = Address.found(environment_of(pool.start_worker()))
        assert address is not None
        assert address.key not in first[VARIABLE]
        assert stat.S_ISSOCK(os.stat(address.path).st_mode)
        pool.process.terminate()
        pool.process.wait()
        assert not Path(address.path).parent.exists(), "it is left in order"
    finally:
        with_groups.process.kill()
        with_groups.process.wait()


def test_a_pool_that_keeps_no_engines_says_so_by_nothing() -> None:
    pool = Pool("--keep-engines", "0")
    try:
        assert VARIABLE not in environment_of(pool.start_worker())
    finally:
        pool.process.kill()
        pool.process.wait()


def test_a_stopped_worker_is_gone(pool):
    worker = pool.start_worker()
    assert is_alive(worker)
    pool.stub.StopWorker(beam_fn_api_pb2.StopWorkerRequest(worker_id="1-1"))
    assert gone(worker)


def test_stopping_a_worker_that_is_not_there_is_no_error(pool):
    answer = pool.stub.StopWorker(beam_fn_api_pb2.StopWorkerRequest(worker_id="9-9"), wait_for_ready=True)
    assert answer.error == ""


def test_a_killed_pool_takes_its_workers_along(pool):
    worker = pool.start_worker()
    pool.process.kill()
    assert gone(worker)
