"""Verifier `code`: the program in a completion passes the reference's tests.

`pipelines.verifiers.code_forms` lists the forms of a reference: HumanEval's, MBPP's, APPS's, LiveCodeBench's, and
Python tests of one's own. Every test has processes of its own (`pipelines.verifiers.sandbox`), and expected values are
compared where the program does not run. docs/explanation/sandbox.md says what holds a program that would rather not be
tested.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypedDict

from pipelines.verifiers.answers import Reasoning, after_reasoning
from pipelines.verifiers.base import Verdict
from pipelines.verifiers.code_forms import CallTest, CodeTest, OutputTest, Reference, read_reference
from pipelines.verifiers.fences import defined_names, parsed, program_of
from pipelines.verifiers.outputs import same_output
from pipelines.verifiers.reference_code import NothingTestedError, main_function
from pipelines.verifiers.sandbox import Budget, run_python, run_test

_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_OUTPUT_ROOM = 1 << 20  # bytes beside several times the wanted output, for white space and long decimals


@contextmanager
def _integers_of_any_length() -> Iterator[None]:
    """References and programs hold more than the 4,300 digits that Python reads by default."""
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(before)


@_integers_of_any_length()
def verify(
    text: str,
    answer: str,
    *,
    form: str | None = None,
    entry_point: str | None = None,
    test_timeout_s: float = 5.0,
    total_timeout_s: float = 120.0,
    memory_mb: int = 512,
    partial: bool = False,
    preamble: str = "",
    reasoning: Reasoning = "skip",
) -> Verdict:
    """Correct where every test passes; with partial = true the reward is the share that does.

    The program is the last Python block of the text (`pipelines.verifiers.fences`), else the whole text. A test for
    which no time is left is not passed.

    form: that of the reference, None = the one it looks like. entry_point: the function under test, None = the one the
    reference names, else the program's only one, or its last that no other calls. test_timeout_s: processor seconds for
    each test. total_timeout_s: seconds for all tests together. memory_mb: memory for each test in MB. partial: whether
    the reward is the share of tests passed. preamble: code before the program. reasoning: what is read; skip: what
    follows the reasoning, required: the same, and nothing where the reasoning has no end, keep: the whole text.

    Raises ValueError for a reference in none of the forms, for one that tests nothing, and where its own code fails for
    want of a module.
    """
    try:
        reference = read_reference(answer, form=form, entry_point=entry_point)
    except NothingTestedError:
        if _defines_something(program_of(after_reasoning(text, reasoning))):
            raise
        return Verdict(correct=False)  # whatever was meant to be tested, this has it not
    program = program_of(after_reasoning(text, reasoning), reference.names)
    if not program.strip():
        return Verdict(correct=False, unparseable=True)
    candidate = _Candidate(parts=_parts(program, reference, preamble), entry=reference.entry or _main(program))
    limits: _Limits = {
        "timeout_s": test_timeout_s,
        "memory_mb": memory_mb,
        "prelude": reference.prelude,
        "budget": Budget(total_timeout_s),
    }
    passed = 0
    for number, test in enumerate(reference.tests):
        passed += _passes(candidate, test, reference, limits)
        if passed <= number and not partial:
            break
    return Verdict(
        correct=passed == len(reference.tests),
        reward=passed / len(reference.tests) if partial else None,
        extracted=program[:2000],
    )


class _Limits(TypedDict):
    """What a run is given beside its program and test."""

    timeout_s: float
    memory_mb: int
    prelude: str
    budget: Budget


@dataclass(frozen=True)
class _Candidate:
    """A program, in parts that are compiled one by one, and the function of it that is tested."""

    parts: list[str]
    entry: str | None


def _parts(program: str, reference: Reference, preamble: str) -> list[str]:
    """The program after its preamble and prompt; without the function under test it is the prompt's continuation."""
    prompt = reference.prompt
    if prompt and reference.entry not in defined_names(program):
        parts = [preamble, prompt + program]
    else:
        parts = [preamble, prompt if parsed(prompt) else "", program]
    return [part for part in parts if part.strip()]


def _main(program: str) -> str | None:
    tree = parsed(program)
    return None if tree is None else main_function(tree)


def _defines_something(program: str) -> bool:
    tree = parsed(program)
    return tree is not None and any(isinstance(node, _DEFINITIONS) for node in ast.walk(tree))


def _passes(
    candidate: _Candidate, test: OutputTest | CallTest | CodeTest, reference: Reference, limits: _Limits
) -> bool:
    """Raises ValueError where the test is at fault."""
    if isinstance(test, OutputTest):
        room = _OUTPUT_ROOM + 8 * len(test.output)
        run = run_python(candidate.parts, stdin=test.stdin, output_limit=room, **limits)
        same = same_output(run.output, test.output, tolerance=test.tolerance, blank_lines=test.blank_lines)
        return run.status == "ok" and same
    needs_entry = isinstance(test, CallTest) or test.uses.candidate or reference.entry is not None
    if needs_entry and candidate.entry is None:
        return False
    given = _call(candidate, test) if isinstance(test, CallTest) else _code(candidate, test, reference, needs_entry)
    status, detail = run_test(candidate.parts, given, **limits)
    if status == "reference":
        raise ValueError(detail)
    return status == "passed"


def _call(candidate: _Candidate, test: CallTest) -> dict[str, Any]:
    return {
        "entry": candidate.entry,
        "arguments": test.arguments,
        "wanted": test.wanted,
        "tolerance": test.tolerance,
    }


def _code(candidate: _Candidate, test: CodeTest, reference: Reference, needs_entry: bool) -> dict[str, Any]:
    # What the prompt defines is not asked of the program, which could have changed it.
    prompt = reference.prompt if parsed(reference.prompt) else ""
    return {
        "parts": test.parts,
        "prompt": prompt,
        "entry": candidate.entry if needs_entry else None,
        "names": [] if prompt else [name for name in test.uses.names if name != reference.entry],
        "builtins": list(test.uses.builtins),
        "modules": list(test.uses.modules),
    }
