"""What a signal is: a small class that turns rollouts into one sidecar table, row for row.

A user's own signal is a class given by import path, `module:Class`: constructed with its options (a TOML table) as
keyword arguments, a frozen dataclass for choice. Deriving from `SignalBase` leaves `kind` and `score` to write:

    @dataclass(frozen=True, kw_only=True)
    class Shorter(SignalBase):
        kind: ClassVar[str] = "outcome"
        limit: int = 100

        def score(self, rollouts, inputs):
            return sidecar(self.kind, rollouts, [Row(values={"outcome_reward": ..., "verify_status": "ok"}) ...])

`sidecar` takes one Row a rollout. `pipelines.signals.columns.columnar_sidecar` takes whole Arrow columns, so
that nothing costs a Python object a row or token.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self

import pyarrow as pa

from pass_ops.errors import PassError
from pass_ops.shards import DatasetSpec, ModelRef, signal_schema
from pass_ops.shards.schemas import SIGNAL_KINDS, STATUSES
from pass_ops.support.importing import load_object, source_digest
from pass_ops.support.nearest import advice
from pipelines.engines.base import EngineOptions
from pipelines.options import build

#: columns that are there whatever the status
ALWAYS = frozenset({"verify_status"})

#: signals by short name; any other is given as an import path `module:Class`
SIGNALS = {
    "outcome": "pipelines.signals.outcome:OutcomeSignal",
    "format": "pipelines.signals.format:FormatSignal",
    "execution": "pipelines.signals.execution:ExecutionSignal",
    "logprobs": "pipelines.signals.logprobs:LogprobsSignal",
    "opd": "pipelines.signals.opd:OpdSignal",
    "g_opd": "pipelines.signals.opd:GOpdSignal",
    "combine": "pipelines.signals.combine:CombineSignal",
    "judge": "pipelines.signals.judge:JudgeSignal",
    "monte_carlo": "pipelines.signals.monte_carlo:MonteCarloSignal",
    "prm": "pipelines.signals.prm:PrmSignal",
}


#: columns of rollouts that hold tokens; without them only a signal that reads texts alone can score
READS_TOKENS = ("prompt_token_ids", "token_ids", "behavior_logprobs", "loss_mask")


class SignalOptionError(PassError, ValueError):
    """A signal's name is unknown, or one of its options is unknown, missing or out of range."""


class SignalInputError(PassError, ValueError):
    """The rollouts or further signals are not what the signal can score: nothing is scored."""


class SignalResultError(PassError, ValueError):
    """A signal returned a table that is not row for row what it was asked for."""


class Signal(Protocol):
    """What the score stage asks of a signal. Picklable until `setup`."""

    @property
    def kind(self) -> str:
        """One of SIGNAL_KINDS: which columns it makes."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of further signals it reads, and "prompts" where it needs them."""

    @property
    def needs_tokenizer(self) -> bool:
        """Whether `setup` needs the policy's tokenizer."""

    def for_policy(self, folder: str, rollouts: DatasetSpec) -> Signal:
        """The signal for these rollouts of the policy in this folder, where an option stands for one of them."""

    def options(self) -> dict[str, Any]:
        """The options that decide its values, for the fingerprint."""

    def models(self) -> dict[str, ModelRef]:
        """The models that decide its values, by role."""

    def code(self) -> dict[str, str]:
        """Import path -> source digest of the user's code that decides its values."""

    def environment(self) -> dict[str, Any]:
        """Versions of the libraries, dtype and device that decide its values."""

    def check(self, rollouts: DatasetSpec, inputs: Mapping[str, DatasetSpec]) -> None:
        """Refuse, before anything runs, rollouts or inputs it cannot score. Raises PassError."""

    def setup(self, tokenizer_folder: str) -> None:
        """Acquire what a worker process needs; called there before any `score`, with the policy's folder."""

    def score(self, rollouts: pa.Table, inputs: Mapping[str, pa.Table]) -> pa.Table:
        """The sidecar of one part: schema signal_schema(kind), row for row. Called from several threads at once."""


