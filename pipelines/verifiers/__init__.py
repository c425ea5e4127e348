"""Verifiers: functions that judge a completion against a reference answer, and the killable processes they run in.

Only light modules are imported here, for the pool's child processes import this package: the pool itself is
`pipelines.verifiers.pool`.
"""

from __future__ import annotations

from pipelines.verifiers.base import Verdict

#: verifiers by short name; any other is given as an import path `module:function`
VERIFIERS = {
    "exact": "pipelines.verifiers.exact:verify",
    "number": "pipelines.verifiers.number:verify",
    "regex": "pipelines.verifiers.regex:verify",
}

__all__ = ["VERIFIERS", "Verdict"]
