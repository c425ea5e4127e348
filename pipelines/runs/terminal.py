r"""Text on its way to a terminal: what a model, a file's name or an error says can never command it.

Control characters (escape sequences, carriage returns, backspaces, C1 controls), overrides of the reading direction and
halves of surrogate pairs are written out, as \u001b: visible to people and still valid within JSON.
"""

from __future__ import annotations

import io
import logging
import re
import sys
import traceback
from types import TracebackType
from typing import TextIO

from pass_ops.support.secrecy import hidden

_COMMANDS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 except tab and line feed, delete, C1
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"  # reading direction, line and paragraph separators
    "\ud800-\udfff]"  # halves of pairs, which no terminal's encoding has
)


def escaped(text: str) -> str:
    r"""The text with nothing in it that a terminal obeys, except tabs and line feeds.

    >>> print(escaped("a\x1b[2Jb\rc\u202ed"))
    a\u001b[2Jb\u000dc\u202ed
    """
    return _COMMANDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class Guarded(io.TextIOBase):
    """A text stream whose text is `escaped`. unguarded: the stream itself, for whoever has its own escape sequences."""

    def __init__(self, stream: TextIO) -> None:
        self.unguarded = stream

    def write(self, text: str) -> int:
        """Write it escaped."""
        self.unguarded.write(escaped(text))
        return len(text)

    def flush(self) -> None:
        """Of the stream."""
        self.unguarded.flush()

    def fileno(self) -> int:
        """The stream's."""
        return self.unguarded.fileno()

    def isatty(self) -> bool:
        """The stream's."""
        return not self.unguarded.closed and self.unguarded.isatty()

    def writable(self) -> bool:
        """It is."""
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The stream's."""
        return self.unguarded.encoding


def show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What the interpreter calls for an error that nobody expected: its traceback, escaped and without secrets."""
    Guarded(sys.stderr).write(hidden("".join(traceback.format_exception(kind, error, trace))))


class GuardedFormatter(logging.Formatter):
    """A log line, escaped and without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, its traceback included."""
        return escaped(hidden(super().format(record)))
