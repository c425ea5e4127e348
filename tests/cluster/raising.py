"""A signal with a bug, importable on the workers: see test_operations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import pyarrow as pa

from pipelines.signals import Row, SignalBase, sidecar


class Raising(SignalBase):
    """Fails on the part that holds rollout 13 of the prompts' order; a gate for the others."""

    kind: ClassVar[str] = "format"

    def score(self, rollouts: pa.Table, inputs: Mapping[str, pa.Table]) -> pa.Table:
        row = Row(values={"format_reward": 1.0, "format_ok": True})
        answers = rollouts["answer"].to_pylist()
        return sidecar(self.kind, rollouts, [row if answer != "13" else self.broken(answer) for answer in answers])

    def broken(self, answer: str) -> Row:
        raise ZeroDivisionError(f"answer {answer}")
