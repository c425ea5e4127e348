"""Start one Beam job on the runner that the options name, and wait for it."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pass_ops.errors import PassError

if TYPE_CHECKING:
    from pipelines.runners.quiet import beam

# Runner name -> the module whose `launch(flags)` returns the Beam runner.
RUNNERS = {"direct": "pipelines.runners.direct"}


RESOURCE_HINTS = ("accelerator", "cpu_count", "min_ram")


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


@dataclass(frozen=True, kw_only=True)
class RunnerOptions:
    """Where Beam jobs run. Nothing here changes a byte of what they make.

    name: one of RUNNERS; `direct` is Beam's FnApiRunner in this process. flags: handed to the Beam runner as they are,
    for example --direct_running_mode=multi_processing --direct_num_workers=4. resources: Beam
    resource hints for workers of stages that run a model, as accelerator = "type:nvidia-l4;count:1", min_ram = "24GB".
    """

    name: str = "direct"
    flags: tuple[str, ...] = ()
    resources: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in RUNNERS:
            raise RunnerFlagError(f"Runner {self.name!r} is unknown; choose one of {', '.join(sorted(RUNNERS))}.")
        for hint in self.resources:
            if hint not in RESOURCE_HINTS:
                raise RunnerFlagError(f"Resource hint {hint!r} is unknown; Beam has {', '.join(RESOURCE_HINTS)}.")
        object.__setattr__(self, "flags", tuple(self.flags))


def run_job(construct: Callable[[beam.Pipeline], Any], options: RunnerOptions) -> None:
    """Build one pipeline with `construct`, run it, wait for its end.

    Raises RunnerFlagError before anything runs where a flag is unknown, KeyboardInterrupt where the job was
    interrupted, and JobFailed where it did not end well.
    """
    from pipelines.runners.quiet import beam

    _check_flags(options.flags)
    runner = importlib.import_module(RUNNERS[options.name]).launch(options.flags)
    from apache_beam.options.pipeline_options import PipelineOptions

    pipeline = beam.Pipeline(runner=runner, options=PipelineOptions(list(options.flags)))
    construct(pipeline)
    try:
        state = pipeline.run().wait_until_finish()
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


def _check_flags(flags: Sequence[str]) -> None:
    """Beam drops a flag that it does not know with a warning; a typo would then pass silently."""
    known = _known_flags()
    for flag in flags:
        name = flag.split("=", 1)[0]
        if name == "--runner":
            raise RunnerFlagError(f"{flag}: the runner is chosen by passrl's own --runner, before the lone --.")
        if name.startswith("--") and name not in known and f"--{name[2:].replace('-', '_')}" not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
            advice = f"Did you mean {near[0]}?" if near else "Flags after a lone -- go to the Beam runner as they are."
            raise RunnerFlagError(f"{flag}: Beam has no such flag. {advice}")


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
