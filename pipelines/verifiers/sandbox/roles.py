"""What a confined process does: a script with input and output, a program that tests call, the cells of a notebook.

These run in the process that the program has in its hands, so nothing here is relied on: what they report is what the
program says, and is weighed elsewhere (`sandbox`, `harness`, `code_tests`). Stdlib only.
"""

from __future__ import annotations

import re
import socket
import sys
import types
import typing
from collections.abc import Sequence
from typing import Any

from pipelines.verifiers.sandbox.peers import Peer

#: module name under which the program of a call form is known, as `from solution import f` in tests has it
SOLUTION = "solution"
NONCE_BYTES = 8
_CALLS = re.compile(r"[A-Za-z_][\w.]*(\(\))?[\w.]*")


def script(given: dict[str, Any], descriptors: Sequence[int]) -> None:
    """The program as `python program.py`: it reads its standard input and writes its output."""
    del descriptors
    sys.argv[:] = ["program.py"]
    _run(given["parts"], _namespace("__main__", given["prelude"]))


def program(given: dict[str, Any], descriptors: Sequence[int]) -> None:
    """The program as a module whose functions the tests call, from a process of their own."""
    line = socket.socket(fileno=descriptors[0])
    namespace = _namespace(SOLUTION, given["prelude"])

    def load(entry: str | None, names: Sequence[str]) -> dict[str, object]:
        """The program's own of these names; what `entry` names stands under the key ""."""
        _run(given["parts"], namespace)
        found = {name: namespace[name] for name in names if namespace.get(name) is not given_names.get(name)}
        return found if entry is None else found | {"": _entry(entry, namespace)}

    given_names = dict(namespace)
    Peer(line, load, guarded=False).serve()


def cells(given: dict[str, Any], descriptors: Sequence[int]) -> None:
    """Pieces of code in one namespace, each when the supervisor says so, which is then told whether it ran through."""
    line = socket.socket(fileno=descriptors[0])
    namespace = _namespace("__main__", "")
    for code in given["parts"]:
        nonce = line.recv(NONCE_BYTES)
        if not nonce:
            return
        try:
            _run([code], namespace)
        except BaseException:  # noqa: BLE001  whatever a cell raises, the next one is run all the same
            line.send(nonce + b"0")
        else:
            line.send(nonce + b"1")


def _namespace(name: str, prelude: str) -> dict[str, Any]:
    """The globals of a new module with the names of typing, and with those that the data set's own harness provides."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    module.__dict__.update(names_of_typing())
    exec(prelude, module.__dict__)
    return module.__dict__


def names_of_typing() -> dict[str, Any]:
    """What annotations of programs and tests name without importing it."""
    return {one: getattr(typing, one) for one in typing.__all__}


def _run(parts: Sequence[str], namespace: dict[str, Any]) -> None:
    # Compiled one by one: a __future__ import of a later part would stand too late in the whole.
    for part in parts:
        exec(compile(part, "program.py", "exec", dont_inherit=True), namespace)


def _entry(entry: str, namespace: dict[str, Any]) -> object:
    """What the tests call: a function of the program, a method of its class Solution, or such as `Solution().f`."""
    if not _CALLS.fullmatch(entry):
        raise ValueError(f"{entry!r} is not the name of a function")
    solution = namespace.get("Solution")
    if entry.isidentifier() and isinstance(solution, type) and hasattr(solution, entry):
        return getattr(solution(), entry)
    return eval(entry, namespace)
