"""`flink`: a Flink cluster, through Beam's job server.

    --job_endpoint=HOST:PORT                            a job server that is up (what deploy/flink starts)
    --flink_master=HOST:PORT --flink_job_server_jar=JAR     the official jar; this process starts it
    --flink_master=HOST:PORT --flink_submit_uber_jar        no job server: one jar with the job, through Flink's REST

and further options of Beam's Flink runner (--parallelism, --max_parallelism, --execution_mode_for_batch, ...; the job
server is asked which there are). Where workers run: --environment_type LOOPBACK (in this process; the default where
the cluster is this machine), EXTERNAL with --environment_config=HOST:PORT of a worker pool, PROCESS with
--environment_config='{"command": "passrl-worker"}', or DOCKER. docs/how-to/flink.md has versions and commands.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.runners.base import Launch, RunnerFlagError
from pipelines.runners.portable import ConnectedRunner, JobServer, connect, flag_value

_LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[local]", "[auto]"})
CONNECT_SECONDS = 30.0
# Between two stages of a batch job no task is there; without this every worker would be ended and started again. Short,
# because a worker that lingers after its job keeps its engine, and with it the GPU, from the next job's.
KEEP_WORKERS_MS = 5000
# A TaskManager may keep a dead worker's connection for the rest of a job and fail every restart on it (Beam 2.62; seen
# in `make faults`). A worker this old gets no further bundle; the one it has, a stage's whole share of a batch job, it
# finishes.
RETIRE_WORKERS_MS = 20_000


def launch(flags: Sequence[str]) -> Launch:
    """Connect to the job server or start one. Raises RunnerFlagError where no cluster or no environment is named."""
    endpoint, master = flag_value(flags, "job_endpoint"), flag_value(flags, "flink_master")
    place = endpoint or master
    if place is None:
        raise RunnerFlagError(
            "runner flink needs to know its cluster. After -- give --job_endpoint=HOST:PORT of a Beam job server, or "
            "--flink_master=HOST:PORT with --flink_job_server_jar=JAR or --flink_submit_uber_jar."
        )
    if flag_value(flags, "environment_type") is None:
        if _host(place) not in _LOCAL_HOSTS:
            raise RunnerFlagError(
                f"{place} is another machine, so where its workers run must be said: --environment_type=EXTERNAL "
                "(worker pools), PROCESS or DOCKER, each with --environment_config."
            )
        flags = [*flags, "--environment_type=LOOPBACK"]
    defaults = {"environment_cache_millis": KEEP_WORKERS_MS, "environment_expiration_millis": RETIRE_WORKERS_MS}
    flags = [*flags, *(f"--{name}={value}" for name, value in defaults.items() if flag_value(flags, name) is None)]
    server = _connected(endpoint, flags) if endpoint else _started(flags)
    return Launch(runner=ConnectedRunner(server), flags=tuple(flags), known=server.known_flags(), server=server)


def _host(place: str) -> str:
    """HOST of [http://]HOST[:PORT].

    >>> _host("http://flink-rest:8081"), _host("localhost:1"), _host("[local]")
    ('flink-rest', 'localhost', '[local]')
    """
    bare = place.rsplit("://", maxsplit=1)[-1]
    return bare if bare.startswith("[") else bare.split(":")[0]


def _connected(endpoint: str, flags: Sequence[str]) -> JobServer:
    timeout = float(flag_value(flags, "job_server_timeout") or CONNECT_SECONDS)
    try:
        return connect(endpoint, timeout)
    except TimeoutError as error:
        raise RunnerFlagError(f"{error}. Is the cluster up? `make flink-up` starts one on this machine.") from error


def _started(flags: Sequence[str]) -> JobServer:
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.portability.flink_runner import FlinkRunner

    return JobServer(FlinkRunner().default_job_server(PipelineOptions(list(flags))).start(), endpoint=None)
