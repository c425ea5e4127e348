"""Signals `opd` and `g_opd`: on-policy distillation as a process signal, formed from stored log-probabilities.

    OPD     l_teacher(t) - l_policy(t)
    G-OPD   -[(l_policy(t) - l_base(t)) - lambda * (l_teacher(t) - l_base(t))]        (paper, Eq. 5)

No model is run here. The policy's values are the rollouts' own where they were sampled at temperature 1 without
truncation; else a `logprobs` signal of the policy must be named, for only full-vocabulary values at temperature 1 may
be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pass_ops import g_opd_scores, opd_scores
from pass_ops.ragged import ragged
from pass_ops.shards import DatasetSpec, SamplingFacts
from pipelines.options import options
from pipelines.parts.granularity import PROCESS_KINDS, Per
from pipelines.signals.base import Row, SignalInputError, SignalOptionError, sidecar
from pipelines.signals.stepwise import StepwiseSignal


@options(SignalOptionError)
class OpdSignal(StepwiseSignal):
    """On-policy distillation: the teacher's log-probability minus the policy's, per token or summed over steps.

    A row without one of its values is null with status no_input.
    """

    teacher: str
    """Name of the teacher's logprobs signal. Example: "teacher"."""
    policy: str | None = None
    """Name of a logprobs signal of the policy (default: the rollouts' behavior_logprobs, which must be those of
    temperature 1 without truncation). Example: "policy"."""
    per: Per = "token"
    """One score per token, or one per step; only steps use the separator."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.inputs)) < len(self.inputs):
            raise SignalOptionError(
                f"one signal stands for two models: {', '.join(self.inputs)}; their difference is always 0"
            )

    @property
    def kind(self) -> str:
        """Per token or per step."""
        return PROCESS_KINDS[self.per]

    @property
    def inputs(self) -> tuple[str, ...]:
        """The logprobs signals it is formed from."""
        return tuple(self._roles().values())

    def _roles(self) -> dict[str, str]:
        roles = {"teacher": self.teacher, "policy": self.policy}
        return {role: name for role, name in roles.items() if name is not None}

    @property
    def needs_tokenizer(self) -> bool:
        """Where steps are cut."""
        return self.per == "step"

    def options(self) -> dict[str, Any]:
        """The separator counts only where steps are cut."""
        options = super().options()
        return options if self.per == "step" else {name: options[name] for name in options if name != "separator"}

    def check(self, rollouts: DatasetSpec, inputs: Mapping[str, DatasetSpec]) -> None:
        """Every input holds log-probabilities, the policy's those of temperature 1 over the full vocabulary."""
        for role, name in self._roles().items():
            kind = inputs[name].options.get("kind")
            if kind != "logprobs":
                raise SignalInputError(f"{role}: the signal {name!r} is of kind {kind}; give one of kind logprobs")
        sampling = rollouts.carried.get("sampling") or {}
        if self.policy is None and not SamplingFacts.of(sampling).full_vocabulary_at_one:
            raise SignalInputError(
                f"the rollouts were sampled with {dict(sampling)}: their behavior_logprobs are not those of "
                "temperature 1 over the "
                "full vocabulary, so they cannot be compared with the teacher's. Make a logprobs signal of the "
                "policy's own model "
                'and name it as option "policy".'
            )

    def score(self, rollouts: pa.Table, inputs: Mapping[str, pa.Table]) -> pa.Table:
        """Per-token differences of the rows that have all their values; then their sums over steps where asked."""
        roles = self._roles()
        lacking = [
            _lacking(roles, {name: inputs[name]["status"][row].as_py() for name in roles.values()})
            for row in range(len(rollouts))
        ]
        known = pa.array(np.flatnonzero([text is None for text in lacking]))
        columns = {role: inputs[name]["logprobs"].take(known) for role, name in roles.items()}
        columns.setdefault("policy", rollouts["behavior_logprobs"].take(known))
        scores = ragged(self._per_token(columns))
        found = (scores.row(row) for row in range(len(known)))
        rows = [Row("no_input", text) if text else Row(values={"process_scores": next(found)}) for text in lacking]
        if self.per == "step":
            rows = [_summed(row, steps.ends) for row, steps in zip(rows, self.cut(rollouts), strict=True)]
        return sidecar(self.kind, rollouts, rows)

    def _per_token(self, columns: Mapping[str, pa.ChunkedArray]) -> pa.ListArray:
        return opd_scores(policy=columns["policy"].combine_chunks(), teacher=columns["teacher"].combine_chunks())


@options(SignalOptionError)
class GOpdSignal(OpdSignal):
    """G-OPD (paper, Eq. 5): distillation relative to a base model; lam = 1 is opd."""

    base: str
    """Name of a logprobs signal of the actor's initial weights, the policy before round 0. Example: "base"."""
    lam: float = 1.25
    """Weight lambda of the teacher's gain over the base; above 1 extrapolates beyond the teacher."""

    def _roles(self) -> dict[str, str]:
        return {**super()._roles(), "base": self.base}

    def _per_token(self, columns: Mapping[str, pa.ChunkedArray]) -> pa.ListArray:
        arrays = {role: column.combine_chunks() for role, column in columns.items()}
        return g_opd_scores(policy=arrays["policy"], base=arrays["base"], teacher=arrays["teacher"], lam=self.lam)


def _lacking(roles: Mapping[str, str], statuses: Mapping[str, str]) -> str | None:
    """Which inputs of a row are null and why; None where none is."""
    return "; ".join(f"{role}: {statuses[name]}" for role, name in roles.items() if statuses[name] != "ok") or None


def _summed(row: Row, ends: Sequence[int]) -> Row:
    """A row's token scores as sums over its steps (float64 sums, stored as float32)."""
    if row.status != "ok":
        return row
    scores_T = np.asarray(row.values["process_scores"], dtype=np.float64)
    starts = [0, *ends[:-1]] if ends else []
    sums = np.add.reduceat(scores_T, starts) if starts else scores_T
    return Row(values={"process_scores": sums.astype(np.float32), "process_ends": list(ends)})
