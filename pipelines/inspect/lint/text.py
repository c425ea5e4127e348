"""`passrl lint` for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.text import Text

from pipelines.inspect.lint.findings import SEVERITIES, LintFinding

_STYLES = {"error": "bold red", "warning": "yellow", "info": "cyan"}


def findings_view(url: str, findings: Sequence[LintFinding]) -> Group:
    """Each finding with its advice and examples; at the end how many there are."""
    lines: list[Text] = []
    for finding in findings:
        head = Text(f"{finding.severity} ", style=_STYLES[finding.severity])
        lines.append(head + Text(f"{finding.code}: {finding.message}", style="not bold default"))
        lines.append(Text(f"  {finding.advice}"))
        if finding.examples:
            lines.append(Text(f"  e.g. {', '.join(finding.examples)}", style="dim"))
    counts = [(severity, sum(finding.severity == severity for finding in findings)) for severity in SEVERITIES]
    listed = ", ".join(f"{count} {severity}{'s' * (count > 1)}" for severity, count in counts if count)
    lines.append(Text(f"{url}: {listed or 'nothing found'}"))
    return Group(*lines)
