"""A run: one folder, its configuration, and the signals that the configuration names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property

from pass_ops.errors import PassError
from pass_ops.support.importing import extend_import_path
from pipelines.options import ConfigError, check_url, problem_lines
from pipelines.parts.operations import Operations
from pipelines.prompts.stage import PromptSource
from pipelines.runs.config import RunConfig
from pipelines.runs.folders import round_folder
from pipelines.runs.progress import Report, Reporter
from pipelines.signals.base import Signal, SignalBase, signal_from_table
from pipelines.signals.outcome import OutcomeSignal


class SignalOrderError(PassError, ValueError):
    """A signal is not configured, or signals read each other in a circle."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run folder: its configuration, and where each thing of a round lies in it.

    Args:
        config: what to do.
        url: the run's folder, local or any fsspec URL.
        reporter: where progress is shown.
        overwrite: replace datasets that were made with other options.
        modules: folders with modules of your own (signals, verifiers, programs, estimators); they are put at the end
            of the import path, here and in every worker that sees them.
    """

    config: RunConfig
    url: str
    reporter: Reporter = field(default_factory=Reporter)
    overwrite: bool = False
    modules: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_url(self.url, key="the run's folder")
        extend_import_path(self.modules)

    def folder(self, round_index: int, *names: str) -> str:
        """A folder of one round."""
        return round_folder(self.url, round_index, *names)

    def starting_policy(self, round_index: int) -> str:
        """The model that a round samples from: the configured one, then the previous round's result."""
        return self.config.policy.model if round_index == 0 else self.folder(round_index - 1, "policy")

    def trained_rounds(self, round_index: int) -> range:
        """The rounds whose shaped datasets a round trains on, its own first, then back to run.max_staleness before."""
        return range(round_index, max(-1, round_index - self.config.run.max_staleness - 1), -1)

    def at_round(self, round_index: int) -> Run:
        """The run with the configuration of one round. Raises ConfigError where a schedule gives what cannot be used.

        Benchmarks belong to the run itself: it judges every round alike.
        """
        return self if not self.config.schedule else replace(self, config=self.config.at_round(round_index))

    def operations(self, progress: Report, stage: str) -> Operations:
        """How a stage of this run works (generate, score, shape, eval), reporting its progress to `progress`."""
        config = self.config
        return Operations(
            runner=config.runner_of(stage),
            overwrite=self.overwrite,
            progress=progress,
            modules=self.modules,
            **asdict(config.operations),
        )

    @cached_property
    def signals(self) -> dict[str, Signal]:
        """Every configured signal, each after those it reads; built once. Raises what `configured_signals` raises."""
        return configured_signals(self.config)

    def wanted_signals(self, names: Iterable[str]) -> dict[str, Signal]:
        """The named signals, each after those it reads; all where none is named. Raises SignalOrderError."""
        wanted = set(names) or set(self.signals)
        if unknown := wanted - set(self.signals):
            raise SignalOrderError(
                f"signal {min(unknown)!r} is not configured; [signals] has: {', '.join(self.signals) or 'none'}"
            )
        return {name: signal for name, signal in self.signals.items() if name in wanted}

    def judges(self, benchmark: str) -> dict[str, Signal]:
        """What scores a benchmark's rollouts, each after what it reads; the last, named eval.outcome, judges them.

        Raises SignalOptionError, SignalOrderError.
        """
        assert self.config.eval is not None
        own = self.config.eval.benchmarks[benchmark].judge()
        if own is None:
            return self.signals_for(self.config.eval.outcome)
        verifier, verifier_options = own
        return {self.config.eval.outcome: OutcomeSignal(verifier=verifier, verifier_options=verifier_options)}

    def signals_for(self, name: str) -> dict[str, Signal]:
        """A signal after everything that it reads, directly or not. Raises SignalOrderError."""
        needed = {name}
        for other, signal in reversed(self.signals.items()):
            needed |= set(signal.inputs) if other in needed else set()
        return self.wanted_signals(needed - {"prompts"})


def round_prompts(config: RunConfig, round_index: int) -> PromptSource:
    """The prompts of one round: the next `prompts_per_round` of the source, in an order shuffled once by the seed.

    config: the run's, not that of a round. Raises ConfigError.
    """
    at = config.at_round(round_index)
    count = at.run.prompts_per_round
    if count is None:
        return at.prompts
    seed = config.run.seed if at.prompts.shuffle_seed is None else at.prompts.shuffle_seed
    taken = round_index * count
    if "run" in config.schedule:
        taken = sum(config.at_round(index).run.prompts_per_round or 0 for index in range(round_index))
    return replace(at.prompts, shuffle_seed=seed, offset=at.prompts.offset + taken, limit=count)


def configured_signals(config: RunConfig) -> dict[str, Signal]:
    """Every signal of a configuration, each after those it reads; models run as [engine] says where they do not.

    Raises ConfigError with one line for each signal that cannot be built, and SignalOrderError where signals do not
    fit together, or [shape] or [eval] names one that is not there.
    """
    signals: dict[str, Signal] = {}
    problems = []
    for name, table in config.signals.items():
        try:
            signal = signal_from_table(table)
        except PassError as error:
            problems += [f"signals.{name}: {line}" for line in problem_lines(error)]
            continue
        signals[name] = signal.run_with(config.engine) if isinstance(signal, SignalBase) else signal
    problems += [
        f"{option} is {name!r}, but [signals] has {', '.join(config.signals) or 'none'}"
        for option, name in _named_signals(config)
        if name not in config.signals
    ]
    if problems:
        raise ConfigError("\n  ".join(["the signals cannot be used:", *problems]))
    return {name: signals[name] for name in signal_order(signals)}


def _named_signals(config: RunConfig) -> list[tuple[str, str]]:
    """Option and signal name, wherever the configuration refers to one."""
    named = [(f"shape.{role}", name) for name, role in config.shape.roles.items()]
    if config.eval is not None and any(one.judge() is None for one in config.eval.benchmarks.values()):
        named.append(("eval.outcome", config.eval.outcome))
    if config.select is not None:
        named.append(("select.outcome", config.select.outcome))
    return named


def signal_order(signals: Mapping[str, Signal]) -> list[str]:
    """Names in an order in which every signal comes after those it reads. Raises SignalOrderError."""
    order: list[str] = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise SignalOrderError(f"signals read each other in a circle: {' -> '.join((*path, name))}")
        for needed in signals[name].inputs:
            if needed == "prompts":
                continue
            if needed not in signals:
                raise SignalOrderError(
                    f"signal {name!r} reads {needed!r}, which [signals] does not have; it has: {', '.join(signals)}"
                )
            visit(needed, (*path, name))
        if name not in order:
            order.append(name)

    for name in signals:
        visit(name, ())
    return order
