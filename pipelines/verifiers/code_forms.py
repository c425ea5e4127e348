r"""The references of the verifier `code`: what published sets hold, read into tests. Stdlib only.

humaneval      {"test": code with check(candidate), "entry_point": name, "prompt": code}: HumanEval, its variants,
               BigCodeBench
mbpp           {"test_list": [...], "test_setup_code": code, "challenge_test_list": [...]}
apps           {"inputs": [...], "outputs": [...]}, with "fn_name" where a function is called; or a row's
               {"input_output": ...}
livecodebench  a list of {"input", "output", "testtype"}, or a row's {"public_test_cases", "private_test_cases",
               "metadata"}
asserts        a list of statements, each a test; those without a test in them come before each of the others
tests          a text of Python: statements, check(candidate), test functions and classes

A JSON text within JSON (as the sets' own files have it) is read through. What holds no test is refused.
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.verifiers.reference_code import Uses, check_tests, has_test, uses

FORMS = ("humaneval", "mbpp", "apps", "livecodebench", "asserts", "tests")
APPS_TOLERANCE = 1e-5  # numpy.allclose, by which its harness compares numbers

_MODULES = [
    "string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics", "itertools",
    "functools", "operator", "io", "sys", "json",
]  # fmt: skip
#: what the harnesses of APPS and LiveCodeBench put before every program
CONTEST_PRELUDE = (
    "".join(f"from {name} import *\n" for name in [*_MODULES, "builtins", "typing"])
    + "".join(f"import {name}\n" for name in _MODULES)
    + "import time\nsys.setrecursionlimit(50000)\n"
)


@dataclass(frozen=True, kw_only=True)
class OutputTest:
    """The program is given `stdin` and writes `output`."""

    stdin: str
    output: str
    tolerance: float
    blank_lines: bool


@dataclass(frozen=True, kw_only=True)
class CallTest:
    """The function gives one of the values `wanted` for these arguments."""

    arguments: list[Any]
    wanted: list[Any]
    tolerance: float


@dataclass(frozen=True, kw_only=True)
class CodeTest:
    """These parts run through, one after the other, in the namespace that `prompt` makes."""

    parts: list[str]
    uses: Uses


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a reference answer says.

    entry: the function that is called, None = to be found in the program where a test needs one. prompt: code that the
    completion goes on with. prelude: code of the set's own harness before the program.
    """

    tests: Sequence[OutputTest | CallTest | CodeTest]
    entry: str | None = None
    prompt: str = ""
    prelude: str = ""
    names: frozenset[str] = field(default=frozenset())


def read_reference(answer: str, *, form: str | None = None, entry_point: str | None = None) -> Reference:
    """The tests in a reference answer. form: the one it must have, None = the one it looks like.

    Raises ValueError for an answer in none of the forms, of another form, or without a test.
    """
    loaded = _loaded(answer)
    looks_like = _form(loaded)
    if form is not None and form not in FORMS:
        raise ValueError(f"form is {form!r}; choose one of {', '.join(FORMS)}")
    if looks_like is None or form not in {None, looks_like}:
        raise ValueError(
            f"the reference answer {answer[:80]!r} is no test"
            + (
                f" of the form {form}; it looks like {looks_like}"
                if looks_like
                else f" of the forms {', '.join(FORMS)}"
            )
            + " (docs/reference/verifiers.md shows each)"
        )
    reference = _READERS[looks_like](loaded, entry_point)
    if not reference.tests:
        raise ValueError(f"the reference answer {answer[:80]!r} is no test: it holds an empty list of them")
    return reference


def _loaded(answer: str) -> Any:
    """The answer's JSON, where JSON texts are JSON again; a text of Python as it is."""
    found: Any = answer
    while isinstance(found, str):
        try:
            found = json.loads(found)
        except ValueError:
            return found
    return found


def _form(loaded: Any) -> str | None:
    if isinstance(loaded, str):
        return "tests"
    if isinstance(loaded, list) and loaded:
        if all(isinstance(one, str) for one in loaded):
            return "asserts"
        return "livecodebench" if all(isinstance(one, dict) and "input" in one for one in loaded) else None
    if isinstance(loaded, dict):
        for form, keys in (
            ("livecodebench", {"public_test_cases", "private_test_cases"}),
            ("mbpp", {"test_list", "challenge_test_list"}),
            ("humaneval", {"test"}),
            ("apps", {"input_output", "inputs"}),
        ):
            if keys & loaded.keys():
                return form
    return None


def _humaneval(loaded: dict[str, Any], entry_point: str | None) -> Reference:
    entry, prompt = entry_point or loaded.get("entry_point"), str(loaded.get("prompt") or "")
    return _code([], [str(loaded["test"])], entry, prompt)


def _mbpp(loaded: dict[str, Any], entry_point: str | None) -> Reference:
    setup = [*loaded.get("test_imports", ()), str(loaded.get("test_setup_code") or "")]
    tests = [*(loaded.get("test_list") or ()), *(loaded.get("challenge_test_list") or ())]
    return _code([part for part in setup if part.strip()], tests, entry_point)


