"""The tests of a reference, run in a process of their own against a program in another. Stdlib only.

The process with the tests holds the expected values and the descriptor of the verdict; the program has neither, and
sees of a test only the arguments it is called with. `pipelines.verifiers.code_forms` says what a test is.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import io
import json
import math
import os
import socket
import sys
import types
import unittest
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pipelines.verifiers.sandbox.peers import TESTS, Peer, Remote
from pipelines.verifiers.sandbox.roles import SOLUTION, names_of_typing


class NothingTestedError(Exception):
    """The tests ran through and had nothing to do with the program."""


def tests(given: dict[str, Any], descriptors: Sequence[int]) -> None:
    """Run one test and write {"status": passed | failed | reference, "detail": ...} to its descriptor.

    reference: the tests themselves are at fault, whatever the program.
    """
    line, verdict = socket.socket(fileno=descriptors[0]), descriptors[1]
    peer = Peer(line, None, guarded=True)
    try:
        _call(given, peer) if "arguments" in given else _code(given, peer)
    except (NothingTestedError, ModuleNotFoundError) as error:
        status, detail = "reference", f"{type(error).__name__}: {error}"
    except BaseException as error:  # noqa: BLE001  whatever a test raises is that test's failure
        status, detail = "failed", f"{type(error).__name__}: {error}"
    else:
        status, detail = "passed", ""
    os.write(verdict, json.dumps({"status": status, "detail": detail[:500]}).encode())
    os._exit(0)  # threads of the tests are not waited for


def _load(peer: Peer, entry: str | None, names: Sequence[str]) -> dict[str, Any]:
    return dict(peer.ask("call", 0, entry, list(names), by_name=True))


def _call(given: dict[str, Any], peer: Peer) -> None:
    """A call with these arguments gives one of these values."""
    function = _load(peer, given["entry"], ())[""]
    found = function(*map(_whole_keys, given["arguments"]))
    if not any(same(found, wanted, tolerance=given["tolerance"]) for wanted in given["wanted"]):
        raise AssertionError("another value")


def _whole_keys(value: Any) -> Any:
    """JSON made texts of a dictionary's whole numbers."""
    if isinstance(value, dict) and value and all(key.lstrip("-").isdecimal() for key in value):
        return {int(key): held for key, held in value.items()}
    return value


def same(found: Any, wanted: Any, *, tolerance: float) -> bool:
    """Whether a call's value is the wanted one of a JSON file: tuples count as lists, floats within the tolerance.

    >>> same((1, [2.0000001]), [1, [2.0]], tolerance=1e-6), same({1: "a"}, {"1": "a"}, tolerance=0.0)
    (True, True)
    >>> same("1", 1, tolerance=0.0), same(1.5, 1.0, tolerance=0.0)
    (False, False)
    """
    if isinstance(found, (list, tuple)) and isinstance(wanted, (list, tuple)):
        return len(found) == len(wanted) and all(
            same(one, other, tolerance=tolerance) for one, other in zip(found, wanted, strict=True)
        )
    if isinstance(found, dict) and isinstance(wanted, dict):
        named, wanted = ({_key(key): value for key, value in one.items()} for one in (found, wanted))
        return named.keys() == wanted.keys() and all(
            same(named[key], wanted[key], tolerance=tolerance) for key in wanted
        )
    if isinstance(wanted, float) and isinstance(found, (int, float)) and not isinstance(found, bool):
        close = tolerance and math.isfinite(wanted) and abs(found - wanted) <= 1e-8 + tolerance * abs(wanted)
        return bool(found == wanted or close or (math.isnan(wanted) and math.isnan(found)))
    return bool(found == wanted)


def _key(key: Any) -> str:
    return key if isinstance(key, str) else json.dumps(key, default=repr)


def _code(given: dict[str, Any], peer: Peer) -> None:
    """The statements run through, and so do the test functions and classes that they define."""
    module = types.ModuleType(TESTS)
    sys.modules[TESTS] = module
    namespace = module.__dict__
    namespace.update(names_of_typing())
    if given["prompt"]:
        exec(compile(given["prompt"], "prompt.py", "exec", dont_inherit=True), namespace)
    own = _load(peer, given["entry"], [*given["names"], *given["builtins"]])
    loads = peer.asked
    candidate = own.pop("", None)
    namespace.update(own, **_modules(given["modules"]))
    if missing := [name for name in given["names"] if name not in namespace]:
        raise NameError(f"the program does not define {missing[0]!r}")
    if candidate is not None:
        namespace.setdefault("candidate", candidate)
        namespace[given["entry"]] = candidate
    solution = types.ModuleType(SOLUTION)
    solution.__dict__.update(own)
    sys.modules[SOLUTION] = solution
    for part in given["parts"]:
        exec(compile(part, "tests.py", "exec", dont_inherit=True), namespace)
    for called in _defined(given["parts"], namespace, candidate):
        called()
    if peer.asked == loads and not any(not isinstance(value, (Remote, types.ModuleType)) for value in own.values()):
        raise NothingTestedError("the reference's tests ran through without a use of the program: they test nothing")


def _modules(names: Sequence[str]) -> dict[str, types.ModuleType]:
    """Modules that the tests use by name without an import of their own: this process's, not what the program says."""
    return {name: importlib.import_module(name) for name in names}


def _defined(parts: Sequence[str], namespace: dict[str, Any], candidate: Any) -> list[Callable[[], None]]:
    """What the tests define and leave to a harness to call: check(candidate), test functions, test classes."""
    found: list[Callable[[], None]] = []
    trees = [ast.parse(part) for part in parts]
    called = {
        node.func.id
        for tree in trees
        for statement in tree.body
        if not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        for node in ast.walk(statement)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    for name in dict.fromkeys(node.name for tree in trees for node in tree.body if isinstance(node, _DEFINITIONS)):
        value = namespace.get(name)
        if name in called or value is None:
            continue
        if isinstance(value, type):
            found += _methods(value)
        elif name == "check" and candidate is not None:
            found.append(partial(value, candidate))
        elif name.startswith("test"):
            found.append(value)
    return found


_DEFINITIONS = (ast.FunctionDef, ast.ClassDef)


def _methods(kind: type) -> list[Callable[[], None]]:
    """The test methods of a class of unittest's or of pytest's kind."""
    if issubclass(kind, unittest.TestCase):
        return [partial(_run_cases, kind)]
    names = [name for name in vars(kind) if name.startswith("test")] if kind.__name__.startswith("Test") else []
    return [partial(_run_method, kind, name) for name in names]


def _run_cases(kind: type[unittest.TestCase]) -> None:
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(kind)
    result = unittest.TextTestRunner(stream=io.StringIO(), failfast=True).run(suite)
    problems = [text for _, text in (*result.failures, *result.errors)]
    if problems or result.unexpectedSuccesses:
        raise AssertionError("".join(problems)[-400:])


def _run_method(kind: type, name: str) -> None:
    test: Any = kind()
    if hasattr(test, "setup_method"):
        setup = test.setup_method
        setup(getattr(test, name)) if inspect.signature(setup).parameters else setup()
    getattr(test, name)()
    if hasattr(test, "teardown_method"):
        test.teardown_method()
