"""Two processes that call each other's functions: the tests in one, a model's program in the other.

Each side keeps its own objects and gives the other a `Remote` for what is no plain data (`wire`).
The tests compare plain data that has come over, in their own process, so the program can neither read what it is
compared with nor take part: an object of the program's own is equal to no plain data, whatever its `__eq__` says, and
takes no operator against it. The program may call the functions it was handed and use the objects of the tests' own
classes, and nothing beyond.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import json
import operator
import socket
import struct
import sys
import types
from collections.abc import Callable
from typing import Any

from pipelines.verifiers.sandbox.wire import Message, Wire, WireError

MESSAGE_BYTES = 256 << 20
_LENGTH = struct.Struct("=Q")
#: what one side may ask of an object of the other
_OPERATIONS: dict[str, Callable[..., Any]] = {
    "call": lambda function, *arguments, **named: function(*arguments, **named),
    "getattr": getattr, "setattr": setattr, "isinstance": lambda kind, one: isinstance(one, kind),
    "issubclass": lambda kind, one: issubclass(one, kind), "enter": lambda one: type(one).__enter__(one),
    "exit": lambda one: type(one).__exit__(one, None, None, None),
    "contains": operator.contains, "getitem": operator.getitem, "setitem": operator.setitem,
    "delitem": operator.delitem, "len": len, "iter": iter, "next": next, "reversed": reversed,
    "str": str, "repr": repr, "bool": bool, "int": int, "float": float, "complex": complex, "index": operator.index,
    "abs": abs, "neg": operator.neg, "round": round, "format": format,
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge,
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "truediv": operator.truediv,
    "floordiv": operator.floordiv, "mod": operator.mod, "matmul": operator.matmul, "pow": operator.pow,
    "and": operator.and_, "or": operator.or_, "xor": operator.xor,
}  # fmt: skip
#: what takes two objects: never one of the program's and the tests' plain data, which is what it is compared with
_BETWEEN_REMOTES = frozenset({
    "eq", "ne", "lt", "le", "gt", "ge", "add", "sub", "mul", "truediv", "floordiv", "mod", "matmul", "pow", "and", "or",
    "xor", "contains",
})  # fmt: skip
_SPECIAL = [
    name for name in _OPERATIONS if name not in {"call", "getattr", "setattr", "isinstance", "issubclass", "exit"}
]


class Remote:
    """An object of the other side."""

    def __init__(self, peer: Peer, number: int) -> None:
        object.__setattr__(self, "_remote", (peer, number))

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return _ask(self, "call", *arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return _ask(self, "getattr", name)

    def __setattr__(self, name: str, value: Any) -> None:
        _ask(self, "setattr", name, value)

    def __hash__(self) -> int:
        return hash(object.__getattribute__(self, "_remote")[1])

    def __instancecheck__(self, one: Any) -> bool:
        return bool(_ask(self, "isinstance", one))

    def __subclasscheck__(self, one: Any) -> bool:
        return bool(_ask(self, "issubclass", one))

    def __exit__(self, *error: object) -> None:
        _ask(self, "exit")


def _ask(remote: Remote, operation: str, *arguments: Any, **named: Any) -> Any:
    peer, number = object.__getattribute__(remote, "_remote")
    return peer.ask(operation, number, *arguments, **named)


def _special(name: str) -> Callable[..., Any]:
    def method(self: Remote, *others: Any) -> Any:
        if name in _BETWEEN_REMOTES and not all(isinstance(other, Remote) for other in others):
            if name == "contains":
                raise TypeError("an object of the program's own is not asked for plain data")
            return NotImplemented
        return _ask(self, name, *others)

    return method


for _name in _SPECIAL:
    setattr(Remote, f"__{_name}__", _special(_name))


class Peer:
    """One side. root: what the other side may ask it for by number 0; guarded: it gives away only what tests hand out.

    asked: how many operations this side has asked for.
    """

    def __init__(self, line: socket.socket, root: object, *, guarded: bool) -> None:
        self.asked = 0
        self._line, self._guarded = line, guarded
        self._own: list[object] = [root]
        self._numbers: dict[int, int] = {id(root): 0}
        self._remotes: dict[int, Remote] = {}
        #: exception classes that the other side defines, by name: raised here in their stead
        self._errors: dict[str, type[BaseException]] = {}

    def ask(self, operation: str, number: int, *arguments: Any, by_name: bool = False, **named: Any) -> Any:
        """The answer to an operation on the other side's object. Raises what it raises there; EOFError: it is gone."""
        self.asked += 1
        message = Message(self._exported, by_name=by_name)
        asked = [message.encode(arguments), message.encode(named)]
        self._send({"op": operation, "on": number, "with": asked, "by_name": by_name, "holds": message.contents()})
        while "op" in (reply := self._receive()):
            self._answer(reply)
        sys.stdout.write(reply["printed"])
        read = message.receive(reply["holds"], self._imported)
        if "error" in reply:
            raise self._error(*reply["error"])
        return read(reply["value"])

    def serve(self) -> None:
        """Answer the other side until it hangs up."""
        while True:
            try:
                asked = self._receive()
            except (EOFError, OSError):
                return
            self._answer(asked)

    def _answer(self, asked: dict[str, Any]) -> None:
        message = Message(self._exported, by_name=bool(asked["by_name"]))
        reply: dict[str, Any]
        printed = io.StringIO()
        # What the program prints appears where the tests print, which may be looking at it.
        redirected = contextlib.nullcontext() if self._guarded else contextlib.redirect_stdout(printed)
        try:
            read = message.receive(asked["holds"], self._imported)
            arguments, named = (read(one) for one in asked["with"])
            own = self._own[asked["on"]]
            if self._guarded:
                _check(asked["op"], own, arguments)
            with redirected:
                value = _OPERATIONS[asked["op"]](own, *arguments, **named)
            reply = {"value": message.encode(value)}
        except BaseException as error:  # noqa: BLE001  it is raised on the other side, which asked for it
            # Not as it is: who asked must not hold frames of this side.
            names = [one.__name__ for one in type(error).__mro__]
            reply = {"error": [names, str(error)[:2000]]}
        reply |= {"holds": message.contents(), "printed": printed.getvalue()}
        self._send(reply)

    def _exported(self, value: object) -> Wire:
        if isinstance(value, Remote):
            return {"t": "yours", "v": object.__getattribute__(value, "_remote")[1]}
        if isinstance(value, type) and issubclass(value, Exception):
            return {"t": "error", "v": [one.__name__ for one in value.__mro__]}
        number = self._numbers.get(id(value))
        if number is None:
            number = self._numbers[id(value)] = len(self._own)
            self._own.append(value)  # kept, so that its id stays its own
        return {"t": "mine", "v": number}

    def _imported(self, value: Wire) -> Any:
        kind, held = value["t"], value["v"]
        if kind == "yours":
            return self._own[held]
        if kind == "error":
            return self._error_class(held)
        if kind == "mine":
            return self._remotes.setdefault(held, Remote(self, held))
        raise WireError(f"a message holds a value of the unknown kind {kind!r}")

    def _error_class(self, names: list[str]) -> type[BaseException]:
        for name in names:
            known: Any = self._errors.get(name) or getattr(builtins, name, None)
            if isinstance(known, type) and issubclass(known, BaseException):
                own: type[BaseException] = known if name == names[0] else type(names[0], (known,), {})
                self._errors[names[0]] = own
                return own
        raise WireError(f"{names[:1]} is no exception")

    def _error(self, names: list[str], text: str) -> BaseException:
        kind = self._error_class(names)
        if issubclass(
            kind, ModuleNotFoundError
        ):  # a module that the program lacks must not look like one that the tests lack
            kind = ImportError
        try:
            return kind(text)
        except TypeError:  # UnicodeDecodeError and others that take more than a text
            return RuntimeError(f"{names[0]}: {text}")

    def _send(self, message: dict[str, Any]) -> None:
        data = json.dumps(message).encode()
        self._line.sendall(_LENGTH.pack(len(data)) + data)

    def _receive(self) -> dict[str, Any]:
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size))
        if length > MESSAGE_BYTES:
            raise WireError(f"a message of {length} bytes")
        message = json.loads(self._read(length))
        if not isinstance(message, dict):
            raise WireError("a message that is no object")
        return message

    def _read(self, length: int) -> bytes:
        parts = []
        while length:
            part = self._line.recv(min(length, 1 << 20))
            if not part:
                raise EOFError("the other process has ended")
            parts.append(part)
            length -= len(part)
        return b"".join(parts)


def _check(operation: str, own: object, arguments: tuple[Any, ...]) -> None:
    """Refuse the program what the tests have not handed it: a function may be called, an object of theirs be used."""
    if operation in {"getattr", "setattr"}:
        if type(own).__module__ != TESTS or str(arguments[0]).startswith("_"):
            raise AttributeError(f"{arguments[0]!r} of an object of the tests is out of the program's reach")
    elif isinstance(own, (types.ModuleType, types.FrameType, types.CodeType)):
        raise TypeError("this object of the tests is out of the program's reach")


#: `__module__` of the classes that tests define
TESTS = "tests"
