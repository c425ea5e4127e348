"""Score: a signal over stored rollouts, one sidecar dataset, row for row.

    part i of rollouts (+ part i of prompts and of other signals) -> part i of signals/NAME

Importing this file imports no Beam and no model library.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future

import pyarrow as pa

from pass_ops import shards
from pass_ops.shards import CompleteDataset, Dataset, DatasetSpec, Manifest
from pipelines.models.folder import tokenizer_digest
from pipelines.parts.inputs import check_alignment, open_prompts, open_rollouts, open_signal, reopen
from pipelines.parts.journal import Journal, Journals, flushed
from pipelines.parts.loop import PartOutput, PartWork, Stage, in_background
from pipelines.parts.operations import Operations
from pipelines.parts.worker_check import check_worker
from pipelines.signals.base import READS_TOKENS, SIGNALS, Signal, SignalInputError, SignalOptionError, SignalResultError
from pipelines.signals.kept import FORMAT, Answers, AskingSignal

#: columns of rollouts that a signal's tables are held against
ALIGNED = ("rollout_id", "token_ids", "loss_mask")
STAGE_VERSION = shards.STAGE_VERSIONS["score"]


def score(
    *,
    signal: Signal,
    rollouts: str,
    out: str,
    prompts: str | None = None,
    signals: Mapping[str, str] | None = None,
    tokenizer: str | None = None,
    operations: Operations = Operations(),
) -> Manifest:
    """Make the dataset `out`: `signal` over the dataset `rollouts`. Committed parts are kept.

    prompts, signals (name -> dataset): what `signal.inputs` names. tokenizer: the folder of the policy that made the
    rollouts, for signals that cut steps or score by the policy itself.

    Raises, before anything runs: IncompleteDatasetError, StaleInputError, WrongInputError for inputs that cannot be
    used; SignalOptionError, SignalInputError, VocabularyMismatchError by the signal's own checks;
    FingerprintMismatchError where `out` holds another signal. Then what `run_stage` raises.
    """
    from pipelines.parts.job import run_stage

    stage = score_stage(
        signal=signal,
        rollouts=rollouts,
        out=out,
        prompts=prompts,
        signals=signals,
        tokenizer=tokenizer,
        overwrite=operations.overwrite,
        journal=operations.journal,
    )
    return run_stage(stage, operations)


def score_stage(
    *,
    signal: Signal,
    rollouts: str,
    out: str,
    prompts: str | None = None,
    signals: Mapping[str, str] | None = None,
    tokenizer: str | None = None,
    overwrite: bool = False,
    journal: bool = True,
) -> Stage:
    """What `score` runs, checked and ready; its dataset is begun. Raises as that does before anything runs."""
    source = open_rollouts(rollouts)
    if tokenizer is not None:
        signal = signal.for_policy(tokenizer, source.spec)
    urls = _input_urls(signal, prompts=prompts, signals=signals or {})
    inputs = {
        name: open_prompts(url, source) if name == "prompts" else open_signal(url, name, source)
        for name, url in urls.items()
    }
    needed = getattr(signal, "needs_known", READS_TOKENS)
    source.spec.require_known(needed, where=rollouts, purpose=f"signal {signal_name(signal)}")
    signal.check(source.spec, {name: dataset.spec for name, dataset in inputs.items()})
    if signal.needs_tokenizer:
        _check_tokenizer(tokenizer, source)
    spec = score_spec(signal, source, inputs, out=out)
    dataset = shards.create_dataset(out, spec, overwrite=overwrite)
    journals = dataset if journal and isinstance(signal, AskingSignal) else None
    work = ScoreWork(signal=signal, spec=spec, rollouts=rollouts, inputs=urls, tokenizer=tokenizer, journals=journals)
    costs = [part.tokens for part in source.parts]
    return Stage(dataset=dataset, work=work, runs_model=bool(signal.models()), costs=costs)


def score_spec(
    signal: Signal, rollouts: CompleteDataset, inputs: Mapping[str, CompleteDataset], *, out: str
) -> DatasetSpec:
    """Everything that decides the bytes of one signal dataset."""
    options = signal.options()
    taken = sorted({"signal", "kind", "code"} & set(options))
    if taken:
        raise SignalOptionError(
            f"the signal has an option named {taken[0]!r}, which _dataset.json uses itself; rename it"
        )
    sources = {"rollouts": rollouts, **inputs}
    return DatasetSpec(
        stage="score",
        stage_version=STAGE_VERSION,
        options={"signal": signal_name(signal), "kind": signal.kind, **options, "code": signal.code()},
        parts=rollouts.spec.parts,
        inputs={name: dataset.ref(out) for name, dataset in sources.items()},
        models=signal.models(),
        environment=signal.environment(),
    )


def signal_name(signal: Signal) -> str:
    """The short name of a signal's class, or its import path."""
    cls = type(signal)
    path = f"{cls.__module__}:{cls.__qualname__}"
    return next((name for name, known in SIGNALS.items() if known == path), path)


