"""Plain data in, checked options out; a key nobody knows is refused with the nearest known one."""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import pydantic

from pipelines.options.errors import ConfigError
from pipelines.options.secrets import SECRET_SUFFIXES, literal_secrets

T = TypeVar("T")


def build(cls: type[T], data: Mapping[str, Any], *, where: str) -> T:
    """A checked instance of an options dataclass from plain data; unknown keys are refused with the nearest known
    one.
    """
    problems = list(_unknown_keys(cls, data, ()))
    if not problems:
        try:
            return pydantic.TypeAdapter(cls).validate_json(json.dumps(data, default=str), strict=True)
        except pydantic.ValidationError as error:
            problems = [_problem(item) for item in error.errors()]
    raise ConfigError(f"{where}: " + "\n  ".join(["cannot be used:", *problems]))


def as_dict(config: Any) -> dict[str, Any]:
    """The resolved configuration as plain data, secrets left as they were given (env:NAME)."""
    resolved = pydantic.TypeAdapter(type(config)).dump_python(config, mode="json")
    assert isinstance(resolved, dict)
    return resolved


def _unknown_keys(cls: Any, data: Any, path: tuple[str, ...]) -> Iterator[str]:
    if not isinstance(data, Mapping):
        return
    hints = typing.get_type_hints(cls)
    known = [item.name for item in dataclasses.fields(cls)]
    for key, value in data.items():
        place = ".".join((*path, key))
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            advice = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
            yield f"{place}: unknown key; {advice}"
        elif key.endswith(SECRET_SUFFIXES) and isinstance(value, str) and not value.startswith("env:"):
            yield f"{place}: secrets are given as env:NAME only"
        elif typing.get_origin(hints[key]) in (dict, Mapping):
            yield from literal_secrets(value, (*path, key))
        elif (nested := _dataclass_in(hints[key])) is not None:
            yield from _unknown_keys(nested, value, (*path, key))


def _dataclass_in(hint: Any) -> Any:
    """The dataclass a field holds: itself, or the one in `X | None`."""
    options = (
        typing.get_args(hint)
        if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
        else (hint,)
    )
    return next((option for option in options if dataclasses.is_dataclass(option)), None)


def _problem(item: Any) -> str:
    place = ".".join(str(part) for part in item["loc"])
    if item["type"] == "missing":
        return f"{place}: is required"
    if "error" in item.get("ctx", {}):
        return f"{place}: {item['ctx']['error']}"
    return f"{place}: {item['msg'].lower()}, not {item['input']!r}"
