"""Shape: rollouts and their signals -> advantages by `pass_ops.shape`, in one dataset that can travel alone.

    part i of rollouts + part i of each signal, row for row -> part i of shaped

Importing this file imports no Beam and no model library.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import fields, replace
from functools import cached_property
from importlib.metadata import version
from typing import Any

import pyarrow as pa

from pass_ops import Statistics, shards
from pass_ops.errors import OptionError
from pass_ops.options.checking import set_field
from pass_ops.options.config import WITH_PROCESS, ShapingConfig, Signal
from pass_ops.options.presets import PRESETS, expanded
from pass_ops.shards import CompleteDataset, DatasetSpec, Manifest, PreparedPart
from pass_ops.support.importing import source_digest
from pipelines.options import options as option_class
from pipelines.options.types import Strings
from pipelines.parts.granularity import SHAPED_AS
from pipelines.parts.inputs import WrongInputError, check_alignment, kinds, open_rollouts, open_signal, reopen
from pipelines.parts.loop import PartWork, Stage, in_background
from pipelines.parts.operations import Operations
from pipelines.parts.worker_check import check_worker
from pipelines.shaped import streams

STAGE_VERSION = shards.STAGE_VERSIONS["shape"]
# What a shaped dataset copies from its rollouts, so that the trainer needs nothing else.
CARRIED = ("sampling", "tokenizer_digest", "vocabulary", "round", "policy_digest")
IF_THERE = ("token_statistics", "imported")
# Libraries whose versions may change the last bit of a float.
_NUMERIC_LIBRARIES = ("numba", "numpy")


@option_class(OptionError)
class ShapeOptions(ShapingConfig):
    """How advantages are formed, and the names of the signals that are shaped and carried along."""

    signal: Signal | None = None  # type: ignore[assignment]  # None until the process signal's kind is known
    """prm = the process signal has one score per step, kl = one per token (default: as the signal named in process has
    it). Set it only to insist on one of the two. Example: "kl"."""
    process: str | None = None
    """Name of the process signal; needed by the estimators that read one. Example: "equations"."""
    outcome: str | None = None
    """Name of the outcome signal; needed unless weights.outcome is 0. Example: "outcome"."""
    format: str | None = None
    """Name of the format signal; needed unless weights.format is 0. Example: "format"."""
    reference: str | None = None
    """Name of the logprobs signal for the KL penalty of training; stored as reference_logprobs. Example: "base"."""
    logprobs: Strings = ()
    """Names of further logprobs signals to carry along; stored as NAME_logprobs. Example: ["teacher"]."""

    def __post_init__(self) -> None:
        self._shaping(self.signal or "prm")  # ShapingConfig's own checks
        if self.estimator in PRESETS:
            for name, value in expanded(self).items():
                set_field(self, name, value)

    def signal_of(self, stream: str) -> str:
        """The signal named in the option of this name."""
        return str(getattr(self, stream) or stream)

    @cached_property
    def config(self) -> ShapingConfig:
        """The shaping options alone. Raises OptionError before the process signal's kind is known."""
        if self.streams is None and self.signal is None and self.process is not None:
            raise OptionError(f"option signal: what {self.process!r} is, is not known yet; see `resolve_signal`")
        return streams.on_table(self.as_written, self.held)

    @cached_property
    def as_written(self) -> ShapingConfig:
        """The shaping options, streams with the names of their signals; `right` is the outcome signal by default."""
        config = self._shaping(self.signal or "prm")
        own = self.streams is not None and self.outcome is not None and config.right == "outcome"
        return replace(config, right=str(self.outcome)) if own else config

    def _shaping(self, signal: Signal) -> ShapingConfig:
        values = {item.name: getattr(self, item.name) for item in fields(ShapingConfig)}
        return ShapingConfig(**values | {"signal": signal})

    @property
    def roles(self) -> dict[str, str]:
        """Signal name -> process, outcome, format, reference, logprobs or stream, of those that are named."""
        found = {name: role for role, name in self.held.items() if name is not None}
        found |= {name: "logprobs" for name in self.logprobs if name != self.reference}
        return found | {name: "stream" for name in streams.named_signals(self.as_written) if name not in found}

    @property
    def stream_signals(self) -> tuple[str, ...]:
        """The signals that streams alone name; in the joined table each column has their name before its own."""
        return tuple(name for name, role in self.roles.items() if role == "stream")

    @property
    def held(self) -> dict[str, str | None]:
        """process, outcome, format and reference -> the signal of that place."""
        return {name: getattr(self, name) for name in streams.ROLES}

    def at_round(self, number: int) -> ShapeOptions:
        """The options with the streams' weights of one round. Raises OptionError."""
        return replace(self, streams=self.as_written.at_round(number).streams)


