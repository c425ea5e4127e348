"""Fields of a row, checked: each function returns the value, or raises a RowError that names the field."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from pipelines.rows.record import RowError

FIELDS, LABELS = "fields", "labels"
#: of one solution; real ones have tens
MAX_STEPS = 2000


def text(row: Mapping[str, Any], name: str) -> str:
    """A text that is not blank."""
    found = encodable(of(row, name), name)
    if not found.strip():
        raise RowError(FIELDS, f"{name} is blank")
    return found


def texts(row: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """A list of texts, at least one, none of them blank."""
    found = list_of(row, name)
    if not found:
        raise RowError(FIELDS, f"{name} is empty")
    if len(found) > MAX_STEPS:
        raise RowError(FIELDS, f"{name} holds {len(found)} steps, more than {MAX_STEPS}")
    return tuple(step(value, f"{name}[{index}]") for index, value in enumerate(found))


def step(value: Any, name: str) -> str:
    """The text of one step."""
    found = encodable(value, name)
    if not found.strip():
        raise RowError(FIELDS, f"{name} is blank, so nothing was labelled there")
    return found


def encodable(value: Any, name: str) -> str:
    r"""A text, as UTF-8 can hold it: JSON may spell half a character ("\ud800")."""
    if not isinstance(value, str):
        raise RowError(FIELDS, f"{name} is {reprlib.repr(value)}, not a text")
    if value.isascii():  # known without looking at its letters
        return value
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RowError("encoding", f"{name} holds half a character at position {error.start}") from None
    return value


def list_of(row: Mapping[str, Any], name: str) -> list[Any]:
    """A list."""
    found = of(row, name)
    if not isinstance(found, list):
        raise RowError(FIELDS, f"{name} is {reprlib.repr(found)}, not a list")
    return found


def object_of(row: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An object."""
    return as_object(of(row, name), name)


def as_object(value: Any, name: str) -> Mapping[str, Any]:
    """The value, which must be an object."""
    if not isinstance(value, Mapping):
        raise RowError(FIELDS, f"{name} is {reprlib.repr(value)}, not an object")
    return value


def index(row: Mapping[str, Any], name: str, *, low: int, high: int) -> int:
    """A whole number from low to high."""
    found = of(row, name)
    if type(found) is not int or not low <= found <= high:
        raise RowError(LABELS, f"{name} is {reprlib.repr(found)}, not a whole number from {low} to {high}")
    return found


def of(row: Mapping[str, Any], name: str) -> Any:
    """The field's value, which must be there."""
    if name not in row:
        raise RowError(FIELDS, f"{name} is missing; the row has {reprlib.repr(sorted(row))}")
    return row[name]
