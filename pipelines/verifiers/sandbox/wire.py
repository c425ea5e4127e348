"""Python values as text between two processes that do not trust each other: plain data goes over, code never does.

A message holds values and, apart from them, the mutable containers they refer to, by number. So a list that is named
twice arrives as one list, and an answer brings back what became of the containers that came with the question. What is
neither plain data nor found in the standard library by its name stays where it is: the other side gets its number, and
a `Remote` (`pipelines.verifiers.sandbox.peers`) stands for it. Nothing is unpickled. Stdlib only.
"""

from __future__ import annotations

import base64
import datetime
import functools
import importlib
import sys
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

#: what stands for a value in a message: JSON's own, or an object with the key "t"
Wire = Any

_JSON_INTEGERS = 1 << 53
#: immutable types of the standard library: to arguments that JSON holds, and back
_VALUES: dict[type, tuple[Callable[[Any], list[Any]], Callable[..., Any]]] = {
    complex: (lambda value: [value.real, value.imag], complex),
    range: (lambda value: list(map(hex, (value.start, value.stop, value.step))), lambda *ends: range(*_whole(ends))),
    Decimal: (lambda value: [str(value)], Decimal),
    Fraction: (lambda value: [hex(value.numerator), hex(value.denominator)], lambda *two: Fraction(*_whole(two))),
    datetime.date: (lambda value: [value.isoformat()], datetime.date.fromisoformat),
    datetime.time: (lambda value: [value.isoformat()], datetime.time.fromisoformat),
    datetime.datetime: (lambda value: [value.isoformat()], datetime.datetime.fromisoformat),
    datetime.timedelta: (lambda value: [value.days, value.seconds, value.microseconds], datetime.timedelta),
}  # fmt: skip
_VALUES_BY_NAME = {one.__name__: back for one, (_, back) in _VALUES.items()}
_SEQUENCES: dict[type, str] = {list: "list", deque: "deque", set: "set", bytearray: "bytearray"}
_MAPPINGS: dict[type, str] = {dict: "dict", OrderedDict: "OrderedDict", Counter: "Counter", defaultdict: "defaultdict"}
_CONTAINERS: dict[str, type] = {name: one for one, name in (_SEQUENCES | _MAPPINGS).items()}


class WireError(Exception):
    """A message that says nothing this module knows: the other side is at fault."""


class Message:
    """The containers of one message, by number; an answer goes on with those of its question."""

    def __init__(self, exported: Callable[[object], Wire], *, by_name: bool = False) -> None:
        """exported: what stands for an object that stays here. by_name: modules and functions go by name too."""
        self.containers: list[Any] = []
        self.by_name = by_name
        self._numbers: dict[int, int] = {}
        self._exported = exported

    def encode(self, value: Any) -> Wire:
        """What stands for a value; containers it meets for the first time are numbered."""
        if value is None or isinstance(value, bool):
            return value
        for base, encoded in _ENCODERS:
            if isinstance(value, base):
                return encoded(self, value)
        if type(value) in _VALUES:
            return {"t": type(value).__name__, "v": _VALUES[type(value)][0](value)}
        return self._known(value) or self._array(value) or self._exported(value)

    def contents(self) -> list[Wire]:
        """What every container of the message holds now, those that are met on the way among them."""
        found: list[Wire] = []
        while len(found) < len(self.containers):
            one = self.containers[len(found)]
            if isinstance(one, dict):
                name = _MAPPINGS.get(type(one), "dict")
                found.append([name, [[self.encode(key), self.encode(value)] for key, value in dict.items(one)]])
            else:
                name = next(name for base, name in _SEQUENCES.items() if isinstance(one, base))
                found.append([name, [self.encode(value) for value in one]])
        return found

    def receive(self, contents: list[Wire], imported: Callable[[Wire], Any]) -> Callable[[Wire], Any]:
        """Make or change the containers to what another side says they hold; what then reads a value of the message."""
        for name, _ in contents[len(self.containers) :]:
            self._number(_CONTAINERS[name]())
        read = functools.partial(_decode, containers=self.containers, imported=imported, by_name=self.by_name)
        for one, (_, held) in zip(self.containers, contents, strict=True):
            if isinstance(one, dict):
                items = [(read(key), read(value)) for key, value in held]
                one.clear()
                one.update(items) if not isinstance(one, Counter) else dict.update(one, items)
            else:
                values = [read(value) for value in held]
                one.clear()
                one.update(values) if isinstance(one, set) else one.extend(values)
        return read

    def _container(self, value: Any) -> Wire:
        number = self._numbers.get(id(value))
        return {"t": "container", "v": self._number(value) if number is None else number}

    def _number(self, value: Any) -> int:
        self._numbers[id(value)] = len(self.containers)
        self.containers.append(value)  # kept, so that its id stays its own
        return len(self.containers) - 1

    def _items(self, value: Any) -> list[Wire]:
        return [self.encode(one) for one in value]

    def _known(self, value: Any) -> Wire:
        """A class, and by_name a function or module, by the name under which the other side has its own."""
        if isinstance(value, types.ModuleType):
            return {"t": "known", "v": [value.__name__, ""]} if self.by_name else None
        kinds = (type, types.FunctionType, types.BuiltinFunctionType) if self.by_name else type
        module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
        if not isinstance(value, kinds) or not _is_stdlib(module):
            return None
        found: Any = sys.modules.get(str(module))
        for part in str(name).split("."):
            found = getattr(found, part, None)
        return {"t": "known", "v": [module, name]} if found is value else None

    def _array(self, value: Any) -> Wire:
        """Numpy's scalars and arrays, where the program has loaded numpy."""
        numpy = sys.modules.get("numpy")
        if numpy is None or not isinstance(value, (numpy.generic, numpy.ndarray)) or value.dtype.hasobject:
            return None
        if isinstance(value, numpy.generic):
            return self.encode(value.item()) if not isinstance(value.item(), numpy.generic) else None
        return {"t": "ndarray", "v": [value.dtype.str, list(value.shape), base64.b64encode(value.tobytes()).decode()]}


