"""What a reference's Python tests use and test, from reading them: they are not run here. Stdlib only."""

from __future__ import annotations

import ast
import builtins
import symtable
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_BUILTINS = frozenset(dir(builtins))


@dataclass(frozen=True, kw_only=True)
class Uses:
    """The program's names in some tests. builtins: it may define them and is meant where it does. modules: not its own.

    candidate: they call what they call `candidate`, or leave a check(candidate) to be called.
    """

    names: tuple[str, ...]
    builtins: tuple[str, ...]
    modules: tuple[str, ...]
    candidate: bool


def check_tests(code: str) -> None:
    """Raises ValueError for tests that cannot be run against a program in another process, or that are no tests."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"the reference answer {code[:80]!r} is no test: {error}") from error
    for node in ast.walk(tree):
        line = f"line {getattr(node, 'lineno', 1)}"
        if isinstance(node, (ast.Await, ast.AsyncFunctionDef)) or _imports(node, "asyncio"):
            raise ValueError(f"the reference's tests await what the program defines ({line}), which is not supported")
        if _imports(node, "unittest.mock") or _imports(node, "mock") or _replaces_input(node):
            raise ValueError(
                f"the reference's tests change the program's process ({line}), in which they do not run: "
                "they would call a right program wrong"
            )
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test") and _required(node):
            raise ValueError(f"the reference's {node.name} takes arguments, as a fixture of pytest's: it is given none")
    if not has_test(code):
        raise NothingTestedError(f"the reference answer {code[:80]!r} is no test: nothing in it can fail")


class NothingTestedError(ValueError):
    """Python that any program passes."""


def has_test(code: str) -> bool:
    """Whether anything in it can fail: an assertion, a raise, a call named like one."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError):
        return True  # said where it is read
    return any(
        isinstance(node, (ast.Assert, ast.Raise))
        or (isinstance(node, ast.Call) and _called(node).lower().startswith(("assert", "check", "fail")))
        for node in ast.walk(tree)
    )


def uses(parts: Sequence[str]) -> Uses:
    """What these parts, run one after the other, take from elsewhere."""
    trees = [ast.parse(part) for part in parts]
    defined = set()
    free: set[str] = set()
    for part, tree in zip(parts, trees, strict=True):
        table = symtable.symtable(part, "tests.py", "exec")
        defined |= {
            symbol.get_name()
            for symbol in table.get_symbols()
            if symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace()
        }
        free |= set(_referenced(table)) | set(_imported_from_solution(tree))
    free -= defined - {name for tree in trees for name in _imported_from_solution(tree)}
    nodes = [node for tree in trees for node in ast.walk(tree)]
    owners = {_name(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    modules = {name for name in free & owners if name in sys.stdlib_module_names}
    left_to_call = {node.name for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)} & {"check"}
    for node in nodes:
        if isinstance(node, ast.Call):
            left_to_call.discard(_called(node))
    names = {name for name in free - modules - _BUILTINS - {"candidate"} if not name.startswith("__")}
    called = {_called(node) for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    return Uses(
        names=tuple(sorted(names)),
        # MBPP has functions named sum and the like; where tests call anything else, a builtin is the builtin
        builtins=() if names or "candidate" in free or left_to_call else tuple(sorted(free & _BUILTINS & called)),
        modules=tuple(sorted(modules)),
        candidate="candidate" in free or bool(left_to_call),
    )


def main_function(tree: ast.Module) -> str | None:
    """The function that a program is about: the last that no other code of it names; None where it defines none."""
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == "Solution":
            functions += [one for one in node.body if isinstance(one, ast.FunctionDef) and not one.name.startswith("_")]
    named = {_name(node) for function in functions for node in ast.walk(function) if _name(node) != function.name}
    roots = [function.name for function in functions if function.name not in named]
    return next(reversed(roots or [function.name for function in functions]), None)


def _referenced(table: symtable.SymbolTable) -> Iterator[str]:
    """Names of the module's namespace that code reads, in whatever scope."""
    for symbol in table.get_symbols():
        if symbol.is_referenced() and (table.get_type() == "module" or symbol.is_global()):
            yield symbol.get_name()
    for inner in table.get_children():
        yield from _referenced(inner)


def _imported_from_solution(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "solution":
            yield from (alias.name for alias in node.names if alias.name != "*")
        if isinstance(node, ast.Attribute) and _name(node.value) == "solution":
            yield node.attr


def _imports(node: ast.AST, module: str) -> bool:
    if isinstance(node, ast.Import):
        return any(alias.name == module for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        return node.module == module or any(f"{node.module}.{alias.name}" == module for alias in node.names)
    return False


def _replaces_input(node: ast.AST) -> bool:
    """Whether it puts something in the place of the input or of a builtin. (Output comes back from the program.)"""
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and (_name(node.value) == "builtins" or (_name(node.value), node.attr) in {("sys", "stdin"), ("sys", "argv")})
    )


def _required(function: ast.FunctionDef) -> bool:
    arguments = function.args
    return len(arguments.posonlyargs + arguments.args) > len(arguments.defaults) or None in arguments.kw_defaults


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else _name(node.func)


def _name(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.arg):
        return node.arg
    return node.attr if isinstance(node, ast.Attribute) else ""