def shape_dataset(
    *,
    rollouts: str,
    signals: str,
    out: str,
    options: ShapeOptions,
    operations: Operations = Operations(),
) -> Manifest:
    """Make the dataset `out` from `rollouts` and the signals of `options`, each in the folder `signals`/NAME.

    Raises, before anything runs: OptionError where a stream that counts has no signal; IncompleteDatasetError,
    StaleInputError, WrongInputError for inputs that cannot be used; FingerprintMismatchError where `out` holds another
    shaping. Then what `run_stage` raises.
    """
    from pipelines.parts.job import run_stage

    return run_stage(
        shape_stage(rollouts=rollouts, signals=signals, out=out, options=options, overwrite=operations.overwrite),
        operations,
    )


def shape_stage(*, rollouts: str, signals: str, out: str, options: ShapeOptions, overwrite: bool = False) -> Stage:
    """What `shape_dataset` runs, checked and ready; its dataset is begun. Raises as that does before anything runs."""
    check_streams(options)
    source = open_rollouts(rollouts)
    options = options.at_round(source.spec.carried.get("round") or 0)
    if missing := source.spec.missing_facts:
        raise WrongInputError(
            f"{rollouts} does not say {', '.join(missing)} in its _dataset.json, which shape and train need; "
            "make the rollouts anew"
        )
    source.spec.require_known(("token_ids", "loss_mask"), where=rollouts, purpose="shaping")
    urls = {name: posixpath.join(signals, name) for name in options.roles}
    scored = {name: open_signal(url, name, source) for name, url in urls.items()}
    options = resolve_signal(options, kinds(scored))
    spec = shape_spec(source, scored, out=out, options=options)
    if options.streams is not None:
        first_pass = streams.recorded(options.config, lambda: joined_parts(source, scored, options), spec)
        spec = replace(spec, carried={**spec.carried, **first_pass})
    dataset = shards.create_dataset(out, spec, overwrite=overwrite)
    work = ShapeWork(spec=spec, rollouts=rollouts, signals=urls, out=out, options=options)
    return Stage(dataset=dataset, work=work, costs=[part.tokens for part in source.parts])


def check_streams(options: ShapeOptions) -> None:
    """Refuse a stream that counts and has no signal, one signal in two places, and an estimator without source.

    Raises:
        OptionError: names the option and what to set.
    """
    _own_code(options)
    streams.check_roles(options.as_written, options.held)
    named = [options.process, options.outcome, options.format, options.reference, *options.logprobs]
    twice = [name for name in named if name is not None and named.count(name) > 1]
    if twice:
        raise OptionError(
            f"the signal {twice[0]!r} is named for two streams; each stream needs a signal of its own kind"
        )
    if options.process is None and options.reads_process:
        remedy = "name one" if options.estimator in WITH_PROCESS else "name one, or set weights.process to 0"
        raise OptionError(f"option process: estimator {options.estimator!r} reads a process signal; {remedy}")
    for stream in ("outcome", "format") if options.streams is None else ():
        if getattr(options.weights, stream) != 0 and getattr(options, stream) is None:
            raise OptionError(
                f"option {stream}: weights.{stream} is {getattr(options.weights, stream):g}, but no {stream} "
                "signal is named; "
                f"name one, or set weights.{stream} to 0"
            )


def resolve_signal(options: ShapeOptions, kinds: Mapping[str, str]) -> ShapeOptions:
    """The options with `signal` set to what the process signal is. kinds: signal name -> kind of its dataset.

    Raises WrongInputError for a signal of a kind that its place cannot use, or where `signal` says otherwise.
    """
    for name in options.roles:
        _check_kind(name, kinds[name], options)
    if options.streams is not None:
        streams.check_columns(options.as_written, options.held, {name: kinds[name] for name in options.roles})
        return options
    return options if options.process is None else replace(options, signal=SHAPED_AS[kinds[options.process]])


def shape_spec(
    rollouts: CompleteDataset, signals: Mapping[str, CompleteDataset], *, out: str, options: ShapeOptions
) -> DatasetSpec:
    """Everything that decides the bytes of the shaped dataset. Raises WrongInputError for a signal of another kind."""
    options = resolve_signal(options, kinds(signals))
    roles: dict[str, Any] = {"process": None, "outcome": None, "format": None, "reference": None}
    roles |= {role: name for name, role in options.roles.items() if role in roles}
    sources = {"rollouts": rollouts, **signals}
    return DatasetSpec(
        stage="shape",
        stage_version=STAGE_VERSION,
        options={**options.config.plain(), **_own_code(options)},
        parts=rollouts.spec.parts,
        inputs={name: dataset.ref(out) for name, dataset in sources.items()},
        models=rollouts.spec.models,
        seed=rollouts.spec.seed,
        environment={name: version(name) for name in _NUMERIC_LIBRARIES},
        carried={
            "signals": {
                **roles,
                "logprobs": [name for name, role in options.roles.items() if role == "logprobs"],
                **({"streams": list(options.stream_signals)} if options.streams is not None else {}),
            },
            **{name: rollouts.spec.carried[name] for name in CARRIED},
            **{name: rollouts.spec.carried[name] for name in IF_THERE if name in rollouts.spec.carried},
        },
    )


