"""What a check is given, and what it answers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pass_ops.errors import PassError
from pipelines.engines.machine import Gpu

Figures = Mapping[str, float | int | str]
Status = Literal["ok", "failed", "skipped"]


class CheckError(PassError, ValueError):
    """A check is asked for that does not exist, or on a device that is not here."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the checks run on. device: cuda, or cpu with tiny models. gpus: those that this process may use."""

    device: Literal["cpu", "cuda"]
    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    cores: int = 1

    @property
    def judged(self) -> bool:
        """Whether speed and memory are held against their limits."""
        return self.device == "cuda"

    @property
    def words(self) -> str:
        """The device as every line names it."""
        if self.device == "cpu":
            return "cpu: tiny models; speed and memory are shown, not judged"
        names = sorted({gpu.name for gpu in self.gpus})
        return f"cuda: {len(self.gpus)} x {', '.join(names)}, driver {self.driver}"


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """What is checked, and where. out: a local folder for models, logs and the report.

    device: auto takes a GPU where the driver shows one. minutes: what has not begun by then is skipped, what runs is
    ended. report: the Markdown file (default: gpu.md in out). trl: an interpreter that has TRL (default: this one, if
    it has).
    """

    out: str
    only: tuple[str, ...] = ()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    minutes: float = 20.0
    report: str | None = None
    trl: str | None = None


@dataclass(frozen=True, kw_only=True)
class Limit:
    """The range a figure must lie in. speed: of speed or memory, which says nothing about a CPU's tiny models."""

    low: float | None = None
    high: float | None = None
    speed: bool = False

    def holds(self, value: float) -> bool:
        """Whether the value lies in the range; NaN lies in none."""
        low, high = -math.inf if self.low is None else self.low, math.inf if self.high is None else self.high
        return low <= value <= high

    @property
    def words(self) -> str:
        """The range, for a report."""
        if self.low is None:
            return f"at most {self.high:g}"
        return f"at least {self.low:g}" if self.high is None else f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of a check. why: the reason where it failed or was skipped, else what is worth a sentence."""

    status: Status
    why: str = ""
    figures: Figures = field(default_factory=dict)
    limits: Mapping[str, str] = field(default_factory=dict)


def judged(machine: Machine, figures: Figures, limits: Mapping[str, Limit], *, note: str = "") -> Result:
    """The figures held against their limits: those of speed and memory only on a GPU.

    A limit whose figure is missing is not held, since what cannot be measured here has no figure (an MFU without a
    known peak, say).
    """
    broken = [
        f"{name} is {figures[name]:g}, outside {limit.words}"
        for name, limit in limits.items()
        if name in figures and (machine.judged or not limit.speed) and not limit.holds(float(figures[name]))
    ]
    return Result(
        status="failed" if broken else "ok",
        why="; ".join(broken) or note,
        figures=figures,
        limits={name: limit.words for name, limit in limits.items()},
    )


def skipped(why: str) -> Result:
    """A check that cannot run here, and why."""
    return Result(status="skipped", why=why)
