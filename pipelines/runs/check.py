"""Check before paying: everything that would stop a run later and can be known now, before the first token is sampled.

`check_run` is what run, rounds, eval, demo and the commands of single stages call; `--dry-run` asks `find_problems`.
No engine is started, and nothing is written but digests of large files beside them. Weights are read beyond their
headers only of a policy that a round made, to hold it against what the training exported.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pass_ops import shards
from pass_ops.errors import PassError
from pass_ops.options.config import load_estimator
from pass_ops.shards import DatasetSpec, Rejection
from pass_ops.support.extras import EXTRAS, MissingExtraError, by_extra, missing_extra
from pass_ops.support.garbage import no_search_for_cycles
from pipelines.engines import device_held
from pipelines.engines.machine import this_machine
from pipelines.engines.vllm_arguments import check_architecture
from pipelines.models.folder import ModelFacts, describe_model
from pipelines.models.source import local_model
from pipelines.options import problem_lines
from pipelines.prompts.stage import PromptRow, PromptSource, read_prompts
from pipelines.rollouts.options import GenerateOptions
from pipelines.rollouts.stage import planned_rollouts
from pipelines.runners.gpus import count_gpus
from pipelines.runs.anchors import anchor_problems
from pipelines.runs.config import RunConfig
from pipelines.runs.disk import disk_problem
from pipelines.runs.findings import Findings, RunRefused
from pipelines.runs.fits import Cards, StageMemory, cards_here, stage_memory
from pipelines.runs.folders import ROUND_FOLDERS
from pipelines.runs.lengths import prompt_problems
from pipelines.runs.lineage import read_lineage
from pipelines.runs.machine_check import cuda_version, machine_problems, parallel_problems, planned_uses
from pipelines.runs.node_check import node_problems
from pipelines.runs.places import folder_problem
from pipelines.runs.round_check import round_problems
from pipelines.runs.run import Run, round_prompts
from pipelines.shaped.stage import check_streams, resolve_signal
from pipelines.signals.base import Signal
from trainer.attention import attention_problem
from trainer.compatibility import check_sampling
from trainer.records import check_export, read_done

__all__ = ["STAGES", "Findings", "RunRefused", "check_run", "find_problems"]

STAGES = ("generate", "score", "shape", "train", "eval")
WEIGHTS = ("process", "outcome", "format")


def check_run(
    run: Run,
    *,
    stages: Collection[str] = STAGES,
    round_index: int = 0,
    rounds: int | None = None,
    signals: Collection[str] = (),
    policy: str | None = None,
) -> None:
    """Refuse a run that cannot end well. Raises RunRefused with every problem found.

    stages: what is going to run. round_index, rounds: the first round and how many; None: that one alone, without an
    evaluation of the starting policy. signals: of stage score, these only; all where none is named. policy: another
    folder than the one the round starts from.
    """
    found = find_problems(run, stages=stages, round_index=round_index, rounds=rounds, signals=signals, policy=policy)
    if found.problems or found.missing:
        raise RunRefused([*found.problems, *found.missing])


def find_problems(
    run: Run,
    *,
    stages: Collection[str] = STAGES,
    round_index: int = 0,
    rounds: int | None = None,
    signals: Collection[str] = (),
    policy: str | None = None,
    cards: Cards | None = None,
) -> Findings:
    """As `check_run`, but returns what it found. cards: GPUs to be checked for, default this machine's."""
    check = _Check(run, round_index=round_index, rounds=rounds, policy=policy or run.starting_policy(round_index))
    check.cards = cards or cards_here(run.config)
    if round_index < 0 or (rounds is not None and rounds < 1):
        check.problems.append(f"round {round_index}, {rounds} rounds: rounds count from 0, and there is at least one")
    else:
        with check.noting(), no_search_for_cycles():  # the libraries of models are loaded
            check.config = run.config.at_round(round_index)
            check.all_of(frozenset(stages), signals)
    return Findings(
        problems=tuple(dict.fromkeys(check.problems)),
        missing=tuple(str(error) for error in by_extra(check.missing)),
        prompts=tuple(check.prompts),
        benchmarks=check.benchmarks,
        policy=check.policy if check.has_policy() else None,
        memory=tuple(check.memory),
    )


