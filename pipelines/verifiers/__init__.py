"""Verifiers: functions that judge a completion against a reference answer, and the killable processes they run in.

Only light modules are imported here, for the pool's child processes import this package: the pool itself is
`pipelines.verifiers.pool`.
"""

from __future__ import annotations

from pipelines.verifiers.base import Verdict

#: verifiers by short name; any other is given as an import path `module:function`
VERIFIERS = {
    "choice": "pipelines.verifiers.choice:verify",
    "code": "pipelines.verifiers.code_tests:verify",
    "exact": "pipelines.verifiers.exact:verify",
    "math": "pipelines.verifiers.math_answer:verify",
    "number": "pipelines.verifiers.number:verify",
    "reasoning_gym": "pipelines.verifiers.reasoning_gym:verify",
    "regex": "pipelines.verifiers.regex:verify",
    "squad": "pipelines.verifiers.squad:verify",
}

#: module -> packages whose version decides its verdicts
LIBRARIES = {
    "pipelines.verifiers.equations": ("simpleeval",),
    "pipelines.verifiers.math_answer": ("math-verify", "latex2sympy2-extended", "sympy"),
    "pipelines.verifiers.reasoning_gym": ("reasoning-gym",),
}

#: module -> raised with every change of its verdicts, for the fingerprint; those left out are as they were at first
REVISIONS = {
    "pipelines.verifiers.choice": 2,
    "pipelines.verifiers.code_tests": 2,
    "pipelines.verifiers.equations": 2,
    "pipelines.verifiers.exact": 2,
    "pipelines.verifiers.math_answer": 2,
    "pipelines.verifiers.number": 2,
    "pipelines.verifiers.python_steps": 2,
    "pipelines.verifiers.reasoning_gym": 2,
    "pipelines.verifiers.squad": 2,
}

__all__ = ["LIBRARIES", "REVISIONS", "VERIFIERS", "Verdict"]
