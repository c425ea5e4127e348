"""Signals `opd` and `g_opd`: on-policy distillation as a process signal, formed from stored log-probabilities.

    OPD     l_teacher(t) - l_policy(t)
    G-OPD   -[(l_policy(t) - l_base(t)) - lambda * (l_teacher(t) - l_base(t))]        (paper, Eq. 5)

No model is run here. The policy's values are the rollouts' own where they were sampled at temperature 1 without
truncation; else a `logprobs` signal of the policy must be named, for only full-vocabulary values at temperature 1 may
be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any

import numpy as np
import pyarrow as pa

from pass_ops import g_opd_scores, opd_scores
from pass_ops.reading.ragged import ragged
from pass_ops.shards import DatasetSpec, SamplingFacts
from pipelines.options import Table, options
from pipelines.parts.granularity import PROCESS_KINDS, Per
from pipelines.signals.base import Row, SignalInputError, SignalOptionError, sidecar
from pipelines.signals.prompt_columns import check_columns, columns_by_prompt, of_group
from pipelines.signals.stepwise import StepwiseSignal


@options(SignalOptionError)
class OpdSignal(StepwiseSignal):
    """On-policy distillation: the teacher's log-probability minus the policy's, per token or summed over steps.

    A row without one of its values is null with status no_input.
    """

    teacher: str | None = None
    """Name of the teacher's logprobs signal; with teachers, of the one for values that are not among them. Example:
    "teacher"."""
    teachers: Table = field(default_factory=dict)
    """Several teachers: value of the column named in by -> name of a logprobs signal. Example:
    { math = "math-teacher", code = "code-teacher" }."""
    by: str | None = None
    """The column of the prompts that chooses among teachers: source, or a name of prompts.extra. Example: "domain"."""
    policy: str | None = None
    """Name of a logprobs signal of the policy (default: the rollouts' behavior_logprobs, which must be those of
    temperature 1 without truncation). Example: "policy"."""
    per: Per = "token"
    """One score per token, or one per step; only steps use the separator."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.teacher is None and not self.teachers:
            raise SignalOptionError("no teacher is named; give teacher, or teachers and by")
        if bool(self.teachers) != (self.by is not None):
            has, lacks = ("by", "teachers") if self.by is not None else ("teachers", "by")
            raise SignalOptionError(f"{has} is set and {lacks} is not; by names the column that chooses among teachers")
        for value, name in self.teachers.items():
            if not isinstance(name, str):
                raise SignalOptionError(f"teachers.{value} is {name!r}; give the name of a logprobs signal")
        others = list(self._others().values())
        signals = [*self._teachers, *others]
        if len(set(others)) < len(others) or set(self._teachers) & set(others):
            raise SignalOptionError(
                f"one signal stands for two models: {', '.join(signals)}; their difference is always 0"
            )

    @property
    def kind(self) -> str:
        """Per token or per step."""
        return PROCESS_KINDS[self.per]

    @property
    def inputs(self) -> tuple[str, ...]:
        """The logprobs signals it is formed from, and the prompts where they choose the teacher."""
        return (*self._teachers, *self._others().values(), *(("prompts",) if self.by is not None else ()))

    @property
    def _teachers(self) -> tuple[str, ...]:
        """The teachers' signals, each once."""
        default = [self.teacher] if self.teacher is not None else []
        return tuple(dict.fromkeys([*default, *self.teachers.values()]))

    def _others(self) -> dict[str, str]:
        """The other models' signals by role."""
        return {} if self.policy is None else {"policy": self.policy}

    @property
    def needs_tokenizer(self) -> bool:
        """Where steps are cut."""
        return self.per == "step"

    def options(self) -> dict[str, Any]:
        """The separator counts only where steps are cut, teachers only where there are several."""
        unused = [*([] if self.per == "step" else ["separator"]), *([] if self.by is not None else ["teachers", "by"])]
        return {name: value for name, value in super().options().items() if name not in unused}

    @property
    def needs_known(self) -> tuple[str, ...]:
        """The token ids, and the policy's own log-probabilities where no signal gives them."""
        return ("token_ids", "loss_mask", *([] if self.policy else ["behavior_logprobs"]))

    def check(self, rollouts: DatasetSpec, inputs: Mapping[str, DatasetSpec]) -> None:
        """Every input holds log-probabilities, the policy's those of temperature 1 over the full vocabulary."""
        if self.by is not None:
            check_columns([self.by], inputs["prompts"], option="by")
        for role, name in [*(("teacher", name) for name in self._teachers), *self._others().items()]:
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
        others = self._others()
        lacking = self._lacking(rollouts, inputs)
        known = pa.array(np.flatnonzero([text is None for text in lacking]), pa.int64())
        columns = {role: inputs[name]["logprobs"].take(known) for role, name in others.items()}
        columns["teacher"] = self._taught(rollouts, inputs).take(known)
        columns.setdefault("policy", rollouts["behavior_logprobs"].take(known))
        scores = ragged(self._per_token(columns))
        found = (scores.row(row) for row in range(len(known)))
        rows = [Row("no_input", text) if text else Row(values={"process_scores": next(found)}) for text in lacking]
        if self.per == "step":
            rows = [_summed(row, steps.ends) for row, steps in zip(rows, self.cut(rollouts), strict=True)]
        return sidecar(self.kind, rollouts, rows)

    def _teacher_of(self, rollouts: pa.Table, inputs: Mapping[str, pa.Table]) -> list[tuple[str | None, Any]]:
        """For each rollout the signal of its teacher, None where it has none, and the value that chose it."""
        if self.by is None:
            return [(self.teacher, None)] * len(rollouts)
        columns = columns_by_prompt(inputs["prompts"])
        values = [of_group(columns, group).get(self.by) for group in rollouts["group_id"].to_pylist()]
        return [(self.teachers.get(str(value), self.teacher), value) for value in values]

    def _lacking(self, rollouts: pa.Table, inputs: Mapping[str, pa.Table]) -> list[str | None]:
        """Which values a row lacks and why; None where it lacks none."""
        found: list[str | None] = []
        statuses = {name: table["status"].to_pylist() for name, table in inputs.items() if name != "prompts"}
        for row, (teacher, value) in enumerate(self._teacher_of(rollouts, inputs)):
            named = self._others() if teacher is None else {"teacher": teacher, **self._others()}
            reasons = [] if teacher is not None else [f"there is no teacher for {self.by} {value!r}"]
            reasons += [f"{role}: {statuses[name][row]}" for role, name in named.items() if statuses[name][row] != "ok"]
            found.append("; ".join(reasons) or None)
        return found

    def _taught(self, rollouts: pa.Table, inputs: Mapping[str, pa.Table]) -> pa.ChunkedArray:
        """Each row's values by its own teacher; those of a row without one do not count."""
        place = {name: number for number, name in enumerate(self._teachers)}
        rows = [
            place.get(teacher or "", 0) * len(rollouts) + row
            for row, (teacher, _) in enumerate(self._teacher_of(rollouts, inputs))
        ]
        tables = [inputs[name]["logprobs"] for name in self._teachers]
        every = pa.chunked_array([chunk for table in tables for chunk in table.chunks], type=tables[0].type)
        return every.take(pa.array(rows, pa.int64()))

    def _per_token(self, columns: Mapping[str, pa.ChunkedArray]) -> pa.ListArray:
        return opd_scores(policy=columns["policy"].combine_chunks(), teacher=columns["teacher"].combine_chunks())


