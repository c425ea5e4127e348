"""Runs the checks one after another, each in a process of its own, within the minutes given."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pass_ops.support.extras import require
from pass_ops.support.nearest import advice
from pipelines.gpu_check.base import CheckError, CheckOptions, Machine, Result, skipped
from pipelines.gpu_check.checks import CHECKS, Check
from pipelines.gpu_check.isolation import run_marked
from pipelines.gpu_check.machine import describe_machine, installed
from pipelines.gpu_check.report import Line, markdown

CHILD = "pipelines.gpu_check.child"
CPU_PATIENCE = 5  # a CPU that is shared starts an engine in minutes


def _print(line: str) -> None:
    print(line, flush=True)


def gpu_check(options: CheckOptions, *, show: Callable[[str], None] = _print) -> list[Line]:
    """Run the checks, show a JSON line for each as it ends, write the report. Returns the lines.

    Raises CheckError where a check is unknown or the device is not here, MissingExtraError without torch.
    """
    require("torch", "passrl gpu-check")
    require("transformers", "passrl gpu-check")
    chosen = choose(options.only)
    if not 0 < options.minutes < math.inf:
        raise CheckError(f"--minutes is {options.minutes:g}, which no check can keep to; give a number above 0")
    folder = Path(options.out)
    try:
        (folder / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckError(f"{options.out}: cannot be written ({error.strerror}); give another --out") from error
    machine = describe_machine(options)
    until = time.monotonic() + 60 * options.minutes
    lines = []
    for check in chosen:
        begun = time.monotonic()
        result = missing(check, machine) or run_check(check, machine, options, seconds=until - begun)
        lines.append(Line(check=check, result=result, seconds=time.monotonic() - begun, device=machine.words))
        show(lines[-1].as_json())
        report = Path(options.report or folder / "gpu.md")
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(markdown(machine, lines), encoding="utf-8")
    return lines


def choose(only: Sequence[str]) -> list[Check]:
    """The named checks in their own order; all where none is named. Raises CheckError."""
    names = [check.name for check in CHECKS]
    for name in only:
        if name not in names:
            raise CheckError(f"--only {name!r} is no check; {advice(name, names)}")
    return [check for check in CHECKS if not only or check.name in only]


def missing(check: Check, machine: Machine) -> Result | None:
    """The result of a check that cannot run here; None where it can."""
    if absent := [package for package in check.packages if not installed(package)]:
        return skipped(f"not installed: {', '.join(absent)}")
    if machine.device == "cuda" and len(machine.gpus) < check.gpus:
        return skipped(f"needs {check.gpus} GPUs, here are {len(machine.gpus)}")
    return None


def run_check(check: Check, machine: Machine, options: CheckOptions, *, seconds: float) -> Result:
    """The check in a process of its own. What it does not answer in time, or at all, is failed."""
    if seconds <= 0:
        return skipped(f"the {options.minutes:g} minutes were over; run it alone with --only {check.name}")
    allowed = min(seconds, check.seconds * (1 if machine.device == "cuda" else CPU_PATIENCE))
    ended = run_marked(
        ["-m", CHILD],
        request=(check.place, machine, options),
        log=Path(options.out) / "logs" / f"{check.name}.log",
        seconds=allowed,
    )
    if isinstance(ended.answer, Result):
        return ended.answer
    if ended.code is None:
        return Result(status="failed", why=f"not done after {allowed:.0f} s and ended; see logs/{check.name}.log")
    return Result(status="failed", why=f"{ended.words} (logs/{check.name}.log)")
