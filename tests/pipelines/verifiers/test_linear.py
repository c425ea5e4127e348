"""No verifier takes more than linear time on what a collapsed policy writes.

A process of its own with a limit on processor time is the detector: what takes quadratic time on 150,000 characters
needs minutes a text, what takes linear time less than a second.
"""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

SIZE = 150_000
LIMIT_S = 60  # of processor time; all texts together take a tenth of it
COLLAPSED = (
    "\n", " ", "(", "$", "$$", "\\", "\\(", "\\[", "{", "}", "*", "-", "=", "1", ".", "[", "a", "½", "\\boxed{",
    "\\boxed ",
    "\\boxed{5}", "\\frac{", "\\text{", "1,111", "1.111.111,", "1 111 ", "1e", "3/", "1=", "1 + 1 = ", "2 x ",
    "5 apples ",
    "A ", "(A) ", "A.\n", "answer ", "Answer: ", "answer is ", "The answer is A or ", "答案", "$1$, ", "#### ",
    "<answer>",
    "</answer>", "<think>", "</think>", "<<", "x = 5\n",
)  # fmt: skip
PROGRAM = """
import sys
from tests.pipelines.verifiers.test_linear import COLLAPSED, SIZE
from pipelines.verifiers.{module} import {function}
for unit in COLLAPSED:
    text = (unit * SIZE)[:SIZE]
    for whole in (text, "x" + text + "y"):
        sys.stdout.write(repr(unit) + "\\n")
        sys.stdout.flush()
        {call}
"""
CALLS = {
    "math": ("math_answer", "verify", "verify(whole, '5')"),
    "number": ("number", "verify", "verify(whole, '5')"),
    "choice": ("choice", "verify", "verify(whole, 'B')"),
    "squad": ("squad", "verify", "verify(whole, 'Paris', reward='f1')"),
    "exact": ("exact", "verify", "verify(whole, 'Paris')"),
    "regex": ("regex", "verify", "verify(whole, '5', pattern='A([0-9])')"),
    "reasoning_gym": ("answers", "answer_text", "answer_text(whole)"),
    "equations": ("equations", "check_steps", "check_steps('', [whole])"),
}


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_S, LIMIT_S))


@pytest.mark.parametrize("verifier", CALLS)
def test_a_collapsed_policy_costs_linear_time(verifier: str) -> None:
    module, function, call = CALLS[verifier]
    program = PROGRAM.format(module=module, function=function, call=call)
    ran = subprocess.run(
        [sys.executable, "-c", program], preexec_fn=limited, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, f"it ended at {ran.stdout.splitlines()[-1:]}: {ran.stderr[-500:]}"
