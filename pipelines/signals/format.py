"""Signal `format`: does the completion have the form that was asked for?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field
from typing import Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.compute as pc

from pass_ops.shards import DatasetSpec
from pass_ops.support.importing import source_digest
from pipelines.options import Table, options
from pipelines.signals.base import SignalOptionError
from pipelines.signals.calls import CallingSignal, check_call, check_target, states, texts
from pipelines.signals.columns import columnar_sidecar
from pipelines.verifiers.batches import Columns

_MATCHES = "pipelines.verifiers.regex:matches"


@options(SignalOptionError)
class FormatSignal(CallingSignal):
    """Whether a rollout's text has the form that was asked for, by a regular expression or a function of yours."""

    kind: ClassVar[str] = "format"

    pattern: str | None = None
    """A regular expression (Python's `re`) for the text. Set this or function. Example: '(?s).*####\\s*-?\\d+'."""
    mode: Literal["fullmatch", "search"] = "fullmatch"
    """Whether the pattern must match the whole text, or is searched for in it."""
    function: str | None = None
    """Your own check as module:function of (text, **function_options) -> bool. Example: "my_checks:well_formed"."""
    function_options: Table = field(default_factory=dict)
    """Keyword arguments of the function. Example: { lines = 3 }."""
    reward_ok: float = 1.0
    """format_reward where the format is right."""
    reward_bad: float = 0.0
    """format_reward where it is not."""

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

    @property
    def needs_known(self) -> tuple[str, ...]:
        """Nothing: it reads the text."""
        return ()

    @property
    def reads(self) -> tuple[str, ...]:
        """The text."""
        return ("text",)

    def score(self, rollouts: pa.Table, inputs: Mapping[str, pa.Table]) -> pa.Table:
        """Check the text of every rollout."""
        calls = Columns(texts(rollouts["text"]))
        results = self._call(calls, adapter="pipelines.verifiers.base:plain_bool", options=self._call_options)
        right = pa.array([result.value for result in results], pa.bool_())
        reward = pc.if_else(right, pa.scalar(self.reward_ok, pa.float32()), pa.scalar(self.reward_bad, pa.float32()))
        values = {"format_reward": reward, "format_ok": right}
        return columnar_sidecar(self.kind, rollouts, values, **states(results))
