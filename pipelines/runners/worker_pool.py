"""Starts SDK workers on this machine when a runner asks for them: the EXTERNAL environment.

    python -m pipelines.runners.worker_pool --port 50000 --gpus 0 1 2 3

With --gpus each worker sees one of these (CUDA_VISIBLE_DEVICES; "0,1" "2,3" gives each two, for tensor parallel
engines): the one that the fewest live workers see.

Engines outlive the workers, which end with their job: see `keeping`. With --keep-engines 0 each worker has its own.

Instead of Beam's own pool (2.77), which listens on all interfaces, takes whatever `python` is first on PATH, lets a
worker block on a full pipe of standard output that nobody reads, and leaves its workers behind when it is killed.
It has no authentication either: whoever reaches the port can start workers. Keep it on localhost or behind a fence.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc

import pipelines.runners.quiet  # noqa: F401 - Beam's first import, without its warnings
from pipelines.runners.keeping import Address, EngineKeeper, KeepingError, socket_folder

STOP_SECONDS = 10
KEEP_SECONDS = 600.0  # of a round, the update is what takes so long without a worker


@dataclass(frozen=True)
class Worker:
    """A started worker. gpus: its CUDA_VISIBLE_DEVICES; None = the pool's own."""

    process: subprocess.Popen[bytes]
    gpus: str | None

    def sees(self, gpus: str) -> bool:
        """Whether it is alive and was given these."""
        return self.gpus == gpus and self.process.poll() is None


class WorkerPool(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
    """Beam's worker pool service: one process a worker.

    gpus: groups to deal out. engines: where the workers of each find kept engines; of all, where there are no groups.
    """

    def __init__(self, gpus: Sequence[str] = (), engines: Mapping[str | None, Address] | None = None) -> None:
        self._gpus = tuple(gpus)
        self._engines = dict(engines or {})
        self._workers: dict[str, Worker] = {}
        self._lock = threading.Lock()

    def StartWorker(self, request: Any, context: Any) -> Any:  # noqa: ARG002 - gRPC's signature
        """Start one worker process. An error is returned to the runner, not raised."""
        command = [
            *(sys.executable, "-m", "pipelines.runners.worker", f"--id={request.worker_id}"),
            f"--provision_endpoint={request.provision_endpoint.url}",
        ]
        with self._lock:
            gpus = self._least_seen()
            environment = os.environ | ({} if gpus is None else {"CUDA_VISIBLE_DEVICES": gpus})
            if gpus in self._engines:
                environment |= self._engines[gpus].variable()
            try:
                # Standard input stays open as long as this process lives: the worker ends with it.
                process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
            except OSError:
                return beam_fn_api_pb2.StartWorkerResponse(error=traceback.format_exc())
            self._workers[request.worker_id] = Worker(process, gpus)
        return beam_fn_api_pb2.StartWorkerResponse()

    def StopWorker(self, request: Any, context: Any) -> Any:  # noqa: ARG002
        """End one worker process; unknown ones are gone already."""
        with self._lock:
            worker = self._workers.pop(request.worker_id, None)
        if worker is not None:
            worker.process.terminate()
            try:
                worker.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
        return beam_fn_api_pb2.StopWorkerResponse()

    def _least_seen(self) -> str | None:
        workers = self._workers.values()
        return min(self._gpus, key=lambda gpus: sum(worker.sees(gpus) for worker in workers), default=None)


def serve(
    host: str, port: int, *, gpus: Sequence[str] = (), engines: Mapping[str | None, Address] | None = None
) -> tuple[grpc.Server, int]:
    """Start the service; the port it listens on, which is any free one for port 0. Raises RuntimeError if taken."""
    server = grpc.server(ThreadPoolExecutor(), options=[("grpc.so_reuseport", 0)])
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(WorkerPool(gpus, engines), server)
    port = server.add_insecure_port(f"{host}:{port}")
    server.start()
    return server, port


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description="A pool of SDK workers for --environment_type=EXTERNAL.")
    parser.add_argument("--host", default="localhost", help="address to listen on (default localhost)")
    parser.add_argument("--port", type=int, default=50000, help="port to listen on; 0: any free one (default 50000)")
    parser.add_argument("--gpus", nargs="+", default=(), help="CUDA_VISIBLE_DEVICES of each worker, dealt out in turn")
    parser.add_argument(
        "--keep-engines",
        type=float,
        default=KEEP_SECONDS,
        metavar="SECONDS",
        help="how long engines are kept without a worker; 0: each ends with its worker (default %(default).0f)",
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that what is below is left in order
    with contextlib.ExitStack() as stack:
        engines: dict[str | None, Address] = {}
        if options.keep_engines > 0:
            try:
                folder = stack.enter_context(socket_folder())
            except KeepingError as error:
                parser.error(str(error))
            for number, gpus in enumerate(dict.fromkeys(options.gpus or [None])):
                keeper = EngineKeeper(folder, number, gpus=gpus, idle_seconds=options.keep_engines)
                engines[gpus] = keeper.address
        server, port = serve(options.host, options.port, gpus=options.gpus, engines=engines)
        print(f"worker pool on {options.host}:{port}", flush=True)
        server.wait_for_termination()


if __name__ == "__main__":
    main()
