"""JSON objects of a dataset as the dataclasses they stand for: every byte and every field is checked.

What is read here may be truncated, damaged or forged; whatever is wrong with it is a ValueError that says what.
"""

from __future__ import annotations

import json
import reprlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from functools import cache
from typing import Any, TypeVar, cast, get_type_hints

from pass_ops.errors import CorruptDatasetError

T = TypeVar("T")


def parse_json(content: bytes) -> Any:
    """The value of strict JSON in UTF-8: no NaN, no key twice, no nesting beyond what Python can follow.

    Raises:
        ValueError: it is none.
    """
    try:
        return json.loads(content.decode(), parse_constant=_no_constant, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def json_object(content: bytes, where: str, *, fix: str) -> dict[str, Any]:
    """The object in a JSON file. Raises CorruptDatasetError, which names the file and the fix."""
    try:
        found = parse_json(content)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise CorruptDatasetError(f"{where} is damaged: it holds no JSON object; {fix}")
    return found


def as_object(kind: type[T], document: Any) -> T:
    """The dataclass of an object, each field of its annotated type; keys of later versions are skipped.

    Raises:
        ValueError: a field is missing or of another type.
    """
    if not isinstance(document, Mapping):
        raise ValueError(f"it is {reprlib.repr(document)}, not an object")
    known = {}
    for name, (fits, kind_name, required) in _fields(cast(Any, kind)).items():
        if name not in document:
            if required:
                raise ValueError(f"it lacks {name}")
        elif fits(document[name]):
            known[name] = document[name]
        else:
            raise ValueError(f"{name} is {reprlib.repr(document[name])}, not {kind_name}")
    return kind(**known)


def is_count(value: object) -> bool:
    """Whether it is a whole number from 0 that fits 64 bits."""
    return type(value) is int and 0 <= value < 2**63


def _counts(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) and is_count(n) for key, n in value.items())


_KINDS: dict[Any, tuple[Callable[[Any], bool], str]] = {
    int: (is_count, "a count"),
    str: (lambda value: isinstance(value, str), "a text"),
    str | None: (lambda value: value is None or isinstance(value, str), "a text or null"),
    int | None: (lambda value: value is None or type(value) is int, "a whole number or null"),
    Mapping[str, int]: (_counts, "an object of counts"),
    Mapping[str, Any]: (lambda value: isinstance(value, Mapping), "an object"),
    Sequence[str]: (
        lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
        "a list of texts",
    ),
}


@cache
def _fields(kind: type[Any]) -> dict[str, tuple[Callable[[Any], bool], str, bool]]:
    """Field -> (whether a value fits it, what does, whether it must be there)."""
    hints = get_type_hints(kind)
    return {
        item.name: (*_KINDS[hints[item.name]], item.default is MISSING and item.default_factory is MISSING)
        for item in fields(kind)
    }


def _no_constant(name: str) -> Any:
    raise ValueError(f"it holds {name}, which is no JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        raise ValueError(f"it holds the key {reprlib.repr(twice)} twice")
    return found
