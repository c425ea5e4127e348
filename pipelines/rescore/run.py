"""Re-scoring: a round of a run as round 0 of a new one, whose rollouts have ids and log-probabilities.

    RUN/round-R/ prompts, rollouts, signals/NAME -> NEW/round-000/ prompts, rollouts, signals/NAME; NEW/lineage.json

Signals are taken over row by row, but for those that were computed from the log-probabilities that are replaced. What
was committed is kept: the same command goes on where it was cut off.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import pyarrow as pa

from pass_ops.shards import (
    CompleteDataset,
    Dataset,
    DatasetSpec,
    Manifest,
    Store,
    create_dataset,
    open_dataset,
    resolve_folder,
)
from pipelines.engines.base import EngineOptions
from pipelines.imports.encode import PromptForm
from pipelines.models.folder import vocabulary
from pipelines.models.source import local_model
from pipelines.parts.inputs import open_prompts, open_rollouts, open_signal
from pipelines.parts.job import run_stage
from pipelines.parts.loop import PartWork, Stage
from pipelines.parts.operations import Operations
from pipelines.rescore.describe import (
    MARK,
    RescoreError,
    encoding_of,
    known_temperature,
    rescored_spec,
    scoring_temperature,
)
from pipelines.rescore.encode import Encoding
from pipelines.rescore.stage import CopyWork, RescoreWork, SignalWork
from pipelines.runs.folders import round_folder
from pipelines.runs.lineage import record_round
from pipelines.signals.base import Row, Signal, SignalBase, sidecar
from pipelines.signals.logprobs import LogprobsSignal

#: signals of ours that read behavior_logprobs, unless this option of theirs names a signal in their place
_READ_LOGPROBS = {"opd": "policy", "g_opd": "policy"}


@dataclass(frozen=True, kw_only=True)
class RescoreOptions:
    """What decides the bytes of what is re-scored, beside the rollouts.

    model: who scores, a folder; None leaves the log-probabilities. tokenizer: a folder; None stands for the model's.
    prompt_form: how its chat template is used where prompts have to be encoded. temperature: what the rollouts were
    sampled at, where they do not say. engine: how the model is run.
    """

    model: str | None = None
    tokenizer: str | None = None
    prompt_form: PromptForm = field(default_factory=PromptForm)
    temperature: float | None = None
    engine: EngineOptions = field(default_factory=EngineOptions)

    def __post_init__(self) -> None:
        if self.model is None and self.tokenizer is None:
            raise RescoreError("neither a model nor a tokenizer is named, so there is nothing to do; give --model.")
        if self.temperature is not None and not 0 <= self.temperature <= 100:
            raise RescoreError(f"temperature is {self.temperature}; it is from 0 to 100")

    @property
    def encoding(self) -> Encoding:
        """By which tokenizer texts become ids."""
        return Encoding(tokenizer=str(self.tokenizer or self.model), form=self.prompt_form)


@dataclass(frozen=True, kw_only=True)
class Rescored:
    """What was made: folder -> manifest, in the order of making; signals that were left out; what is known now."""

    manifests: Mapping[str, Manifest]
    left_out: Sequence[str]
    spec: DatasetSpec


class _Stored(SignalBase):
    """Who scores where no model is named: the log-probabilities are those that are stored, or null."""

    kind = "logprobs"

    def score(self, rollouts: pa.Table, inputs: Mapping[str, pa.Table]) -> pa.Table:  # noqa: ARG002 - the protocol's
        """Every row as it is."""
        return sidecar(
            self.kind, rollouts, [Row(values={"logprobs": own}) for own in rollouts["behavior_logprobs"].to_pylist()]
        )

    def code(self) -> dict[str, str]:
        """It decides nothing."""
        return {}


def rescore(
    run: str,
    *,
    out: str,
    options: RescoreOptions,
    round_index: int = 0,
    operations: Operations = Operations(),
    tell: Callable[[str], None] = lambda _: None,
) -> Rescored:
    """Make round 0 of the run folder `out` from a round of another run.

    Raises RescoreError, and before anything runs what opening the datasets and `LogprobsSignal.check` raise;
    NotFinalized where more rollouts than `operations.max_reject_rate` were rejected; and what `run_stage` raises.
    """
    source = open_rollouts(round_folder(run, round_index, "rollouts"))
    asked = open_prompts(round_folder(run, round_index, "prompts"), source)
    signals = _signals(round_folder(run, round_index, "signals"), source)
    encoding = encoding_of(source, options.encoding)
    temperature, scorer = _scorer(source, options)
    kept = {name: signal for name, signal in signals.items() if not _outdated(signal.spec, source.spec, scorer)}
    new = _NewRun(url=out, operations=operations, tell=tell)

    prompts = new.make(new.begin("prompts", _as_found(asked)), CopyWork(asked.url))
    spec = rescored_spec(
        source,
        prompts=prompts.ref(new.folder("rollouts")),
        out=new.folder("rollouts"),
        encoding=encoding,
        tokenizer=options.encoding.tokenizer,
        scorer=scorer,
        temperature=temperature,
    )
    dataset = new.begin("rollouts", spec)
    work = RescoreWork(
        spec=spec,
        rollouts=source.url,
        prompts=prompts.url,
        encoding=encoding,
        scorer=scorer,
        journals=dataset if operations.journal else None,
    )
    rollouts = new.make(dataset, work, runs_model=options.model is not None)
    for name, signal in kept.items():
        folder = new.folder("signals", name)
        refs = {"rollouts": rollouts.ref(folder), "scored": signal.ref(folder)}
        taken = replace(signal.spec, inputs=refs, carried={**signal.spec.carried, **MARK})
        rows = SignalWork(spec=taken, signal=signal.url, rollouts=rollouts.url)
        new.make(new.begin(posixpath.join("signals", name), taken), rows)
    return Rescored(manifests=new.made, left_out=[name for name in signals if name not in kept], spec=spec)


@dataclass(frozen=True, kw_only=True)
class _NewRun:
    """Where the datasets go, and what is made by now."""

    url: str
    operations: Operations
    tell: Callable[[str], None]
    made: dict[str, Manifest] = field(default_factory=dict)

    def folder(self, *names: str) -> str:
        return round_folder(self.url, 0, *names)

    def begin(self, name: str, spec: DatasetSpec) -> Dataset:
        return create_dataset(self.folder(name), spec, overwrite=self.operations.overwrite)

    def make(self, dataset: Dataset, work: PartWork, *, runs_model: bool = False) -> CompleteDataset:
        """Run a stage and write its dataset into the lineage."""
        name = posixpath.relpath(dataset.url, self.folder())
        manifest = self.made[name] = run_stage(
            Stage(dataset=dataset, work=work, runs_model=runs_model), self.operations
        )
        record_round(self.url, 0, {"datasets": {name: manifest.content_digest}})
        self.tell(f"{name}: {manifest.totals['rows']:,} rows in {dataset.spec.parts} parts")
        return open_dataset(dataset.url)


def _scorer(source: CompleteDataset, options: RescoreOptions) -> tuple[float | None, Signal]:
    """The temperature, and who makes the log-probabilities, checked. Raises RescoreError, VocabularyMismatchError."""
    if options.model is None:
        return known_temperature(source, options.temperature), _Stored()
    temperature = scoring_temperature(source, options.temperature)
    if temperature not in (0.0, 1.0) and options.engine.kind != "transformers":
        raise RescoreError(
            f"{source.url} was sampled at temperature {temperature}, and an engine of kind {options.engine.kind} gives "
            "log-probabilities of given tokens at 1 alone. Run the model with --set kind=transformers."
        )
    scorer = LogprobsSignal(model=options.model, engine=options.engine)
    words = asdict(vocabulary(local_model(options.encoding.tokenizer)))
    scorer.check(replace(source.spec, carried={**source.spec.carried, "vocabulary": words}), {})
    return temperature, scorer.at_temperature(temperature or 1.0)  # of greedy ones, those of the model as it is


def _signals(folder: str, source: CompleteDataset) -> dict[str, CompleteDataset]:
    """The signals of just these rollouts. Raises StaleInputError for one of others."""
    return {name: open_signal(posixpath.join(folder, name), name, source) for name in Store(folder).folders()}


def _outdated(signal: DatasetSpec, before: DatasetSpec, scorer: Signal) -> bool:
    """Whether a signal may have been computed from log-probabilities that are now others."""
    if not scorer.models() or "behavior_logprobs" in before.unknown_columns:
        return False
    name = str(signal.options.get("signal"))
    reads = name in _READ_LOGPROBS and signal.options.get(_READ_LOGPROBS[name]) is None
    return reads or ":" in name  # one of the user's own may read every column


def _as_found(prompts: CompleteDataset) -> DatasetSpec:
    """The prompts' description, with sources where they are."""
    inputs = {
        name: replace(ref, folder=resolve_folder(prompts.url, ref.folder)) for name, ref in prompts.spec.inputs.items()
    }
    return replace(prompts.spec, inputs=inputs, carried={**prompts.spec.carried, **MARK})
