"""The checks' results as JSON lines and as a Markdown page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pipelines.gpu_check.base import Machine, Result
from pipelines.gpu_check.checks import Check


@dataclass(frozen=True, kw_only=True)
class Line:
    """One check's outcome: what is printed, and a section of the page."""

    check: Check
    result: Result
    seconds: float
    device: str

    def as_json(self) -> str:
        """One JSON object on one line."""
        return json.dumps(
            {
                "check": self.check.name,
                "status": self.result.status,
                "device": self.device,
                "why": self.result.why,
                "seconds": round(self.seconds, 1),
                "figures": dict(self.result.figures),
                "limits": dict(self.result.limits),
            }
        )


def markdown(machine: Machine, lines: Sequence[Line]) -> str:
    """The page: one table of outcomes, then each check's figures beside their limits."""
    counts = {status: sum(line.result.status == status for line in lines) for status in ("ok", "failed", "skipped")}
    told = ", ".join(f"{count} {status}" for status, count in counts.items())
    rows = [
        f"| {line.check.name} | {line.result.status} | {line.seconds:.0f} | {_cell(line.result.why)} |"
        for line in lines
    ]
    return "\n".join(
        [
            "# GPU check",
            "",
            f"`passrl gpu-check` on {datetime.now(UTC):%Y-%m-%d}, on {machine.words}: {told}.",
            "",
            "| check | outcome | seconds | why |",
            "| --- | --- | --- | --- |",
            *rows,
            *(text for line in lines if line.result.figures for text in _section(line)),
            "",
        ]
    )


def _section(line: Line) -> list[str]:
    return [
        "",
        f"## {line.check.name}",
        "",
        f"{line.check.what[0].upper()}{line.check.what[1:]}. On {line.device}.",
        "",
        "| figure | value | limit |",
        "| --- | --- | --- |",
        *(
            f"| {name} | {_shown(value)} | {line.result.limits.get(name, '')} |"
            for name, value in line.result.figures.items()
        ),
    ]


def _shown(value: float | int | str) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else _cell(str(value))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
