"""Importing: a source's rollouts as the datasets of round 0 of a run, resumable at every part.

    source -> spool and plan (RUN/round-000/import/ID) -> prompts -> rollouts -> signals/NAME, lineage.json

The source is read once. What was committed is kept: the same command goes on where it was cut off, with the spool that
is there if it is whole. Once everything is complete the spool is removed, all but its facts.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

from pass_ops import shards
from pass_ops.errors import IncompleteDatasetError, NotADatasetError
from pass_ops.shards import DatasetSpec, InputRef, Manifest, Store
from pipelines.imports.encode import PromptForm
from pipelines.imports.facts import Facts, facts_of, imported_block, read_facts, write_facts
from pipelines.imports.formats import import_format
from pipelines.imports.plan import PLAN, make_plan, write_plan
from pipelines.imports.record import Format, ImportFormatError
from pipelines.imports.sources import SourceFile, source_files
from pipelines.imports.spool import chunk_name
from pipelines.imports.spooling import write_spool
from pipelines.imports.stages import STEPS, PromptsWork, RolloutsWork, SignalWork, SpoolPlace
from pipelines.models.folder import tokenizer_digest, vocabulary
from pipelines.models.source import local_model
from pipelines.parts.job import run_stage
from pipelines.parts.loop import PartWork, Stage
from pipelines.parts.operations import Operations
from pipelines.runs.folders import round_folder
from pipelines.runs.lineage import record_round

#: raised with every change of what an import writes
VERSION = 2
FOLDER = "import"


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What decides the bytes of an import, beside the source.

    mapping: `role=column` texts or TOML files, for format rows. tokenizer: a folder; texts without ids are encoded by
    it. prompt_form: how its chat template is used. temperature: what the rollouts were sampled at, where the source
    does not say. group_size: neighbours with equal prompts form groups of this many. name: of the data set.
    """

    format: str
    mapping: tuple[str, ...] = ()
    tokenizer: str | None = None
    prompt_form: PromptForm = field(default_factory=PromptForm)
    temperature: float | None = None
    group_size: int | None = None
    name: str | None = None
    rollouts_per_part: int = 8192

    def __post_init__(self) -> None:
        for name in ("group_size", "rollouts_per_part"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= 2**20:
                raise ImportFormatError(f"{name} is {value}; it is from 1 to {2**20}")
        if self.temperature is not None and not 0 <= self.temperature <= 100:
            raise ImportFormatError(f"temperature is {self.temperature}; it is from 0 to 100")


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What an import made: folder -> manifest, in the order of making; and what is known of the source."""

    manifests: Mapping[str, Manifest]
    facts: Facts


def import_rollouts(
    source: str,
    *,
    out: str,
    options: ImportOptions,
    operations: Operations = Operations(),
    tell: Callable[[str], None] = lambda _: None,
) -> Imported:
    """Make `prompts`, `rollouts` and `signals` of round 0 in the run folder `out` from a foreign source.

    Raises ImportFormatError, ImportSourceError and RowFileError for what cannot be imported as a whole; NotFinalized
    where more rows than `operations.max_reject_rate` were rejected; and what `run_stage` and `create_dataset` raise.
    """
    form = import_format(options.format, options.mapping)
    files = source_files(source, form)
    place = Store(round_folder(out, 0, FOLDER, _identity(form, files, options)))
    facts = read_facts(place)
    if facts is None or not (place.exists(PLAN) or _complete(out, facts)):
        facts = _read(files, form, place, options, tell)
    made = _datasets(form, files, facts, place=place, out=out, options=options, operations=operations, tell=tell)
    for number in range(len(facts.chunk_starts) - 1):
        place.remove(chunk_name(number))
    place.remove(PLAN)
    return Imported(manifests=made, facts=facts)


def _identity(form: Format, files: Sequence[SourceFile], options: ImportOptions) -> str:
    """Sixteen digits over what decides the spool."""
    payload = {
        "version": VERSION,
        "format": form.name,
        **form.options,
        "files": [[file.name, file.sha256] for file in files],
        "tokenizer": options.tokenizer is not None,
        "temperature": options.temperature,
        "group_size": options.group_size,
        "rollouts_per_part": options.rollouts_per_part,
    }
    return shards.sha256_bytes(shards.canonical_json(payload).encode())[:16]


def _read(
    files: tuple[SourceFile, ...], form: Format, place: Store, options: ImportOptions, tell: Callable[[str], None]
) -> Facts:
    index, known = write_spool(
        files, place, form, group_size=options.group_size, progress=lambda count: tell(f"{count:,} rows read")
    )
    plan = make_plan(index, rollouts_per_part=options.rollouts_per_part)
    facts = facts_of(form, known, index, plan, tokenizer=options.tokenizer is not None, temperature=options.temperature)
    write_plan(plan, place)
    write_facts(facts, place)
    return facts


def _complete(out: str, facts: Facts) -> bool:
    """Whether every dataset is there and finalized; whether they are of this import, `create_dataset` says."""
    names = ["prompts", "rollouts", *(f"signals/{name}" for name in _signals(facts))]
    try:
        for name in names:
            shards.open_dataset(round_folder(out, 0, name))
    except (NotADatasetError, IncompleteDatasetError):
        return False
    return True


def _signals(facts: Facts) -> dict[str, int | None]:
    """Signal name -> number of its reward; None for labelled steps."""
    return {**facts.rewards, **({STEPS: None} if facts.steps else {})}


def _datasets(
    form: Format,
    files: tuple[SourceFile, ...],
    facts: Facts,
    *,
    place: Store,
    out: str,
    options: ImportOptions,
    operations: Operations,
    tell: Callable[[str], None],
) -> dict[str, Manifest]:
    source = options.name or files[0].name.rsplit("/", 1)[-1].split(".", 1)[0]
    spool = SpoolPlace(
        url=place.root,
        chunk_starts=facts.chunk_starts,
        source=source,
        tokenizer=options.tokenizer,
        form=options.prompt_form,
        turns=facts.turns,
    )
    semantic = {"import": form.name, **form.options, "source": source, "group_size": options.group_size}
    semantic |= {"rollouts_per_part": options.rollouts_per_part, "version": VERSION}
    made: dict[str, Manifest] = {}

    def make(name: str, spec: DatasetSpec, work: PartWork) -> str:
        url = round_folder(out, 0, name)
        dataset = shards.create_dataset(url, spec, overwrite=operations.overwrite)
        made[name] = run_stage(Stage(dataset=dataset, work=work), operations)
        record_round(out, 0, {"datasets": {name: made[name].content_digest}})
        tell(f"{name}: {made[name].totals['rows']:,} rows in {facts.parts} parts")
        return url

    prompts = make("prompts", _prompts_spec(semantic, files, facts), PromptsWork(spool))
    spec = _rollouts_spec(semantic, form, files, facts, prompts=prompts, out=out, options=options)
    rollouts = make("rollouts", spec, RolloutsWork(spool))
    for name, number in _signals(facts).items():
        spec = _signal_spec(
            semantic, facts, rollouts=rollouts, url=round_folder(out, 0, "signals", name), number=number
        )
        make(posixpath.join("signals", name), spec, SignalWork(spool, spec=spec, rollouts=rollouts, reward=number))
    return made


def _prompts_spec(semantic: Mapping[str, Any], files: tuple[SourceFile, ...], facts: Facts) -> DatasetSpec:
    return DatasetSpec(
        stage="prompts",
        stage_version=shards.STAGE_VERSIONS["prompts"],
        options=semantic,
        parts=facts.parts,
        inputs={file.name: InputRef(folder=file.url, content_digest=file.sha256) for file in files},
    )


def _rollouts_spec(
    semantic: Mapping[str, Any],
    form: Format,
    files: tuple[SourceFile, ...],
    facts: Facts,
    *,
    prompts: str,
    out: str,
    options: ImportOptions,
) -> DatasetSpec:
    """What the rollouts are; what nobody knows of their sampling is null."""
    tokenizer = options.tokenizer
    folder = None if tokenizer is None else local_model(tokenizer)
    return DatasetSpec(
        stage="generate",
        stage_version=shards.STAGE_VERSIONS["generate"],
        options={**semantic, **({} if folder is None else asdict(options.prompt_form))},
        parts=facts.parts,
        inputs={"prompts": shards.open_dataset(prompts).ref(round_folder(out, 0, "rollouts"))},
        environment={} if folder is None else {"tokenizers": version("tokenizers")},
        carried={
            "sampling": {"temperature": facts.sampled_at, "group_size": facts.group_size},
            "tokenizer_digest": None if folder is None else tokenizer_digest(folder),
            "vocabulary": None if folder is None else asdict(vocabulary(folder)),
            "round": 0,
            "policy_digest": "unknown",
            "imported": imported_block(form, files, facts),
        },
    )


def _signal_spec(
    semantic: Mapping[str, Any], facts: Facts, *, rollouts: str, url: str, number: int | None
) -> DatasetSpec:
    kind = "process_steps" if number is None else "outcome"
    own: dict[str, Any] = {"signal": "import", "kind": kind, "code": {}, "reward": number}
    return DatasetSpec(
        stage="score",
        stage_version=shards.STAGE_VERSIONS["score"],
        options={**semantic, **own},
        parts=facts.parts,
        inputs={"rollouts": shards.open_dataset(rollouts).ref(url)},
    )