class _Check:
    """One check under way: what it has found, and what the later parts of it need from the earlier ones."""

    def __init__(self, run: Run, *, round_index: int, rounds: int | None, policy: str) -> None:
        self.run, self.config = run, run.config
        self.round_index, self.rounds, self.asked_rounds = round_index, rounds or 1, rounds
        self.policy = policy
        self.problems: list[str] = []
        self.missing: list[MissingExtraError] = []
        self.prompts: list[PromptRow] = []
        self.benchmarks: dict[str, list[PromptRow]] = {}
        self.signals: Mapping[str, Signal] = {}
        self.facts: ModelFacts | None = None
        self.rollouts: DatasetSpec | None = None
        self.planned_now = False  # whether those rollouts are yet to be sampled
        self.cards: Cards | None = None
        self.memory: list[StageMemory] = []

    def has_policy(self) -> bool:
        """Whether the policy is there already; a later round's may not be."""
        with suppress(PassError):
            return (Path(local_model(self.policy)) / "config.json").exists()
        return False

    def all_of(self, stages: frozenset[str], names: Collection[str]) -> None:
        with self.noting():
            read_lineage(self.run.url)
        self.places()
        if stages & {"generate", "eval"}:
            if self.config.engine.kind == "vllm":
                self.need("vllm", "engine.kind vllm")
            with self.noting("policy.model"):
                self.facts = describe_model(self.policy, weights=False)
                if self.config.engine.kind == "vllm":
                    check_architecture(self.policy)
                _check_exported(Path(local_model(self.policy)))
        if stages & {"score", "eval"}:
            with self.noting():
                self.signals = self.run.at_round(self.round_index).signals
        with self.noting():
            self.machine(stages, names)
        self.sections(stages & {"generate"})
        if stages & {"score"} and "generate" not in stages:
            with self.noting():
                self.rollouts = shards.load_dataset(self.run.folder(self.round_index, "rollouts")).spec
        with self.noting():
            self.problems += round_problems(self.run, first=self.round_index, rounds=self.rounds)
        if "score" in stages and self.signals:
            with self.noting():
                last = self.round_index + self.rounds - 1
                self.problems += anchor_problems(self.run, self.signals, last_round=last)
            with self.noting():
                self.score(self.run.wanted_signals(names), self.rollouts)
        self.sections(stages & {"shape", "train"})
        self.later_rounds(stages)
        if "eval" in stages and self.config.eval is not None:
            self.evaluate()
        if stages & {"generate", "train"} and not self.problems and "disk_space" not in self.config.run.accept:
            problem = disk_problem(
                self.run, self.prompts, policy=self.policy, rounds=self.asked_rounds, benchmarks=self.benchmarks
            )
            self.problems += [problem] if problem else []
        if self.cards is not None and self.has_policy():
            self.fit(stages, self.cards)

    def later_rounds(self, stages: frozenset[str]) -> None:
        """What a schedule makes of the rounds after the first: each section's problems, once a setting of it."""
        seen = [_settings(self.config)]
        for index in range(self.round_index + 1, self.round_index + self.rounds) if self.run.config.schedule else ():
            later = _Check(self.run, round_index=index, rounds=1, policy=self.policy)
            later.facts, later.rollouts, later.planned_now = self.facts, self.rollouts, self.planned_now
            with later.noting():
                later.config = self.run.config.at_round(index)
                later.signals = self.run.at_round(index).signals if self.signals else {}
                settings = _settings(later.config)
                new = {name for name in stages & set(settings) if all(settings[name] != old[name] for old in seen)}
                seen.append(settings)
                later.sections(new)
            self.missing += later.missing
            self.problems += [f"round {index}: {line}" for line in later.problems if line not in self.problems]
            if later.problems:
                return

    def sections(self, stages: Collection[str]) -> None:
        """What can be said of the stages of one round."""
        if "generate" in stages:
            self.generate()
        if "shape" in stages:
            self.shape()
        if "train" in stages:
            self.train()

    def fit(self, stages: frozenset[str], cards: Cards) -> None:
        """What each stage holds on a GPU; more than it may is a problem."""
        with self.noting():
            self.memory = stage_memory(
                self.config, policy=self.policy, signals=self.signals, stages=stages, cards=cards
            )
        if "gpu_memory" not in self.config.run.accept:
            self.problems += [
                f'{one.stage}: {one.problem.rstrip(".")}. If you know better, add "gpu_memory" to run.accept'
                for one in self.memory
                if one.problem
            ]

    def machine(self, stages: frozenset[str], names: Collection[str]) -> None:
        """What computes here, against the GPUs and the driver that are here; other runners' workers have their own."""
        machine = this_machine()
        signals = self.run.wanted_signals(names) if self.signals and stages & {"score", "eval"} else {}
        policy = self.policy if self.facts is not None else None
        uses = list(planned_uses(self.config, stages, signals, policy=policy, machine=machine))
        if (gpus := self.config.runner.gpus) is not None:
            self.problems += node_problems(gpus, uses, self.config.train, count=count_gpus())
        here = [use for use in uses if self.config.runner_of(use.stage).name == "direct"]
        if here:
            cuda = cuda_version() if machine.gpus else None
            flags = [flag for use in here for flag in self.config.runner_of(use.stage).flags]
            processes = any("multi_processing" in flag for flag in flags)
            self.problems += machine_problems(
                machine, here, cuda=cuda, ours=device_held(), node=gpus is not None, processes=processes
            )
        self.problems += [line for use in uses if use not in here for line in parallel_problems(use)]

    def places(self) -> None:
        """The run's folder, and those in it that the first round would write."""
        folders = [self.run.url, self.run.folder(self.round_index)]
        folders += [self.run.folder(self.round_index, name) for name in ROUND_FOLDERS]
        self.problems += [problem for folder in folders if (problem := folder_problem(folder)) is not None][:1]

    @contextmanager
    def noting(self, place: str = "") -> Iterator[None]:
        """What is raised inside becomes a problem that begins with `place`."""
        try:
            yield
        except (PassError, ImportError, OSError) as error:
            missing = missing_extra(error, place or "this run")
            if missing is not None:
                self.missing.append(missing)
            else:
                self.problems += [f"{place}: {line}" if place else line for line in problem_lines(error)]

    def need(self, package: str, purpose: str) -> None:
        """Note an optional package that is not installed. It is not imported: that takes seconds."""
        if find_spec(package) is None:
            self.missing.append(MissingExtraError(EXTRAS[package], [(purpose, package)]))

    def generate(self) -> None:
        """The prompts, and what would be sampled from them."""
        config = self.config
        if config.generate.group_size == 1 and "group_size_1" not in config.run.accept:
            self.problems.append(
                "generate.group_size is 1: a group of one has nothing to be compared with, so most estimators make its "
                'advantages 0. Raise it, or add "group_size_1" to run.accept'
            )
        self.prompts = self.read("prompts", round_prompts(self.run.config, self.round_index))
        self.rollouts = self.planned("generate", config.generate, self.prompts)
        self.planned_now = True

    def read(self, place: str, source: PromptSource) -> list[PromptRow]:
        """The rows of a prompt source; too many that cannot be used are a problem."""
        rows: list[PromptRow] = []
        with self.noting(place):
            rows = read_prompts(source)
            rejected = [row for row in rows if isinstance(row, Rejection)]
            if len(rejected) > self.config.operations.max_reject_rate * len(rows):
                self.problems.append(
                    f"{place}: {len(rejected)} of {len(rows)} rows cannot be used, the first as {rejected[0].reason} "
                    f"({rejected[0].detail}); operations.max_reject_rate is {self.config.operations.max_reject_rate}"
                )
        return rows

    def planned(self, place: str, options: GenerateOptions, rows: list[PromptRow]) -> DatasetSpec | None:
        """What rollouts of these prompts would be; None where that cannot be said."""
        if self.facts is None:
            return None
        messages = any(isinstance(row, dict) and row["messages"] is not None for row in rows)
        planned = None
        with self.noting(place):
            planned = planned_rollouts(self.facts, engine=self.config.engine, options=options, messages=messages)
        with self.noting(place):
            self.problems += [
                f"{place}: {problem}"
                for problem in prompt_problems(
                    rows,
                    policy=self.policy,
                    engine=self.config.engine,
                    options=options,
                    max_reject_rate=self.config.operations.max_reject_rate,
                )
            ]
        return planned

    def score(self, signals: Mapping[str, Signal], rollouts: DatasetSpec | None, *, place: str = "signals") -> None:
        """Each signal checks these rollouts and what it reads, as it does when it scores."""
        if rollouts is None:
            return
        for name, signal in signals.items():
            if signal.needs_tokenizer:
                self.need("tokenizers", f"signals.{name}")
            with self.noting(f"signals.{name}" if place == "signals" else place):
                bound = signal.for_policy(self.policy, rollouts)
                bound.check(rollouts, {needed: self._planned_input(needed) for needed in bound.inputs})
                bound.environment()
                bound.code()

    def _planned_input(self, name: str) -> DatasetSpec:
        if name == "prompts":
            extra = {"extra": self.config.prompts.extra}
            return DatasetSpec(stage="prompts", stage_version=1, options=extra, parts=1)
        return DatasetSpec(stage="score", stage_version=1, options={"kind": self.signals[name].kind}, parts=1)

    def shape(self) -> None:
        """Streams, kinds, weights, and an estimator of the user's own."""
        shape = self.config.shape
        with self.noting("shape"):
            check_streams(shape)
            if self.signals:
                resolve_signal(shape, {name: self.signals[name].kind for name in shape.roles})
        if ":" in shape.estimator:
            with self.noting("shape"):
                load_estimator(shape.estimator)
        given = {f"weights.{name}": getattr(shape.weights, name) for name in WEIGHTS}
        for name, stream in (shape.streams or {}).items():
            given[f"streams.{name}.weight"] = min(stream.weights)
        negative = [name for name, weight in given.items() if weight < 0]
        if negative and "negative_weights" not in self.config.run.accept:
            self.problems.append(
                f"shape.{negative[0]} is {given[negative[0]]:g}: a negative weight rewards "
                'what the signal calls bad. Make it 0 or more, or add "negative_weights" to run.accept'
            )

    def train(self) -> None:
        """The trainer's packages and folder; and that it would take rollouts sampled so, with their reference."""
        options = self.config.train
        if problem := attention_problem(options.attention, device=options.device):
            self.problems.append(f"train: {problem}")
        for package, needed in _trainer_packages(options).items():
            self.need(package, needed)
        if options.kl_coef > 0 and self.config.shape.reference is None:
            self.problems.append(
                f"train.kl_coef is {options.kl_coef:g}, but shape.reference names no logprobs signal; name one, or "
                "set train.kl_coef to 0"
            )
        if self.planned_now and self.rollouts is not None:
            with self.noting("train"):
                check_sampling(self.rollouts.carried["sampling"], options, where="generate.sampling: the rollouts")

    def evaluate(self) -> None:
        """The signal that judges, and each benchmark's prompts; a schedule changes nothing here."""
        config = self.run.config
        options = config.eval
        assert options is not None
        sampled = replace(config.generate, sampling=config.eval_sampling, group_size=options.samples)
        for name, benchmark in options.benchmarks.items():
            place = f"eval.benchmarks.{name}"
            self.benchmarks[name] = self.read(place, benchmark.prompts())
            planned = self.planned(place, sampled, self.benchmarks[name])
            if benchmark.judge() is None and not self.signals:
                continue  # said above
            judges: Mapping[str, Signal] = {}
            with self.noting(place if benchmark.judge() else ""):
                judges = self.run.judges(name)
            self.judged(judges, planned, place=place if benchmark.judge() else "signals")

    def judged(self, judges: Mapping[str, Signal], rollouts: DatasetSpec | None, *, place: str) -> None:
        """What judges a benchmark, and what that reads."""
        assert self.run.config.eval is not None
        outcome = self.run.config.eval.outcome
        if outcome in judges and judges[outcome].kind != "outcome":
            self.problems.append(
                f"eval.outcome: the signal {outcome!r} is of kind {judges[outcome].kind}; pass@k is counted from "
                "verdicts, so name one of kind outcome"
            )
        self.score(judges, rollouts, place=place)


def _settings(config: RunConfig) -> dict[str, Any]:
    """Stage -> what its checks depend on; the prompts that a round takes are read where their source changes."""
    source = replace(config.prompts, offset=0, limit=None)
    sampling = config.generate.sampling
    return {"generate": (source, config.generate), "shape": config.shape, "train": (config.train, sampling)}


def _trainer_packages(options: Any) -> dict[str, str]:
    """Package -> what needs it."""
    return {
        "torch": "training",
        "transformers": "training",
        **({"peft": "train.lora_rank"} if options.lora_rank else {}),
        **({"torchao": "train.optimizer adamw_8bit"} if options.optimizer == "adamw_8bit" else {}),
        **({"liger_kernel": "train.head fused"} if options.head == "fused" else {}),
        **({options.tracker: f"train.tracker {options.tracker}"} if options.tracker != "none" else {}),
    }


def _check_exported(policy: Path) -> None:
    """A policy that a round made is still what its training exported. Raises StateError, AdapterError."""
    train = policy.parent / "train"
    if policy.name == "policy" and (done := read_done(train)) is not None:
        check_export(policy, done)
