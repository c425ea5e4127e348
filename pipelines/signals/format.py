"""Signal `format`: does the completion have the form that was asked for?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pyarrow as pa

from pass_ops.importing import source_digest
from pass_ops.shards import DatasetSpec
from pipelines.signals.base import Row, SignalOptionError, sidecar
from pipelines.signals.calls import CallingSignal, check_call, check_target

_MATCHES = "pipelines.verifiers.regex:matches"


@dataclass(frozen=True, kw_only=True)
class FormatSignal(CallingSignal):
    """format_ok of every rollout, and format_reward: reward_ok or reward_bad.

    Either pattern, a regular expression (Python's `re`) that matches the whole text (mode fullmatch) or a part of it
    (mode search); or function, an import path `module:function` of (text, **function_options) -> bool. Both run in
    killable processes, for either may take for ever on some text.
    """

    kind: ClassVar[str] = "format"

    pattern: str | None = None
    mode: Literal["fullmatch", "search"] = "fullmatch"
    function: str | None = None
    function_options: Mapping[str, Any] = field(default_factory=dict)
    reward_ok: float = 1.0
    reward_bad: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.pattern is None) == (self.function is None):
            given = "neither" if self.pattern is None else "both"
            raise SignalOptionError(
                f"of pattern and function {given} is set; a format signal needs exactly one of them"
            )
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except re.error as error:
                raise SignalOptionError(f"pattern {self.pattern!r} is no regular expression: {error}") from error
        else:
            check_target("function", self._target)

    @property
    def _target(self) -> str:
        return self.function or _MATCHES

    @property
    def _call_options(self) -> Mapping[str, Any]:
        return self.function_options if self.function else {"pattern": self.pattern, "mode": self.mode}

    def code(self) -> dict[str, str]:
        """The user's function."""
        return super().code() | ({self.function: source_digest(self.function)} if self.function else {})

    def check(self, rollouts: DatasetSpec, inputs: Mapping[str, DatasetSpec]) -> None:
        """The function can be called with its options."""
        check_call("function", self._target, ("text",), self._call_options)

    def score(self, rollouts: pa.Table, inputs: Mapping[str, pa.Table]) -> pa.Table:
        """Check the text of every rollout."""
        calls = [(text,) for text in rollouts["text"].to_pylist()]
        results = self._call(calls, adapter="pipelines.verifiers.base:plain_bool", options=self._call_options)
        rewards = {True: self.reward_ok, False: self.reward_bad}
        rows = [
            Row(values={"format_reward": rewards[result.value], "format_ok": result.value})
            if result.status == "ok"
            else Row(result.status, result.detail)
            for result in results
        ]
        return sidecar(self.kind, rollouts, rows)
