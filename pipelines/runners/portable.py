"""Beam's Job API: what a job server understands, which jobs it has, ending those of an earlier client."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import grpc
from apache_beam.portability.api import beam_job_api_pb2 as api
from apache_beam.runners.portability.portable_runner import (
    TERMINAL_STATES,
    JobServiceHandle,
    PortableRunner,
)

CANCEL_SECONDS = 60
_LOG = logging.getLogger(__name__)


class JobServer:
    """A job server that answers, as a gRPC stub or in this process."""

    def __init__(self, stub: Any, *, endpoint: str | None) -> None:
        self.stub = stub
        self.endpoint = endpoint

    def known_flags(self) -> frozenset[str] | None:
        """The options of the runner behind it, as flags; None where it does not tell (the uber-jar one)."""
        try:
            described = self.stub.DescribePipelineOptions(api.DescribePipelineOptionsRequest()).options
        except NotImplementedError:
            return None
        return frozenset(f"--{option.name}" for option in described)

    def cancel_live(self, name: str) -> None:
        """End the live jobs of the folder that the job `name` writes, and wait until they have ended.

        name: ...-FOLDER (see `stages.parts.job_name`). Two writers of a dataset do no harm, but pay for parts twice.
        """
        folder = name.rpartition("-")[2]
        for job in self._live_jobs():
            theirs = str(dict(job.pipeline_options).get("beam:option:job_name:v1", ""))
            if theirs.rpartition("-")[2] == folder:
                _LOG.warning("job %s of an earlier command is cancelled; what it committed stays", job.job_id)
                self._cancel(job.job_id)

    def _live_jobs(self) -> list[Any]:
        try:
            jobs = self.stub.GetJobs(api.GetJobsRequest()).job_info
        except NotImplementedError:  # the uber-jar server lives in this process and starts without jobs
            return []
        return [job for job in jobs if job.state not in TERMINAL_STATES]

    def _cancel(self, job_id: str) -> None:
        self.stub.Cancel(api.CancelJobRequest(job_id=job_id))
        until = time.monotonic() + CANCEL_SECONDS
        while self.stub.GetState(api.GetJobStateRequest(job_id=job_id)).state not in TERMINAL_STATES:
            if time.monotonic() > until:
                # A job that failed while its client was dead stays "running" for Beam's job server (2.62): telling that
                # client raises, and the state is never set.
                _LOG.warning("job %s has not ended after %d s; going on beside it", job_id, CANCEL_SECONDS)
                return
            time.sleep(0.5)


class ConnectedRunner(PortableRunner):
    """Beam's portable runner over a job server that is up already."""

    def __init__(self, server: JobServer) -> None:
        super().__init__()
        self._server = server

    def create_job_service(self, options: Any) -> JobServiceHandle:
        """Beam asks here for the place to submit to. Flags the server does not describe travel with the job."""
        return JobServiceHandle(self._server.stub, options, retain_unknown_options=self._server.endpoint is None)


def connect(endpoint: str, timeout: float) -> JobServer:
    """The job server at HOST:PORT. Raises TimeoutError where nothing answers."""
    from apache_beam.portability.api import beam_job_api_pb2_grpc

    channel = grpc.insecure_channel(endpoint)
    try:
        grpc.channel_ready_future(channel).result(timeout=timeout)
    except grpc.FutureTimeoutError as error:
        channel.close()
        raise TimeoutError(f"no job server answered at {endpoint} within {timeout:.0f} s") from error
    return JobServer(beam_job_api_pb2_grpc.JobServiceStub(channel), endpoint=endpoint)


def flag_value(flags: Sequence[str], name: str) -> str | None:
    """The value of a flag given as --name=value or --name value; the last one counts.

    >>> flag_value(["--job_endpoint=a:1", "--parallelism", "4"], "parallelism")
    '4'
    """
    value = None
    for index, flag in enumerate(flags):
        given, separator, text = flag.partition("=")
        if given == f"--{name}":
            value = text if separator else (flags[index + 1] if index + 1 < len(flags) else None)
    return value