def score_part(
    signal: Signal, rollouts: pa.Table, inputs: Mapping[str, pa.Table], *, where: str = "the part"
) -> pa.Table:
    """One part's sidecar, checked: inputs and result are row for row the rollouts'.

    Raises AlignmentError, SignalResultError.
    """
    for name, table in inputs.items():
        if name != "prompts":
            check_alignment(table, rollouts, what=f"signal {name!r}, {where}")
    table = signal.score(rollouts, inputs)
    missing = [name for name in shards.signal_schema(signal.kind).names if name not in table.column_names]
    if missing:
        raise SignalResultError(
            f"signal {signal_name(signal)} gave no column {missing[0]!r} for {where}; kind {signal.kind} needs it"
        )
    check_alignment(table, rollouts, what=f"signal {signal_name(signal)}, its result for {where}")
    return table


def rollout_columns(signal: Signal) -> list[str] | None:
    """Columns of rollouts that the signal reads, and those that its tables are held against; None for all.

    A class that writes its own `score` says anew what that reads; what it inherits is about another one.
    """
    cls = next((cls for cls in type(signal).__mro__ if {"score", "reads"} & set(vars(cls))), object)
    reads: tuple[str, ...] | None = getattr(signal, "reads", None) if "reads" in vars(cls) else None
    return None if reads is None else list(dict.fromkeys([*ALIGNED, *reads]))


class ScoreWork(PartWork):
    """The score stage's `PartWork`."""

    def __init__(
        self,
        *,
        signal: Signal,
        spec: DatasetSpec,
        rollouts: str,
        inputs: Mapping[str, str],
        tokenizer: str | None,
        journals: Dataset | None = None,
    ) -> None:
        """journals: the dataset beside which a model's answers are kept until their part commits; None keeps none."""
        self._signal = signal
        self._spec = spec
        self._urls = {"rollouts": rollouts, **inputs}
        self._tokenizer = tokenizer
        self._journals = Journals(journals)
        self._sources: dict[str, CompleteDataset] = {}

    def setup(self) -> None:
        """The inputs, and whatever the signal needs in this process."""
        digests = {role: ref.digest for role, ref in self._signal.models().items()}
        environment, code = self._signal.environment(), self._signal.code()
        check_worker(self._spec, environment=environment, models=digests, code=code)
        self._sources = {name: reopen(url, name, self._spec) for name, url in self._urls.items()}
        if self._tokenizer is not None:
            self._signal.setup(self._tokenizer)
        self._journals.look()

    def start(self, part: int) -> Future[PartOutput]:
        """Read and score a part in a thread of its own."""
        return in_background(self._part, part, self._journals.begin(part, inputs=lambda: FORMAT))

    def look_back(self) -> None:
        """What attempts that ran beside this worker kept is of use as well."""
        self._journals.look()

    def forget(self, part: int) -> None:
        """Discard the part's journals."""
        self._journals.forget(part)

    def _part(self, part: int, journal: Journal | None) -> PartOutput:
        if journal is None or not isinstance(self._signal, AskingSignal):
            return self._scored(self._signal, part)
        with flushed(journal):
            return self._scored(self._signal.asking(Answers(journal)), part)

    def _scored(self, signal: Signal, part: int) -> PartOutput:
        tables = {name: source.read_part(part) for name, source in self._sources.items() if name != "rollouts"}
        rollouts = self._sources["rollouts"].read_part(part, rollout_columns(signal))
        return PartOutput(table=score_part(signal, rollouts, tables, where=f"part {part}"))


def _input_urls(signal: Signal, *, prompts: str | None, signals: Mapping[str, str]) -> dict[str, str]:
    given = {**signals, **({"prompts": prompts} if prompts is not None else {})}
    missing = [name for name in signal.inputs if name not in given]
    if missing:
        raise SignalInputError(
            f"signal {signal_name(signal)} reads {missing[0]!r}, which is not given; there is: "
            f"{', '.join(given) or 'nothing'}"
        )
    return {name: given[name] for name in signal.inputs}


def _check_tokenizer(tokenizer: str | None, rollouts: CompleteDataset) -> None:
    if tokenizer is None:
        raise SignalInputError(
            "the signal finds step ends by the policy's tokenizer; give the policy's folder as tokenizer"
        )
    recorded, present = rollouts.spec.carried.get("tokenizer_digest"), tokenizer_digest(tokenizer)
    if recorded != present:
        raise SignalInputError(
            f"{tokenizer} has another tokenizer (digest {present[:8]}) than the one that {rollouts.url} was made with "
            f"({str(recorded)[:8]}): step ends would fall on other tokens. Give the folder of the policy that "
            "made the rollouts"
        )
