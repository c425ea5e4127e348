"""Beam's Job API: what a job server understands, which jobs it has, waiting for one that another client submitted."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import grpc
from apache_beam.portability.api import beam_job_api_pb2 as api
from apache_beam.runners.portability.portable_runner import (
    TERMINAL_STATES,
    JobServiceHandle,
    PipelineResult,
    PortableRunner,
)

CANCEL_SECONDS = 120
# Workers of this environment are threads of the client: they are gone when it is.
LOOPBACK = "LOOPBACK"


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

    def adopt(self, name: str) -> PipelineResult | None:
        """The live job of this name, to be waited for; None where there is none.

        name: TASK-DATASET (see `stages.parts.job_name`). Live jobs that write the same dataset by another task, or
        whose workers were part of a client, are cancelled first: two writers do no harm, but double the work.
        """
        found = None
        for job in self._live_jobs():
            options = dict(job.pipeline_options)
            theirs = str(options.get("beam:option:job_name:v1", ""))
            if theirs.rpartition("-")[2] != name.rpartition("-")[2]:
                continue
            if theirs != name or found is not None or options.get("beam:option:environment_type:v1") == LOOPBACK:
                self._cancel(job.job_id)
            else:
                found = job.job_id
        return None if found is None else self._result(found)

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
                raise TimeoutError(
                    f"job {job_id} of an earlier client did not end {CANCEL_SECONDS} s after its cancellation"
                )
            time.sleep(0.5)

    def _result(self, job_id: str) -> PipelineResult:
        messages = self.stub.GetMessageStream(api.JobMessagesRequest(job_id=job_id))
        states = self.stub.GetStateStream(api.GetJobStateRequest(job_id=job_id))
        return PipelineResult(self.stub, job_id, messages, states)


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
