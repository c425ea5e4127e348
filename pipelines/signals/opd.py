"""Signals `opd` and `g_opd`: on-policy distillation as a process signal, formed from stored log-probabilities.

    OPD     l_teacher(t) - l_policy(t)
    G-OPD   -[(l_policy(t) - l_base(t)) - lambda * (l_teacher(t) - l_base(t))]        (paper, Eq. 5)

No model is run here. The policy's values are the rollouts' own where they were sampled at temperature 1 without
truncation; else a `logprobs` signal of the policy must be named, for only full-vocabulary values at temperature 1 may
be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pass_ops import g_opd_scores, opd_scores
from pass_ops.reading.ragged import list_array, list_lengths, list_values, offsets, one_chunk
from pass_ops.shards import DatasetSpec, SamplingFacts
from pipelines.options import Table, options
from pipelines.parts.granularity import PROCESS_KINDS, Per
from pipelines.signals.base import SignalInputError, SignalOptionError
from pipelines.signals.columns import columnar_sidecar, spread
from pipelines.signals.prompt_columns import check_columns, columns_by_prompt, of_group
from pipelines.signals.stepwise import STEP_COLUMNS, StepwiseSignal


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

    @property
    def reads(self) -> tuple[str, ...]:
        """The policy's log-probabilities where no signal gives them, the group that chooses a teacher, the steps."""
        policy = () if self.policy else ("behavior_logprobs",)
        return (*policy, *(("group_id",) if self.by else ()), *(STEP_COLUMNS if self.per == "step" else ()))

    def score(self, rollouts: pa.Table, inputs: Mapping[str, pa.Table]) -> pa.Table:
        """Per-token differences of the rows that have all their values; then their sums over steps where asked."""
        teachers = self._teacher_of(rollouts, inputs)
        known_R, detail = self._lacking(teachers, inputs)
        columns = {role: inputs[name]["logprobs"] for role, name in self._others().items()}
        columns["teacher"] = self._taught(teachers, inputs)
        if self.policy is None:
            columns["policy"] = rollouts["behavior_logprobs"]
        if not known_R.all():
            columns = {role: column.filter(pa.array(known_R)) for role, column in columns.items()}
        values = {"process_scores": self._per_token({role: one_chunk(column) for role, column in columns.items()})}
        if self.per == "step":
            values = _summed(values["process_scores"], [steps.ends for steps in self.cut(rollouts.filter(known_R))])
        status = None if known_R.all() else pc.if_else(pa.array(known_R), "ok", "no_input")
        values = {name: spread(column, known_R) for name, column in values.items()}
        return columnar_sidecar(self.kind, rollouts, values, status=status, detail=detail)

    def _teacher_of(self, rollouts: pa.Table, inputs: Mapping[str, pa.Table]) -> _Choice:
        """Which teacher each rollout has, and the value that chose it."""
        place = {name: number for number, name in enumerate(self._teachers)}
        default = place.get(self.teacher or "", -1)
        if self.by is None:
            return _Choice(np.full(len(rollouts), default), [None], np.zeros(len(rollouts), np.int64))
        columns = columns_by_prompt(inputs["prompts"])
        groups = one_chunk(rollouts["group_id"]).dictionary_encode()
        values = [of_group(columns, group).get(self.by) for group in groups.dictionary.to_pylist()]
        chosen = np.array([place.get(self.teachers.get(str(value), ""), default) for value in values], np.int64)
        group_R = groups.indices.to_numpy()
        return _Choice(chosen[group_R], values, group_R)

    def _lacking(
        self, teachers: _Choice, inputs: Mapping[str, pa.Table]
    ) -> tuple[NDArray[np.bool_], list[str | None] | None]:
        """Which rows have all their values, and what the others lack and why; None where none lacks any."""
        named = {name: one_chunk(inputs[name]["status"]) for name in (*self._teachers, *self._others().values())}
        ok = {name: pc.equal(status, "ok").to_numpy(zero_copy_only=False) for name, status in named.items()}
        known_R = teachers.place_R >= 0
        for name in self._others().values():
            known_R = known_R & ok[name]
        for place, name in enumerate(self._teachers):
            known_R = known_R & (ok[name] | (teachers.place_R != place))
        if known_R.all():
            return known_R, None
        return known_R, [
            None if known else self._reason(row, teachers, named) for row, known in enumerate(known_R.tolist())
        ]

    def _reason(self, row: int, teachers: _Choice, statuses: Mapping[str, pa.Array]) -> str:
        """Which values a row lacks and why."""
        place, others = int(teachers.place_R[row]), self._others()
        named = others if place < 0 else {"teacher": self._teachers[place], **others}
        reasons = [] if place >= 0 else [f"there is no teacher for {self.by} {teachers.value_of(row)!r}"]
        found = {role: statuses[name][row].as_py() for role, name in named.items()}
        return "; ".join([*reasons, *(f"{role}: {status}" for role, status in found.items() if status != "ok")])

    def _taught(self, teachers: _Choice, inputs: Mapping[str, pa.Table]) -> pa.ChunkedArray:
        """Each row's values by its own teacher; those of a row without one do not count."""
        tables = [inputs[name]["logprobs"] for name in self._teachers]
        if len(tables) == 1:
            return tables[0]
        rows = np.maximum(teachers.place_R, 0) * len(teachers.place_R) + np.arange(len(teachers.place_R))
        every = pa.chunked_array([chunk for table in tables for chunk in table.chunks], type=tables[0].type)
        return every.take(pa.array(rows, pa.int64()))

    def _per_token(self, columns: Mapping[str, pa.ListArray]) -> pa.ListArray:
        return opd_scores(policy=columns["policy"], teacher=columns["teacher"])


