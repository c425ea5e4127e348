"""What long work shows: bars on a terminal, one plain line a step elsewhere, nothing under --json."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.segment import Segment

from pipelines.runs.terminal import escaped

PLAIN_INTERVAL_SECONDS = 30.0
WIDTH_ELSEWHERE = 160


class Report(Protocol):
    """Tells how far a piece of work is: done, in all (0 where not known), and a line about the last of it."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


class GuardedConsole(Console):
    """rich's console, whose own sequences pass while those in what it shows are `escaped`."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Segments with escaped text; control segments are rich's own."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else escaped(text), style, control)


class Reporter:
    """Where stages tell how far they are. `quiet` (for --json) keeps standard output for the result alone."""

    def __init__(self, *, quiet: bool = False) -> None:
        file = sys.stderr if quiet else sys.stdout
        file = getattr(file, "unguarded", file)  # the console guards what it shows, and has sequences of its own
        self.console = GuardedConsole(
            file=file, highlight=False, markup=False, emoji=False, width=None if file.isatty() else WIDTH_ELSEWHERE
        )
        self.quiet = quiet

    def line(self, text: str) -> None:
        """One line of progress."""
        if not self.quiet:
            self.console.print(text, soft_wrap=True)

    def print(self, table: RenderableType) -> None:
        """A table."""
        if not self.quiet:
            self.console.print(table)

    @contextmanager
    def step(self, title: str) -> Iterator[Report]:
        """A named piece of work."""
        started = time.monotonic()
        if self.quiet:
            yield _silent
        elif self.console.is_terminal:
            with self._bars() as bars:
                task = bars.add_task(title, total=None, note="")
                yield lambda done, total, note="": bars.update(task, completed=done, total=total or None, note=note)
        else:
            yield self._plain(title)
        self.line(f"  {title}: {time.monotonic() - started:.1f} s")

    def _bars(self) -> Progress:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim"),
        )
        return Progress(*columns, console=self.console, transient=True)

    def _plain(self, title: str) -> Report:
        last = time.monotonic()

        def report(done: int, total: int, note: str = "") -> None:
            nonlocal last
            if time.monotonic() - last >= PLAIN_INTERVAL_SECONDS:
                last = time.monotonic()
                self.line(f"{title}: {note or (f'{done} of {total}' if total else done)}")

        return report


def _silent(done: int, total: int, note: str = "") -> None:
    """Report nothing."""
