"""Start one Beam job on the runner that the options name, and wait for it."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pass_ops.errors import PassError
from pass_ops.support.nearest import advice
from pipelines.options import Flags, options, resolved_flags
from pipelines.runners.gpus import Gpus

if TYPE_CHECKING:
    from pipelines.runners.portable import JobServer
    from pipelines.runners.quiet import beam

# Runner name -> the module whose `launch(flags)` returns a Launch.
RUNNERS = {
    "dataflow": "pipelines.runners.dataflow",
    "direct": "pipelines.runners.direct",
    "flink": "pipelines.runners.flink",
    "prism": "pipelines.runners.prism",
}
# Flags of Beam that passrl sets itself, and why.
_OWN_FLAGS = {
    "--runner": "the runner is chosen by passrl's own --runner, before the lone --",
    "--job_name": "passrl names its jobs after the dataset they write, so that a rerun finds the live one",
}

_END_WITH_THE_CLIENT = frozenset({"direct", "prism"})


class RunnerFlagError(PassError, ValueError):
    """A runner's name, or a flag or resource hint meant for it, is unknown."""


class JobFailed(PassError, RuntimeError):
    """A Beam job ended without doing its work: a worker raised or died.

    error: what Beam raised (the worker's own exception only where the worker is this process). log: the runner's words.
    """

    def __init__(self, message: str, *, error: Exception | None = None, log: str = "") -> None:
        super().__init__(message)
        self.error = error
        self.log = log


class JobSubmitted(PassError):
    """Not a failure: the job runs on by itself, because runner.wait is false."""


@options(RunnerFlagError)
class RunnerOptions:
    """Where Beam jobs run. Nothing here changes a byte of what they make."""

    name: Literal["dataflow", "direct", "flink", "prism"] = "direct"
    """The Beam runner. direct is Beam's FnApiRunner in this process; the others start a job elsewhere."""
    wait: bool = True
    """Whether the command waits for the job. false submits one stage's job, which then finalizes its dataset itself;
    only for runners whose jobs outlive the command (flink, dataflow)."""
    flags: Flags = ()
    """Flags handed to the Beam runner unchanged, as after a lone -- on the command line; a secret as env:NAME. Example:
    ["--direct_running_mode=multi_processing", "--direct_num_workers=4"]."""
    resources: Mapping[Literal["accelerator", "cpu_count", "min_ram"], str] = field(default_factory=dict)
    """Beam resource hints for the workers of stages that run a model. Example: { accelerator =
    "type:nvidia-l4;count:1", min_ram = "24GB" }."""

    gpus: Gpus | None = None
    """Runs one engine per GPU of this machine, each in a process of its own, and the update by torchrun on all of them;
    runner direct only. "all" or a list of GPUs: each engine takes as many as its tensor_parallel_size says; a list of
    lists says which belong together. "cpu" stands for an even share of the cores (default: one engine, in this
    process). Example: [[0, 1], [2, 3]]."""

    def __post_init__(self) -> None:
        if self.gpus is not None and self.name != "direct":
            raise RunnerFlagError(
                f"gpus is set, but runner {self.name} has workers of its own, each with one engine; use runner direct, "
                "or leave gpus out and give every worker its GPU (docs/how-to)"
            )
        if self.gpus is not None and any("multi_processing" in flag for flag in self.flags):
            raise RunnerFlagError(
                "gpus is set, and so is direct_running_mode multi_processing: every worker would start all the engines "
                "again; leave the flag out, the engines are processes anyway"
            )
        if not self.wait and self.name in _END_WITH_THE_CLIENT:
            raise RunnerFlagError(f"wait is false, but a job on runner {self.name} ends with the command")


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A Beam runner that is ready for one job.

    flags: those given, and what the runner's module adds. known: flags that this runner understands beyond Beam's own
    ones; None = it does not tell. server: where jobs outlive the client, the server that has them.
    """

    runner: Any
    flags: tuple[str, ...]
    known: frozenset[str] | None = frozenset()
    server: JobServer | None = None


def run_job(
    construct: Callable[[beam.Pipeline], Any],
    options: RunnerOptions,
    *,
    name: str = "passrl",
    submitted: Callable[[Mapping[str, Any]], None] | None = None,
) -> None:
    """Build one pipeline with `construct`, run it, wait for its end.

    name: of the job; a live one that writes the same folder is ended first, see `JobServer.cancel_live`. submitted:
    where the job lives on a server, told its name, its id and the server's endpoint. An interrupt (Ctrl-C) cancels such
    a job; a client that is killed leaves it running.

    Raises RunnerFlagError before anything runs where a flag is unknown, JobSubmitted where it is not to be waited for,
    KeyboardInterrupt where the job was interrupted, and JobFailed where it did not end well.
    """
    launch: Launch = importlib.import_module(RUNNERS[options.name]).launch(resolved_flags(options.flags))
    _check_flags(options.flags, launch.known)
    result = None
    try:
        if launch.server is not None:
            launch.server.cancel_live(name)
        result = _pipeline(construct, launch, name).run()
        if submitted is not None and launch.server is not None:
            submitted({"name": name, "id": result._job_id, "endpoint": launch.server.endpoint})
        if not options.wait:
            raise JobSubmitted(f"job {name} is submitted to runner {options.name} and runs on by itself")
        state = result.wait_until_finish()
    except KeyboardInterrupt:
        if result is not None and launch.server is not None:
            result.cancel()
        raise
    except JobSubmitted:
        raise
    except Exception as error:
        log = re.sub(r" \[while running '[^']*'\]", "", str(error))
        # Beam re-raises what a worker raised as another type with the step's name behind it; only the text is kept.
        if isinstance(error, RuntimeError) and log.startswith("KeyboardInterrupt"):
            raise KeyboardInterrupt from error
        raise JobFailed(
            f"the Beam job failed on runner {options.name}: {_last_line(log)}", error=error, log=log
        ) from error
    if state not in ("DONE", None):
        raise JobFailed(f"the Beam job ended in state {state} on runner {options.name}; its own log says why")


def _pipeline(construct: Callable[[beam.Pipeline], Any], launch: Launch, name: str) -> beam.Pipeline:
    from apache_beam.options.pipeline_options import PipelineOptions

    from pipelines.runners.quiet import beam

    pipeline = beam.Pipeline(runner=launch.runner, options=PipelineOptions([*launch.flags, f"--job_name={name}"]))
    construct(pipeline)
    return pipeline


def _check_flags(flags: Sequence[str], further: frozenset[str] | None) -> None:
    """Beam drops a flag that it does not know with a warning; a typo would then pass silently."""
    known = sorted({*_known_flags(), *(further or ())})
    for flag in flags:
        name = flag.split("=", 1)[0]
        if name in _OWN_FLAGS:
            raise RunnerFlagError(f"{name}: {_OWN_FLAGS[name]}.")
        if name.startswith("--") and name not in known and f"--{name[2:].replace('-', '_')}" not in known:
            if further is None:
                continue
            raise RunnerFlagError(
                f"{name}: Beam has no such flag, and flags after a lone -- go to Beam; {advice(name, known)}"
            )


def _known_flags() -> list[str]:
    """Every flag that one of Beam's option classes declares. Beam has no public list (2.77)."""
    from apache_beam.options import pipeline_options

    parser = pipeline_options._BeamArgumentParser(add_help=False, allow_abbrev=False)
    for declared in vars(pipeline_options).values():
        if isinstance(declared, type) and "_add_argparse_args" in vars(declared):
            declared._add_argparse_args(parser)  # type: ignore[attr-defined]
    return sorted(parser._option_string_actions)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it gave no reason"