def _asserts(loaded: list[str], entry_point: str | None) -> Reference:
    tests = [one for one in loaded if has_test(one)]
    return _code([one for one in loaded if not has_test(one)], tests, entry_point)


def _text(loaded: str, entry_point: str | None) -> Reference:
    return _code([], [loaded], entry_point)


def _code(setup: list[str], tests: list[str], entry: str | None, prompt: str = "") -> Reference:
    found = []
    for test in tests:
        check_tests(test)
        found.append(CodeTest(parts=[*setup, test], uses=uses([*setup, test])))
    names = {name for test in found for name in (*test.uses.names, *test.uses.builtins)}
    return Reference(tests=found, entry=entry, prompt=prompt, names=frozenset(names | ({entry} if entry else set())))


def _apps(loaded: dict[str, Any], entry_point: str | None) -> Reference:
    loaded = _loaded(loaded["input_output"]) if "input_output" in loaded else loaded
    inputs, outputs = (loaded.get(key) if isinstance(loaded, dict) else None for key in ("inputs", "outputs"))
    if not (isinstance(inputs, list) and isinstance(outputs, list) and len(inputs) == len(outputs)):
        raise ValueError("the reference answer is no test: its inputs and outputs are not two lists of equal length")
    entry = entry_point or loaded.get("fn_name") or None
    tests = [
        _call(given, wanted, APPS_TOLERANCE)
        if entry
        else OutputTest(stdin=_lines(given), output=_lines(wanted), tolerance=APPS_TOLERANCE, blank_lines=False)
        for given, wanted in zip(inputs, outputs, strict=True)
    ]
    return Reference(tests=tests, entry=entry, prelude=CONTEST_PRELUDE, names=frozenset({entry} if entry else set()))


def _livecodebench(loaded: Any, entry_point: str | None) -> Reference:
    row = loaded if isinstance(loaded, dict) else {}
    cases = _cases(loaded) if isinstance(loaded, list) else []
    for key in ("public_test_cases", "private_test_cases"):
        cases = [*cases, *_cases(row.get(key) or [])]
    metadata = _loaded(row.get("metadata") or "{}")
    entry = entry_point or metadata.get("func_name")
    for case in cases:
        entry = entry or case.get("fn_name") or (case.get("metadata") or {}).get("func_name")
    tests = [
        _call(case["input"], case["output"], 0.0)
        if (case.get("testtype") or case.get("type") or ("functional" if entry else "stdin")) in _FUNCTIONAL
        else OutputTest(stdin=_lines(case["input"]), output=_lines(case["output"]), tolerance=0.0, blank_lines=True)
        for case in cases
    ]
    return Reference(tests=tests, entry=entry, prelude=CONTEST_PRELUDE, names=frozenset({entry} if entry else set()))


_FUNCTIONAL = frozenset({"functional", "function_call"})
_READERS = {
    "humaneval": _humaneval,
    "mbpp": _mbpp,
    "apps": _apps,
    "livecodebench": _livecodebench,
    "asserts": _asserts,
    "tests": _text,
}


def _cases(held: Any) -> list[dict[str, Any]]:
    """Test cases of a row of LiveCodeBench: a list, its JSON, or that pickled, packed and in base64."""
    found = _loaded(held)
    if isinstance(found, str):
        try:
            found = _loaded(_TextUnpickler(io.BytesIO(zlib.decompress(base64.b64decode(found)))).load())
        except (ValueError, zlib.error, pickle.UnpicklingError, EOFError) as error:
            raise ValueError(f"the reference's test cases are no test: they cannot be unpacked ({error})") from error
    cases = found if isinstance(found, list) else [found]
    if not all(isinstance(one, dict) and {"input", "output"} <= one.keys() for one in cases):
        raise ValueError("the reference answer is no test: a test case has input and output")
    return list(cases)


class _TextUnpickler(pickle.Unpickler):
    """Text comes out of it, and no object."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it holds {module}.{name}")


def _call(given: Any, wanted: Any, tolerance: float) -> CallTest:
    """A call: arguments as a list, or as a text with one JSON value a line, as the value then is too."""
    if isinstance(given, str):
        try:
            arguments = [json.loads(line) for line in given.splitlines() if line.strip()]
            wanted = json.loads(wanted) if isinstance(wanted, str) else wanted
        except ValueError as error:
            raise ValueError(f"the reference's call {given[:80]!r} is no test: not one JSON value a line") from error
        return CallTest(arguments=arguments, wanted=[wanted], tolerance=tolerance)
    arguments = given if isinstance(given, list) else [given]
    alone = [wanted[0]] if isinstance(wanted, list) and len(wanted) == 1 else []
    return CallTest(arguments=arguments, wanted=[wanted, *alone], tolerance=tolerance)


def _lines(value: Any) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)