class SignalBase:
    """Everything of `Signal` but `kind` and `score`, for a signal that needs no model, no input and no setup."""

    #: names of options that do not decide values (numbers of processes and the like)
    operational: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        """Where a dataclass checks its options."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """None."""
        return ()

    @property
    def needs_tokenizer(self) -> bool:
        """No."""
        return False

    @property
    def needs_known(self) -> tuple[str, ...]:
        """Columns of rollouts that an import may leave unknown and this signal reads: all, unless it says less."""
        return READS_TOKENS

    @property
    def reads(self) -> tuple[str, ...] | None:
        """Columns of rollouts that `score` reads, for only those are read from the file; None: all of them.

        Stated by the class that writes `score`: one that inherits it and writes its own `score` is given all again.
        """
        return None

    def for_policy(self, folder: str, rollouts: DatasetSpec) -> Self:
        """Itself."""
        return self

    def run_with(self, engine: EngineOptions) -> Self:
        """Itself: it runs no model."""
        return self

    def engines(self) -> Mapping[str, EngineOptions]:
        """Folder of each model that it runs here -> how."""
        return {}

    def options(self) -> dict[str, Any]:
        """The constructor's fields of a dataclass signal, operational ones left out."""
        if not dataclasses.is_dataclass(self):
            return {}
        names = [item.name for item in dataclasses.fields(self) if item.init and item.name not in self.operational]
        return {name: getattr(self, name) for name in names}

    def models(self) -> dict[str, ModelRef]:
        """None."""
        return {}

    def code(self) -> dict[str, str]:
        """The class's own source, where it is not one of the project's (those are versioned with the stage)."""
        cls = type(self)
        path = f"{cls.__module__}:{cls.__qualname__}"
        return {} if path in SIGNALS.values() else {path: source_digest(path)}

    def environment(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def check(self, rollouts: DatasetSpec, inputs: Mapping[str, DatasetSpec]) -> None:
        """Every rollout and input will do."""

    def setup(self, tokenizer_folder: str) -> None:
        """Nothing to acquire."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a sidecar.

    values: the kind's columns, by name; those left out are null, all of them where status is not ok.
    """

    status: str = "ok"
    detail: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)


def sidecar(kind: str, rollouts: pa.Table, rows: Sequence[Row]) -> pa.Table:
    """The sidecar table of rollouts, one Row each in order; columns of rows that are not ok become null.

    Raises SignalResultError where there is not one row a rollout, or a status is unknown.
    """
    if len(rows) != len(rollouts):
        raise SignalResultError(
            f"a signal gave {len(rows)} rows for {len(rollouts)} rollouts; it must give one for each, in order"
        )
    unknown = next((row.status for row in rows if row.status not in STATUSES), None)
    if unknown is not None:
        raise SignalResultError(f"a signal gave the status {unknown!r}; choose one of {', '.join(STATUSES)}")
    schema = signal_schema(kind)
    columns: dict[str, Any] = {
        "rollout_id": rollouts["rollout_id"],
        "status": [row.status for row in rows],
        "detail": [row.detail for row in rows],
    }
    for name in schema.names:
        if name not in columns:
            always = name in ALWAYS
            columns[name] = [row.values.get(name) if always or row.status == "ok" else None for row in rows]
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def build_signal(name: str, options: Mapping[str, Any]) -> Signal:
    """The signal of a short name (SIGNALS) or import path `module:Class`, constructed from its options.

    Raises SignalOptionError that names the nearest known signal or option.
    """
    if name not in SIGNALS and ":" not in name:
        raise SignalOptionError(
            f"there is no signal {name!r} (your own is given as module:Class); {advice(name, SIGNALS)}"
        )
    try:
        cls = load_object(SIGNALS.get(name, name))
    except (ImportError, ValueError) as error:
        raise SignalOptionError(f"signal {name!r}: {error}") from error
    signal: Signal = _construct(name, cls, options)
    if signal.kind not in SIGNAL_KINDS:
        raise SignalOptionError(
            f"signal {name!r}: its kind is {signal.kind!r}; a kind is one of {', '.join(SIGNAL_KINDS)}"
        )
    return signal


def signal_from_table(table: Mapping[str, Any]) -> Signal:
    """The signal of one TOML table: key `signal` is its name or import path, the other keys are its options."""
    options = dict(table)
    name = options.pop("signal", None)
    if not isinstance(name, str):
        raise SignalOptionError(
            f'a signal\'s table has no key "signal"; set it to one of {", ".join(SIGNALS)}, or module:Class'
        )
    return build_signal(name, options)


def _construct(name: str, cls: Any, options: Mapping[str, Any]) -> Any:
    """An instance; the fields of a dataclass are checked against their types, other classes check for themselves."""
    if isinstance(cls, type) and dataclasses.is_dataclass(cls):
        return build(cls, options, where=f"signal {name!r}", error=SignalOptionError)
    try:
        inspect.signature(cls).bind(**options)
    except TypeError as error:
        raise SignalOptionError(f"signal {name!r}: {error}; it is {name}{inspect.signature(cls)}") from error
    return cls(**options)