@options(SignalOptionError)
class GOpdSignal(OpdSignal):
    """G-OPD (paper, Eq. 5): distillation relative to a base model; lam = 1 is opd."""

    base: str
    """Name of a logprobs signal of the actor's initial weights, the policy before round 0. Example: "base"."""
    lam: float = 1.25
    """Weight lambda of the teacher's gain over the base; above 1 extrapolates beyond the teacher."""

    def _others(self) -> dict[str, str]:
        return {**super()._others(), "base": self.base}

    def _per_token(self, columns: Mapping[str, pa.ListArray]) -> pa.ListArray:
        return g_opd_scores(policy=columns["policy"], base=columns["base"], teacher=columns["teacher"], lam=self.lam)


@dataclass(frozen=True)
class _Choice:
    """Each row's teacher by its place among the signals, -1 for none; and the value that chose it, by group."""

    place_R: NDArray[np.int64]
    values: Sequence[Any]
    group_R: NDArray[np.int64]

    def value_of(self, row: int) -> Any:
        return self.values[int(self.group_R[row])]


def _summed(scores: pa.ListArray, ends: Sequence[Sequence[int]]) -> dict[str, pa.ListArray]:
    """Token scores as sums over steps (float64 sums, stored as float32). ends: of each row's steps."""
    steps_R = np.fromiter(map(len, ends), np.int64, len(ends))
    ends_E = np.fromiter(chain.from_iterable(ends), np.int32, int(steps_R.sum()))
    starts_E = np.empty(len(ends_E), np.int64)
    starts_E[1:] = ends_E[:-1]
    starts_E[offsets(steps_R)[:-1][steps_R > 0]] = 0
    starts_E += np.repeat(offsets(list_lengths(scores))[:-1], steps_R)
    sums_E = np.add.reduceat(list_values(scores).astype(np.float64), starts_E) if len(starts_E) else np.empty(0)
    starts_R1 = offsets(steps_R)
    sums = list_array(starts_R1, sums_E.astype(np.float32))
    return {"process_scores": sums, "process_ends": list_array(starts_R1, ends_E)}
