"""What each command prints under --json, as a JSON Schema (draft 2020-12) made from the classes that are printed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any

import pydantic
from pydantic.json_schema import GenerateJsonSchema
from typing_extensions import TypedDict

from pass_ops.shards import Finding, Manifest
from pass_ops.support.nearest import advice
from pipelines.cli.failures import Failed
from pipelines.cli.reference import Section
from pipelines.exports.write import Exported
from pipelines.gpu_check.base import Status
from pipelines.imports.facts import Facts
from pipelines.imports.guess import Guess
from pipelines.inspect.diff.runs import RunDiff
from pipelines.inspect.explain.explanation import Explanation
from pipelines.inspect.lint.findings import LintFinding
from pipelines.inspect.prm_check.check import SignalReport
from pipelines.inspect.prm_check.labels import LabelReport
from pipelines.inspect.sweep.results import SettingResult
from pipelines.inspect.views.status import Progress
from pipelines.inspect.watch import Snapshot
from pipelines.options import ConfigError
from pipelines.runs.cost import Estimate as Cost
from pipelines.runs.doctor import Diagnosis
from pipelines.runs.evaluate import Estimate, EvalResult
from pipelines.runs.leftovers import Leftover
from pipelines.runs.lineage import Lineage
from pipelines.runs.summary import ShapedSummary
from pipelines.signals.reverify import VerdictDiff


@dataclass(frozen=True, kw_only=True)
class MadeDataset(Manifest):
    """A dataset's manifest, and its folder."""

    folder: str


@dataclass(frozen=True, kw_only=True)
class MadeExport(Exported):
    """What was written, and its folder."""

    folder: str


@dataclass(frozen=True, kw_only=True)
class MaybeRemoved(Leftover):
    """What was left behind, and whether it was removed."""

    removed: bool


@dataclass(frozen=True, kw_only=True)
class Explained(Explanation):
    """The arithmetic, and the text of each chunk that is stored; None without the policy's tokenizer."""

    texts: list[str] | None


class Written(TypedDict):
    """The file that was written."""

    file: str


class Completion(TypedDict):
    """script: what the shell evaluates."""

    shell: str
    script: str


class MadePolicy(TypedDict):
    """policy: its folder. metrics: `trainer.summary.summarize` of the steps."""

    policy: str
    metrics: dict[str, float]


class StageMemory(TypedDict):
    """What a stage holds on each GPU, in GiB, by what holds it. problem: None where it fits."""

    stage: str
    model: str
    gpus: int
    gib: dict[str, float]
    total_gib: float
    usable_gib: float
    host_gib: float
    problem: str | None


class DryRun(TypedDict):
    """What --dry-run prints. config: the resolved configuration. schedule: round -> scheduled option -> its value.
    estimate: of one round, or of the evaluation where the command makes nothing else. evaluation: of all that the
    command makes beside its rounds; None where it makes none. unchecked: for want of a package.
    """

    config: dict[str, Any]
    schedule: dict[str, dict[str, Any]]
    estimate: Cost
    evaluation: Cost | None
    memory: list[StageMemory]
    unchecked: list[str]


class Import(TypedDict):
    """facts: of the source. datasets: manifests by folder."""

    facts: Facts
    datasets: dict[str, Manifest]


class Rescored(TypedDict):
    """imported: what is known of the rollouts now. left_out: signals. datasets: manifests by folder."""

    imported: dict[str, Any]
    left_out: list[str]
    datasets: dict[str, Manifest]


@dataclass(frozen=True, kw_only=True)
class Proposal(Guess):
    """What --guess proposes. command: to import the file; None where nothing looks like a completion."""

    command: str | None


class Trainings(TypedDict):
    """Of a RUN. plot: the file drawn. rounds: means of each round's metrics."""

    plot: str
    rounds: list[dict[str, Any]]


class View(TypedDict):
    """The file that was written. sampling: the rule by which rows were chosen. settings: those compared, by name."""

    file: str
    bytes: int
    sampling: dict[str, Any]
    settings: list[str]


class Demo(TypedDict):
    """rounds: one row a round. gains: paired differences of pass@1, from the start and to the teacher's round.

    credit: the viewer's file.
    """

    seed: int
    rounds: list[dict[str, str | float | None]]
    gains: dict[str, Estimate]
    credit: str


class CheckLine(TypedDict):
    """One check; every check is one object on a line of its own."""

    check: str
    status: Status
    device: str
    why: str
    seconds: float
    figures: dict[str, float | str]
    limits: dict[str, str]


#: command -> what it prints; several where its arguments decide
RESULTS: Mapping[str, tuple[Any, ...]] = {
    "run": (ShapedSummary, DryRun),
    "rounds": (Lineage, DryRun),
    "init": (Written,),
    "options": (list[Section],),
    "schema": (dict[str, Any],),
    "generate": (MadeDataset, DryRun),
    "score": (dict[str, Manifest], dict[str, VerdictDiff], DryRun),
    "shape": (MadeDataset, DryRun),
    "train": (MadePolicy, DryRun),
    "eval": (dict[str, EvalResult], DryRun),
    "sft": (MadePolicy,),
    "import": (Import, Proposal),
    "rescore": (Rescored,),
    "inspect": (list[dict[str, Any]], Trainings),
    "status": (Progress,),
    "top": (Snapshot,),
    "doctor": (Diagnosis,),
    "completion": (Completion,),
    "verify": (list[Finding],),
    "clean": (list[MaybeRemoved],),
    "export": (MadeExport,),
    "finalize": (MadeDataset,),
    "sweep": (list[SettingResult],),
    "explain": (Explained,),
    "diff": (RunDiff,),
    "lint": (list[LintFinding],),
    "view": (View,),
    "prm-check": (SignalReport, LabelReport),
    "demo": (Demo,),
    "gpu-check": (CheckLine,),
}


def result_schema(command: str) -> dict[str, Any]:
    """The schema of a command's output: its result, or what it prints where it fails. Raises ConfigError."""
    if command not in RESULTS:
        fix = advice(command, RESULTS)
        raise ConfigError(f"there is no command {command!r}; {fix}", place=command, fix=fix)
    printed = reduce(or_, (*RESULTS[command], Failed))
    schema = pydantic.TypeAdapter(printed).json_schema(mode="serialization", schema_generator=_Printed)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"passrl {command} --json", **schema}


class _Printed(GenerateJsonSchema):
    """A printed object has every field of its class, and no other."""

    def field_is_required(self, field: Any, total: bool) -> bool:
        """Also where the class has a default."""
        return field["type"] == "dataclass-field" or super().field_is_required(field, total)

    def dataclass_schema(self, schema: Any) -> dict[str, Any]:
        """Without further fields."""
        return {**super().dataclass_schema(schema), "additionalProperties": False}

    def typed_dict_schema(self, schema: Any) -> dict[str, Any]:
        """Without further fields, unless it says otherwise."""
        return {"additionalProperties": False, **super().typed_dict_schema(schema)}
