"""The one style of tables: nothing is cut, columns that do not fit follow, hostile cells stay one harmless line."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len

from pipelines.runs.progress import GuardedConsole
from pipelines.runs.tables import Sheet, numbers, one_line, texts


@pytest.fixture
def sheet() -> Sheet:
    made = Sheet("round", *(numbers(f"figure {n}", "tokens") for n in range(9)), texts("text"), title="Title")
    for row in range(3):
        made.add_row(str(row), *(f"{row}{n}.25" for n in range(9)), f"text-{row} " * 20)
    return made


@pytest.mark.parametrize("width", [30, 80, 120, 200])
def test_every_number_is_shown_whole_within_the_width(sheet, width):
    shown = sheet.plain(width=width)
    assert max(map(cell_len, shown.splitlines())) <= width
    assert {f"{row}{n}.25" for row in range(3) for n in range(9)} <= set(shown.split())
    assert shown.count("text-1") == 20


def test_columns_that_do_not_fit_follow_under_the_same_first_column(sheet):
    heads = [line.split() for line in sheet.plain(width=60).splitlines() if line.startswith("round")]
    assert len(heads) > 1
    assert {head[0] for head in heads} == {"round"}


def test_a_table_that_fits_is_one_table(sheet):
    assert sum(line.startswith("round") for line in sheet.plain(width=200).splitlines()) == 1


def test_a_column_without_a_cell_is_left_out():
    made = Sheet("a", numbers("empty"), numbers("b"))
    made.add_row("x", "", "1")
    assert made.plain(width=80).splitlines()[0].split() == ["a", "b"]


def test_cells_are_measured_as_they_are_shown():
    made = Sheet("a", "b")
    made.add_row("\x1b[2J\n\t\u202e", "问题")
    (row,) = made.plain(width=80).splitlines()[2:]
    assert row == "\\u001b[2J↵\\u0009\\u202e  问题"


def test_a_guarded_console_escapes_nothing_twice():
    stream = io.StringIO()
    made = Sheet("a")
    made.add_row("\x1b[31m\\")
    GuardedConsole(file=stream, width=80, markup=False).print(made)
    assert stream.getvalue().splitlines()[-1].rstrip() == one_line("\x1b[31m\\")
