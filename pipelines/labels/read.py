"""Published step labels as one kind of record: which formats there are, and a file's solutions one after the other."""

from __future__ import annotations

from collections.abc import Iterator

from pass_ops.support.nearest import advice
from pipelines.labels.math_shepherd import MATH_SHEPHERD
from pipelines.labels.prm800k import PRM800K
from pipelines.labels.processbench import PROCESSBENCH
from pipelines.labels.record import (
    LabelFileError,
    LabelFormat,
    LabelFormatError,
    LabelledSolution,
)
from pipelines.labels.trl import TRL
from pipelines.labels.ultrainteract import ULTRAINTERACT
from pipelines.rows.read import read_rows
from pipelines.rows.record import RejectedRow, RowError

FORMATS = {one.name: one for one in (PRM800K, PROCESSBENCH, MATH_SHEPHERD, TRL, ULTRAINTERACT)}


def label_format(name: str) -> LabelFormat:
    """The format of a name. Raises LabelFormatError, which lists them."""
    if name not in FORMATS:
        raise LabelFormatError(f"there is no format of labels {name!r}; {advice(name, FORMATS, listed=True)}")
    return FORMATS[name]


def read_labels(form: LabelFormat, url: str) -> Iterator[LabelledSolution | RejectedRow]:
    """The solutions of a file (.jsonl, .json, .parquet; any fsspec URL) in order, rejected rows in their places.

    Streams: memory holds a row (`read.MAX_ROW_BYTES` at most) or a batch of Parquet rows.

    Raises:
        RowFileError: the file cannot be read. LabelFileError: it holds no row at all.
    """
    empty = True
    for row in read_rows(url):
        empty = False
        if isinstance(row, RejectedRow):
            yield row
            continue
        try:
            solutions = list(form.read(row.values, str(row.number), row.where))
        except RowError as error:
            yield RejectedRow(where=row.where, reason=error.reason, detail=str(error))
        else:
            yield from solutions
    if empty:
        raise LabelFileError(f"{url} holds no rows, so there is nothing to compare with; check how it was made.")