@options(SignalOptionError)
class GOpdSignal(OpdSignal):
    """G-OPD (paper, Eq. 5): distillation relative to a base model; lam = 1 is opd."""

    base: str
    """Name of a logprobs signal of the actor's initial weights, the policy before round 0. Example: "base"."""
    lam: float = 1.25
    """Weight lambda of the teacher's gain over the base; above 1 extrapolates beyond the teacher."""

    def _others(self) -> dict[str, str]:
        return {**super()._others(), "base": self.base}

    def _per_token(self, columns: Mapping[str, pa.ChunkedArray]) -> pa.ListArray:
        arrays = {role: column.combine_chunks() for role, column in columns.items()}
        return g_opd_scores(policy=arrays["policy"], base=arrays["base"], teacher=arrays["teacher"], lam=self.lam)


def _summed(row: Row, ends: Sequence[int]) -> Row:
    """A row's token scores as sums over its steps (float64 sums, stored as float32)."""
    if row.status != "ok":
        return row
    scores_T = np.asarray(row.values["process_scores"], dtype=np.float64)
    starts = [0, *ends[:-1]] if ends else []
    sums = np.add.reduceat(scores_T, starts) if starts else scores_T
    return Row(values={"process_scores": sums.astype(np.float32), "process_ends": list(ends)})
