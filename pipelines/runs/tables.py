"""The one style of the tables that commands print: a thin line under the head, units under the names, nothing cut.

Numbers and words stand on one line. Texts fold, in what the other columns leave. Where the columns of a table are wider
than the output, those that do not fit follow in another table, under the same first column.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from pipelines.runs.terminal import escaped

#: columns between two columns of a table
GAP = 2
#: what a text needs at least to be read
TEXT_WIDTH = 24


@dataclass(frozen=True)
class Column:
    """A column: its name, and under it the unit of what it holds. kind: numbers stand flush right, texts fold."""

    name: str
    unit: str = ""
    kind: Literal["number", "word", "text"] = "word"

    @property
    def head(self) -> str:
        """Name and unit, one under the other."""
        return f"{self.name}\n{self.unit}" if self.unit else self.name

    def least(self, cells: Sequence[str]) -> int:
        """Characters that the column cannot do without."""
        longest = max(map(cell_len, [*self.head.split("\n"), *cells]), default=0)
        return min(longest, TEXT_WIDTH) if self.kind == "text" else longest


def numbers(name: str, unit: str = "") -> Column:
    """A column of numbers, flush right."""
    return Column(name, unit, "number")


def texts(name: str) -> Column:
    """A column of texts, which fold."""
    return Column(name, "", "text")


class Sheet:
    """A table, made as wide as the output when it is printed. Columns given as a name hold words.

    >>> sheet = Sheet("round", numbers("length", "tokens"), title="Rollouts")
    >>> sheet.add_row("0", "63.8")
    >>> print(sheet.plain(width=40))
    Rollouts
           length
    round  tokens
    ─────────────
    0        63.8
    """

    def __init__(self, *columns: Column | str, title: str = "", caption: str = "") -> None:
        self.columns = [Column(column) if isinstance(column, str) else column for column in columns]
        self.title = title
        self.caption = caption
        self.rows: list[list[str]] = []
        self.styles: list[str] = []

    def add_row(self, *cells: str, style: str = "") -> None:
        """One line; what a terminal would obey in a cell is written out, and line feeds are shown as such."""
        self.styles.append(style)
        self.rows.append([one_line(cell) for cell in cells] + [""] * (len(self.columns) - len(cells)))

    def plain(self, *, width: int) -> str:
        """The table as text without a terminal's sequences, and without blanks at the ends of lines."""
        console = Console(width=width, file=io.StringIO(), markup=False, emoji=False, highlight=False)
        with console.capture() as captured:
            console.print(self)
        return "\n".join(line.rstrip() for line in captured.get().splitlines()).strip("\n")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """As many tables as the width asks for."""
        if self.title:
            yield Text(f"\n{self.title}", style="bold")
        for i, columns in enumerate(self._pages(options.max_width)):
            if i:
                yield Text()
            yield self._table(columns)
        if self.caption:
            yield Text(self.caption, style="dim")

    def _pages(self, width: int) -> Iterator[list[int]]:
        """Which columns stand together: the first with as many others as fit, at least one. Empty ones stay out."""
        cells = [[row[i] for row in self.rows] for i in range(len(self.columns))]
        need = [column.least(cells[i]) + GAP for i, column in enumerate(self.columns)]
        page, left = [0], width + GAP - need[0]
        for i in range(1, len(self.columns)):
            if self.rows and not any(cells[i]):
                continue
            if need[i] > left and len(page) > 1:
                yield page
                page, left = [0], width + GAP - need[0]
            page.append(i)
            left -= need[i]
        yield page

    def _table(self, columns: Sequence[int]) -> Table:
        table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
        for i in columns:
            column = self.columns[i]
            folds = column.kind == "text"
            table.add_column(
                Text(column.head),
                justify="right" if column.kind == "number" else "left",
                no_wrap=not folds,
                overflow="fold",
            )
        for row, style in zip(self.rows, self.styles, strict=True):
            table.add_row(*(Text(row[i]) for i in columns), style=style)
        return table


def one_line(cell: str) -> str:
    r"""A text as one line that no terminal obeys: line feeds as ↵, tabs and control characters written out.

    >>> print(one_line("a\tb\x1b[2J\nc"))
    a\u0009b\u001b[2J↵c
    """
    return escaped(cell).replace("\n", "↵").replace("\t", "\\u0009")
