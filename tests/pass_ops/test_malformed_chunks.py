"""What `shape` did not make is refused by `token_advantages`: each error with its message."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest
from malformed import F32, I32

from pass_ops import errors, spread, token_advantages

SPREAD = {
    "missing": (
        pa.table({"chunk_ends": pa.array([[1]], I32)}),
        errors.MissingColumnError,
        "column 'chunk_advantages' is missing: token_advantages needs it; add it to the columns chunk_ends",
    ),
    "counts": (
        pa.table({"chunk_ends": pa.array([[1, 2]], I32), "chunk_advantages": pa.array([[1.0]], F32)}),
        errors.LengthMismatchError,
        "row 0: chunk_ends has 2 values and chunk_advantages 1; shape the rollouts again",
    ),
    "order": (
        pa.table({"chunk_ends": pa.array([[1], [2, 2]], I32), "chunk_advantages": pa.array([[1.0], [1.0, 2.0]], F32)}),
        errors.StepEndsError,
        "row 1: chunk_ends do not increase strictly from above 0; shape the rollouts again",
    ),
    "counts of the second row": (
        pa.table({"chunk_ends": pa.array([[1], [1, 2]], I32), "chunk_advantages": pa.array([[1.0], [1.0]], F32)}),
        errors.LengthMismatchError,
        "row 1: chunk_ends has 2 values and chunk_advantages 1; shape the rollouts again",
    ),
    "an end of 0": (
        pa.table({"chunk_ends": pa.array([[1], [0, 2]], I32), "chunk_advantages": pa.array([[1.0], [1.0] * 2], F32)}),
        errors.StepEndsError,
        "row 1: chunk_ends do not increase strictly from above 0; shape the rollouts again",
    ),
    "order in a slice": (
        pa.table(
            {
                "chunk_ends": pa.array([[1, 2], [1], [3, 4], [5, 5]], I32),
                "chunk_advantages": pa.array([[1.0] * 2, [1.0], [1.0] * 2, [1.0] * 2], F32),
            }
        ).slice(1),
        errors.StepEndsError,
        "row 2: chunk_ends do not increase strictly from above 0; shape the rollouts again",
    ),
    "a type": (
        pa.table({"chunk_ends": pa.array([["1"]]), "chunk_advantages": pa.array([[1.0]], F32)}),
        errors.ColumnTypeError,
        "column 'chunk_ends' is list<string>, expected list<int32>, and there is no cast that loses nothing; "
        "store it as list<int32>",
    ),
    "null": (
        pa.table({"chunk_ends": pa.array([[1], None], I32), "chunk_advantages": pa.array([[1.0], []], F32)}),
        errors.NullValueError,
        "row 1: chunk_ends is or holds a null; shape the rollouts again",
    ),
    "null inside": (
        pa.table({"chunk_ends": pa.array([[1], [1]], I32), "chunk_advantages": pa.array([[1.0], [None]], F32)}),
        errors.NullValueError,
        "row 1: chunk_advantages is or holds a null; shape the rollouts again",
    ),
}


@pytest.mark.parametrize("case", SPREAD)
def test_token_advantages_refuses_what_shape_did_not_make(case):
    table, error, message = SPREAD[case]
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        token_advantages(table)


def test_more_tokens_than_one_array_holds_are_refused(monkeypatch):
    table = pa.table(
        {"chunk_ends": pa.array([[3], [1, 2]], I32), "chunk_advantages": pa.array([[1.0], [1.0] * 2], F32)}
    )
    monkeypatch.setattr(spread, "MOST_VALUES", 5)
    assert token_advantages(table).to_pylist() == [[1.0] * 3, [1.0] * 2]
    monkeypatch.setattr(spread, "MOST_VALUES", 4)
    says = "the table has 5 tokens and one list array holds 4; spread fewer rows at a time"
    with pytest.raises(errors.OutputOverflowError, match=f"^{says}$"):
        token_advantages(table)
