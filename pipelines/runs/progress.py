"""What commands show: results on standard output; how far long work is on standard error.

There progress is bars on a terminal, elsewhere a plain line now and then and one at the end of a step, and nothing
under --json.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

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


def plain_width() -> int | None:
    """The width of output where neither a terminal nor COLUMNS gives one; None, for rich to ask them, where one does.

    A terminal at any standard stream counts: what is piped into a pager is read on it.
    """
    given = os.environ.get("COLUMNS", "").isdigit() or any(os.isatty(stream) for stream in (0, 1, 2))
    return None if given else WIDTH_ELSEWHERE


def guarded_console(file: TextIO) -> GuardedConsole:
    """A console that writes to a stream and shows every text as it is: no markup, no highlighting."""
    file = getattr(file, "unguarded", file)  # the console guards what it shows, and has sequences of its own
    return GuardedConsole(file=file, highlight=False, markup=False, emoji=False, width=plain_width())


class Reporter:
    """Where commands show results, and stages tell how far they are. `quiet` (for --json): none of it."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = guarded_console(sys.stderr if quiet else sys.stdout)
        self.progress = guarded_console(sys.stderr)
        self.quiet = quiet

    def line(self, text: str) -> None:
        """One line of a result."""
        if not self.quiet:
            self.console.print(text, soft_wrap=True)

    def print(self, table: RenderableType) -> None:
        """A table."""
        if not self.quiet:
            self.console.print(table)

    def note(self, text: str) -> None:
        """One line about the progress."""
        if not self.quiet:
            self.progress.print(text, soft_wrap=True)

    @contextmanager
    def step(self, title: str) -> Iterator[Report]:
        """A named piece of work."""
        started = time.monotonic()
        if self.quiet:
            yield _silent
        elif self.progress.is_terminal:
            with self._bars() as bars:
                task = bars.add_task(title, total=None, note="")
                yield lambda done, total, note="": bars.update(task, completed=done, total=total or None, note=note)
        else:
            yield self._plain(title)
        self.note(f"  {title}: {time.monotonic() - started:.1f} s")

    def _bars(self) -> Progress:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim"),
        )
        return Progress(*columns, console=self.progress, transient=True)

    def _plain(self, title: str) -> Report:
        last = time.monotonic()

        def report(done: int, total: int, note: str = "") -> None:
            nonlocal last
            if time.monotonic() - last >= PLAIN_INTERVAL_SECONDS:
                last = time.monotonic()
                self.note(f"{title}: {note or (f'{done} of {total}' if total else done)}")

        return report


def _silent(done: int, total: int, note: str = "") -> None:
    """Report nothing."""
