"""`@options`: a frozen pydantic dataclass whose every refusal is one kind of `PassError`, from Python and from TOML.

The types hold the choices (`Literal`), bounds (`Annotated[float, Gt(0)]`) and the docstring under each field its
meaning; `docs/reference/options.md`, `passrl options` and `passrl schema` are generated from them.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, TypeVar, dataclass_transform

import pydantic
from annotated_types import Ge, Gt
from pydantic.dataclasses import dataclass as pydantic_dataclass

from pass_ops.errors import PassError
from pass_ops.support.nearest import advice
from pass_ops.support.secrecy import MASK, hidden, is_secret

T = TypeVar("T")

AtLeastOne = Annotated[int, Ge(1)]
Positive = Annotated[float, Gt(0)]

CONFIG = pydantic.ConfigDict(
    extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True, arbitrary_types_allowed=True
)
LONGEST_SHOWN = 200
_SUBJECT = re.compile(r"^\w+ should")  # "Input should be", "String should have"
_CHOICE = re.compile(r"'([^']*)'")
_UNIONS = (types.UnionType, typing.Union)


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
        made = pydantic_dataclass(cls, frozen=True, kw_only=True, config=CONFIG)
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
    found = [(*_place(item, cls), item) for item in refused.errors(include_url=False)]
    for place, owner, item in found:
        if item["type"] == "unexpected_keyword_argument":
            yield f"{place}: unknown key; {advice(str(item['loc'][-1]), _names(owner))}"
        elif item["loc"][-1:] == ("[key]",) and item["type"] == "literal_error":
            yield f"{place}: unknown key; {advice(str(item['input']), _CHOICE.findall(item['ctx']['expected']))}"
        elif item["type"] == "missing":
            yield f"{place}: is required"
        elif _other_branch(place, item, found):
            continue
        elif isinstance(cause := item.get("ctx", {}).get("error"), Exception):
            yield f"{place}: {cause}" if place else str(cause)
        else:
            yield f"{place} is {_shown(place, item['input'])}: {_lower(_SUBJECT.sub('it must', item['msg']))}"


def _other_branch(place: str, item: Any, found: list[tuple[str, type, Any]]) -> bool:
    """Whether a problem is that of a union's branch nobody meant: the name where a table is given, or the reverse."""
    rivals = [other for at, _, other in found if other is not item and (at == place or at.startswith(f"{place}."))]
    wrong_kind = item["type"].startswith("dataclass") or isinstance(item["input"], Mapping)
    return bool(rivals) and wrong_kind


def _names(cls: type) -> list[str]:
    return [field.name for field in dataclasses.fields(cls) if field.init]


def _place(item: Any, cls: type) -> tuple[str, type]:
    """The dotted name of what a problem is about, and the options class it belongs to.

    Names that pydantic gives the branches of a union are left out.
    """
    names, owner, hint = [], cls, typing.cast(Any, cls)
    for index, part in enumerate(item["loc"]):
        if part == "[key]" and index == len(item["loc"]) - 1:
            break  # the problem is the key before it
        holder = nested_class(hint)
        if isinstance(part, int) or (origin := mapping_of(hint)) is not None:
            hint = hint if isinstance(part, int) else typing.get_args(origin)[1]
        elif holder is not None and part in _names(holder):
            owner, hint = holder, typing.get_type_hints(holder)[part]
        elif holder is not None and item["type"] == "unexpected_keyword_argument" and index == len(item["loc"]) - 1:
            owner = holder
        else:
            continue
        names.append(str(part) if str(part).isprintable() else repr(part))
    return ".".join(names), owner


def mapping_of(hint: Any) -> Any:
    """The `Mapping[str, X]` in a type hint, or None."""
    inner = (hint, *typing.get_args(hint)) if typing.get_origin(hint) in _UNIONS else (hint,)
    return next((one for one in inner if typing.get_origin(one) in (dict, Mapping)), None)


def nested_class(hint: Any) -> type | None:
    """The options class inside a type hint, or None.

    >>> nested_class(int | None) is None
    True
    """
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return hint
    if typing.get_origin(hint) in (*_UNIONS, typing.Annotated, tuple, list, dict, Mapping):
        return next((found for part in typing.get_args(hint) if (found := nested_class(part))), None)
    return None


def _shown(place: str, value: Any) -> str:
    """A refused value as a message shows it: short, and without a secret."""
    if is_secret(place.rpartition(".")[2]):
        return MASK
    text = hidden(repr(value))
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 3]}..."


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]