def _integer(_: Message, value: int) -> Wire:
    # In hexadecimal: reading decimal digits takes quadratic time, and Python refuses more than 4,300 of them.
    return int(value) if -_JSON_INTEGERS < value < _JSON_INTEGERS else {"t": "int", "v": hex(value)}


_ENCODERS: tuple[tuple[Any, Callable[[Message, Any], Wire]], ...] = (
    (int, _integer),
    (float, lambda _, value: float(value)),
    (str, lambda _, value: str.__str__(value)),
    (bytes, lambda _, value: {"t": "bytes", "v": base64.b64encode(value).decode()}),
    (tuple, lambda message, value: {"t": "tuple", "v": message._items(value)}),
    (frozenset, lambda message, value: {"t": "frozenset", "v": message._items(value)}),
    ((list, dict, set, bytearray, deque), Message._container),
)


def _decode(value: Wire, *, containers: list[Any], imported: Callable[[Wire], Any], by_name: bool) -> Any:
    if not isinstance(value, dict):
        return value
    read = functools.partial(_decode, containers=containers, imported=imported, by_name=by_name)
    kind, held = value["t"], value["v"]
    plain: dict[str, Callable[[], Any]] = {
        "container": lambda: containers[held],
        "tuple": lambda: tuple(map(read, held)),
        "frozenset": lambda: frozenset(map(read, held)),
        "int": lambda: int(held, 16),
        "bytes": lambda: base64.b64decode(held),
        "ndarray": lambda: _array(*held),
        "known": lambda: _load(*held, by_name=by_name),
    }
    if kind in _VALUES_BY_NAME:
        return _VALUES_BY_NAME[kind](*held)
    return plain[kind]() if kind in plain else imported(value)


def _array(kind: str, shape: list[int], data: str) -> Any:
    numpy = _import("numpy")
    return numpy.frombuffer(base64.b64decode(data), numpy.dtype(kind)).reshape(shape).copy()


def _load(module: str, name: str, *, by_name: bool) -> Any:
    """What a name stands for here. Of functions only those that were asked for: what answers, the tests may call."""
    if name and not _is_stdlib(module):
        raise WireError(f"{module}.{name} is not of the standard library")
    if not name and not by_name:
        raise WireError(f"the module {module} is no answer")
    found: Any = _import(module)
    for part in filter(None, name.split(".")):
        found = getattr(found, part)
    if not (by_name or isinstance(found, type)):
        raise WireError(f"the function {module}.{name} is no answer")
    return found


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:  # a name that the other side chose: its fault, not that of an import here
        raise WireError(str(error)) from None


def _is_stdlib(module: Any) -> bool:
    return isinstance(module, str) and module.partition(".")[0] in sys.stdlib_module_names


def _whole(texts: Sequence[str]) -> list[int]:
    return [int(text, 16) for text in texts]
