"""Step labels that people or models gave, in their published forms: one file a format, one kind of record.

`read_labels(label_format("processbench"), "gsm8k.json")` streams `LabelledSolution`s, and a `RejectedRow` with file,
line and reason for each row that is not what its format says.
"""

from __future__ import annotations

from pipelines.labels.read import FORMATS, label_format, read_labels
from pipelines.labels.record import (
    NO_ERROR,
    LabelFileError,
    LabelFormat,
    LabelFormatError,
    LabelledSolution,
)
from pipelines.rows.record import RejectedRow

__all__ = [
    "FORMATS",
    "NO_ERROR",
    "LabelFileError",
    "LabelFormat",
    "LabelFormatError",
    "LabelledSolution",
    "RejectedRow",
    "label_format",
    "read_labels",
]
