"""Frames of stored rows as tables for the terminal: units under the names, and once what is the same in every row."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl
from rich.console import Group
from rich.text import Text

from pipelines.inspect.chunk_texts import shortened
from pipelines.runs.tables import Column, Sheet, numbers, one_line, texts

#: column -> what stands above it, and its unit
HEADS = {
    "sample_index": ("#", ""),
    "chunk": ("#", ""),
    "length": ("length", "tokens"),
    "mean_length": ("mean length", "tokens"),
    "masked": ("masked", "tokens"),
    "start": ("from", "token"),
    "end": ("to", "token"),
    "finish_reason": ("finish", ""),
    "verify_status": ("verdict", ""),
    "extracted_answer": ("answer", ""),
    "outcome_reward": ("outcome", "reward"),
    "format_reward": ("format", "reward"),
    "path_score": ("path", "score"),
    "first_advantage": ("first", "advantage"),
    "last_advantage": ("last", "advantage"),
}
#: columns of running text, and of rollouts or chunks that are told apart by them
TEXTS = ("text", "prompt", "messages", "extra")
KEYS = ("sample_index", "chunk", "group_id", "prompt_id")


def frame_view(frame: pl.DataFrame, *, title: str = "", whole: bool = False) -> Group:
    """One row a row. A column with one and the same value throughout is said in a line, unless it tells rows apart.

    whole: every column in every row, and long texts too rather than their heads and tails.
    """
    folded = [] if whole or len(frame) < 2 else frame.columns
    same = {name: value for name in folded if (value := _everywhere(frame, name))}
    shown = [name for name in frame.columns if name not in same]
    sheet = Sheet(*(_column(name, frame.schema[name]) for name in shown), title=title)
    for row in frame.select(shown).iter_rows():
        cells = map(cell, row)
        sheet.add_row(*(cells if whole else map(shortened, cells)))
    return Group(sheet, *([Text(f"in every row: {_listed(same)}", style="dim")] if same else []))


def _everywhere(frame: pl.DataFrame, name: str) -> str | None:
    """The value that a column has in every row; None where it has several, or is a key or a text."""
    if name in (*KEYS, *TEXTS) or frame.schema[name].is_nested():
        return None
    values = frame[name].unique()
    return cell(values[0]) or "null" if len(values) == 1 else None


def _listed(same: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {one_line(value)}" for name, value in same.items())


def _column(name: str, kind: pl.DataType) -> Column:
    head, unit = HEADS.get(name, (name.replace("_", " "), ""))
    if kind.is_numeric():
        return numbers(head, unit)
    return texts(head) if name in TEXTS or kind.is_nested() else Column(head, unit)


def cell(value: object) -> str:
    """A value as it is shown: four digits of a float, nothing for null.

    >>> cell(0.570006), cell(12), cell(None), cell(True)
    ('0.57', '12', '', 'yes')
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