def _own_code(options: ShapeOptions) -> dict[str, dict[str, str]]:
    """The source digests of the estimator and transforms given by import path, which are not imported.

    Raises OptionError.
    """
    paths = {options.estimator: "estimator"} if ":" in options.estimator else {}
    for name, stream in (options.streams or {}).items():
        paths |= {one.path: f"streams.{name}" for one in stream.transforms if one.path is not None}
    found = {}
    for path, option in paths.items():
        try:
            found[path] = source_digest(path)
        except ImportError as error:
            raise OptionError(
                f"option {option}: {error}; put it there (PYTHONPATH), or name another "
                f"{'estimator' if option == 'estimator' else 'function'}"
            ) from error
    return {"code": found} if found else {}


def joined_parts(
    rollouts: CompleteDataset, signals: Mapping[str, CompleteDataset], options: ShapeOptions
) -> Iterator[pa.Table]:
    """Every part with its signals beside it, one at a time."""
    for part in range(rollouts.spec.parts):
        yield join_signals(
            rollouts.read_part(part, streams.rollout_columns(options.as_written)),
            {name: signals[name].read_part(part) for name in options.roles},
            reference=options.reference,
            prefixed=options.stream_signals,
        )


def join_signals(
    rollouts: pa.Table,
    signals: Mapping[str, pa.Table],
    *,
    reference: str | None = None,
    prefixed: Sequence[str] = (),
) -> pa.Table:
    """The rollouts with every signal's columns beside them, row for row, under the names that a shaped dataset has.

    prefixed: the signals that only streams name, whose columns get their name before their own.

    Raises AlignmentError that names the signal and the first rows.
    """
    joined = rollouts
    for name, table in signals.items():
        check_alignment(table, rollouts, what=f"signal {name!r}")
        for column in table.column_names:
            if column == "rollout_id":
                continue
            if name in prefixed:
                joined = joined.append_column(streams.joined_name(name, column), table[column])
            elif column == "logprobs":
                joined = joined.append_column(
                    "reference_logprobs" if name == reference else f"{name}_logprobs", table[column]
                )
            elif column in ("status", "detail"):
                joined = joined.append_column(f"{column}_{name}", table[column])
            else:
                joined = joined.append_column(column, table[column])
    return joined


def shape_part(
    rollouts: pa.Table,
    signals: Mapping[str, pa.Table],
    *,
    options: ShapeOptions,
    policy_digest: str,
    round: int,  # noqa: A002
    statistics: Statistics | None = None,
) -> pa.Table:
    """One shaped part: joined, shaped, and marked with whose rollouts these are."""
    from pass_ops import shape

    joined = join_signals(rollouts, signals, reference=options.reference, prefixed=options.stream_signals)
    table = shape(joined, options.config, statistics=statistics)
    table = table.append_column("policy_digest", pa.repeat(policy_digest, len(table)))
    return table.append_column("round", pa.repeat(pa.scalar(round, pa.int32()), len(table)))


class ShapeWork(PartWork):
    """The shape stage's `PartWork`."""

    def __init__(
        self, *, spec: DatasetSpec, rollouts: str, signals: Mapping[str, str], out: str, options: ShapeOptions
    ) -> None:
        self._spec = spec
        self._out = out
        self._options = options
        self._urls = {"rollouts": rollouts, **signals}
        self._sources: dict[str, CompleteDataset] = {}
        self._statistics: Statistics | None = None

    def setup(self) -> None:
        """The inputs."""
        check_worker(self._spec, environment={name: version(name) for name in _NUMERIC_LIBRARIES})
        self._sources = {name: reopen(url, name, self._spec) for name, url in self._urls.items()}
        if self._options.streams is not None:
            self._statistics = streams.statistics_of(self._spec, self._options.config)

    def start(self, part: int) -> Future[PreparedPart]:
        """Shape a part in a thread of its own."""
        return in_background(self._part, part)

    def _part(self, part: int) -> PreparedPart:
        stored = {name: source.read_stored(part) for name, source in self._sources.items()}
        tables = {name: one.table for name, one in stored.items()}
        rollouts = tables.pop("rollouts")
        carried = self._spec.carried
        table = shape_part(
            rollouts,
            tables,
            options=self._options,
            policy_digest=carried["policy_digest"],
            round=carried["round"],
            statistics=self._statistics,
        )
        return shards.prepare_part(self._spec, part, table, url=self._out, stored=tuple(stored.values()))


def _check_kind(name: str, kind: str, options: ShapeOptions) -> None:
    role = options.roles[name]
    if role == "stream":
        return
    wanted = {"process": tuple(SHAPED_AS), "reference": ("logprobs",)}.get(role, (role,))
    if kind not in wanted:
        raise WrongInputError(
            f"option {role}: the signal {name!r} is of kind {kind}, and it must be {' or '.join(wanted)}; name another "
            "signal"
        )
    if role == "process" and options.signal not in (None, SHAPED_AS[kind]):
        raise WrongInputError(
            f"option signal is {options.signal!r}, but the process signal {name!r} is of kind {kind}, which is "
            f"{SHAPED_AS[kind]!r}; leave signal out, or name another process signal"
        )
