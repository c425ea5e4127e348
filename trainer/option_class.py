"""`@options`: a frozen pydantic dataclass whose every refusal is one kind of `PassError`, from Python and from TOML.

The types hold the choices (`Literal`), bounds (`Annotated[float, Gt(0)]`) and the docstring under each field its
meaning; `docs/reference/options.md`, `passrl options` and `passrl schema` are generated from them.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, dataclass_transform

import pydantic
from pydantic.dataclasses import dataclass as pydantic_dataclass

from pass_ops.errors import PassError
from pass_ops.nearest import advice

T = TypeVar("T")

_CONFIG = pydantic.ConfigDict(
    extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True, arbitrary_types_allowed=True
)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def options(error: type[PassError]) -> Callable[[type[T]], type[T]]:
    """Make a class of annotated fields a frozen, keyword-only options class.

    Every value is checked when an instance is made: its type strictly (no number given as text, no fraction for a whole
    number), its choices and its bounds; infinity only where the field allows it. `__post_init__` checks what
    several fields must agree on, and raises ValueError or a PassError that is one.

    Args:
        error: what the class raises, with one line for each problem: a PassError that is also a ValueError.
    """

    def make(cls: type[T]) -> type[T]:
        made = pydantic_dataclass(cls, frozen=True, kw_only=True, config=_CONFIG)
        checked = made.__init__

        @functools.wraps(checked)
        def construct(self: Any, *arguments: Any, **values: Any) -> None:
            if arguments:
                raise error(f"{cls.__name__}: give its options by name, as {cls.__name__}({_names(made)[0]}=...)")
            try:
                checked(self, **values)
            except pydantic.ValidationError as refused:
                raise error(f"{cls.__name__}: " + "\n  ".join(problems(refused, made))) from None

        made.__init__ = construct  # type: ignore[method-assign]
        return typing.cast(type[T], made)

    return make


def problems(refused: pydantic.ValidationError, cls: type) -> Iterator[str]:
    """What pydantic found, one sentence each: the option's dotted name, what it is and what it must be."""
    for item in refused.errors():
        names = [part for part in item["loc"] if isinstance(part, str)]
        place = ".".join(str(part) for part in item["loc"])
        if item["type"] == "unexpected_keyword_argument":
            yield f"{place}: unknown key; {advice(names[-1], _names(_class_at(cls, names[:-1])))}"
        elif item["type"] == "missing":
            yield f"{place}: is required"
        elif isinstance(cause := item.get("ctx", {}).get("error"), Exception):
            yield f"{place}: {cause}" if place else str(cause)
        else:
            yield f"{place} is {item['input']!r}: {_lower(item['msg'])}"


def _names(cls: type) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)]


def _class_at(cls: type, names: list[str]) -> type:
    """The options class that the field `a.b` of `cls` holds; through `X | None`, tuples and mappings."""
    for name in names:
        found = nested_class(typing.get_type_hints(cls).get(name)) if name in _names(cls) else None
        cls = found or cls  # a key of a mapping: the class of its values was found one step before
    return cls


def nested_class(hint: Any) -> type | None:
    """The options class inside a type hint, or None.

    >>> nested_class(int | None) is None
    True
    """
    if dataclasses.is_dataclass(hint):
        return typing.cast(type, hint)
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union, typing.Annotated, tuple, list, dict, Mapping):
        return next((found for part in typing.get_args(hint) if (found := nested_class(part))), None)
    return None


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]
