"""A run's configuration: TOML in, frozen options out.

Every section is the options class of the room it configures, so that a name is defined once. A relative path in a file
is looked up beside that file first. Building a configuration imports no code of the user's: programs, verifiers,
estimators and signals are named in it, and found where they are used.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le
from pydantic import Strict

from pipelines.engines.base import EngineOptions, Sampling
from pipelines.options import ConfigError, Table, Url, build, options
from pipelines.options.overrides import apply_override
from pipelines.options.types import AtLeastOne, Rows, SignalName
from pipelines.parts.operations import Limits
from pipelines.prompts.stage import PromptSource
from pipelines.rollouts.stage import GenerateOptions
from pipelines.runners import RunnerOptions
from pipelines.runs import schedule as schedules
from pipelines.runs.evaluate import EvalOptions
from pipelines.runs.selection import SelectOptions
from pipelines.runs.stop import StopOptions
from pipelines.shaped.stage import ShapeOptions
from trainer import TrainOptions

# Values under these keys name files or folders, wherever they stand.
PATH_KEYS = frozenset({"model", "recording", "source", "tokenizer"})

MOST_ROUNDS = 999_999
MOST_TOKENS_OF_A_PART = 2**29

StageName = Literal["generate", "score", "shape", "eval"]
Consent = Literal["disk_space", "gpu_memory", "group_size_1", "negative_weights", "other_base"]


@options(ConfigError)
class RunSection:
    """What holds for the whole run."""

    seed: int = 0
    """Seed of the order of prompts and of every rollout. Batches are ordered by train.seed, evaluations draw by
    eval.seed."""
    rounds: Annotated[int, Ge(1), Le(MOST_ROUNDS)] = 1
    """How many rounds `passrl rounds` makes; a round's number has six digits at most."""
    prompts_per_round: Rows | None = None
    """Prompts a round takes: the next ones of the source, which is shuffled once by the seed and begun again when it is
    used up (default: all prompts, every round). It takes the place of prompts.limit and prompts.ids. Example: 128."""
    keep_states: AtLeastOne | None = None
    """Rounds whose optimizer state stays, the newest ones; a round can be trained again while the one before it has its
    own (default: all; datasets, policies and the lineage stay in any case). For runs on a local disk. Example: 2."""
    keep_rollouts: AtLeastOne | None = None
    """Rounds whose rollouts, signals and shaped datasets keep their rows, the newest ones; of the others, prompts and
    manifests with their digests stay (default: all). Example: 3."""
    disk_gigabytes: Annotated[float, Gt(0)] | None = None
    """Most gigabytes (1e9 bytes) of a run's folder on a local disk. Once a round is complete, states and rows of the
    oldest rounds are deleted until it holds no more, except what the next round reads (default: no limit). Example:
    500.0."""
    max_staleness: Annotated[int, Ge(0), Le(MOST_ROUNDS)] = 0
    """Rounds back whose shaped datasets a round trains on beside its own (0 = its own alone). Their log-probabilities
    stay those of the policy that sampled them, so train.off_policy must be "accept". Example: 1."""
    accept: Annotated[tuple[Consent, ...], Strict(False)] = ()
    """What the check before a run refuses and you want all the same: disk_space (the estimate is above what is free),
    gpu_memory (a stage is computed to need more than a GPU has), group_size_1 (groups of one rollout), negative_weights
    (a stream whose good values are punished), other_base (the KL reference or G-OPD's base is another model than the
    policy before round 0). Example: ["group_size_1"]."""


@options(ConfigError)
class PolicySection:
    """The model to train."""

    model: Url
    """A Hugging Face model folder (config, safetensors, tokenizer) or an adapter's, a repository of the hub as org/name
    or org/name@REVISION, or the URL of such a folder in a store. Example: "Qwen2.5-0.5B"."""


@options(ConfigError)
class RunConfig:
    """One run, as `passrl run` reads it: a TOML file whose tables are these sections."""

    prompts: PromptSource
    """Which prompts, from where."""
    policy: PolicySection
    """The model to train."""
    run: RunSection = field(default_factory=RunSection)
    """What holds for the whole run."""
    engine: EngineOptions = field(default_factory=EngineOptions)
    """How the policy is run; also models of signals that name no engine of their own."""
    generate: GenerateOptions = field(default_factory=GenerateOptions)
    """What is sampled from each prompt."""
    signals: Mapping[SignalName, Table] = field(default_factory=dict)
    """One table [signals.NAME] for each signal: its key `signal` says which, the others are that signal's options. NAME
    becomes a folder."""
    shape: ShapeOptions = field(default_factory=ShapeOptions)
    """How advantages are formed from the signals."""
    train: TrainOptions = field(default_factory=TrainOptions)
    """How the policy is updated."""
    eval: EvalOptions | None = None
    """What is measured on held-out prompts (default: nothing)."""
    select: SelectOptions | None = None
    """Chooses run.prompts_per_round prompts by how often earlier rounds solved them (default: the next ones)."""
    stop: StopOptions | None = None
    """When rounds end early (default: never)."""
    runner: RunnerOptions = field(default_factory=RunnerOptions)
    """Where Beam jobs run."""
    runners: Mapping[StageName, RunnerOptions] = field(default_factory=dict)
    """Where the jobs of single stages run instead, one table [runners.STAGE] each: generate, score, shape, or eval,
    which is all jobs of an evaluation. Updates run on this machine."""
    operations: Limits = field(default_factory=Limits)
    """How hard a stage tries, and how many rejects it tolerates."""
    schedule: Table = field(default_factory=dict)
    """Options of run, prompts, generate, shape and train that change from round to round; benchmarks are sampled as the
    configuration itself says."""

    def __post_init__(self) -> None:
        schedules.rules(self.schedule)
        self._check_prompts()
        asked = [("prompts", self.prompts, self.generate.group_size, self.generate.sampling.max_tokens)]
        if self.eval is not None:
            asked += [
                (f"eval.benchmarks.{name}", source, self.eval.samples, self.eval_sampling.max_tokens)
                for name, source in self.eval.benchmarks.items()
            ]
        for place, source, size, tokens in asked:
            _check_part(place, source, size=size, tokens=tokens)

    def _check_prompts(self) -> None:
        """Refuse a second answer to which prompts a round takes. Raises ConfigError."""
        count = self.run.prompts_per_round
        for option in ("limit", "ids") if count is not None else ():
            if (given := getattr(self.prompts, option)) is not None:
                told = given if option == "limit" else f"a list of {len(given)}"
                raise ConfigError(
                    f"prompts.{option} is {told}, but run.prompts_per_round is {count} and moves through the whole "
                    f"source, so prompts.{option} would count for nothing; leave one of the two out (a file with fewer "
                    "rows is a smaller source)"
                )

    @property
    def eval_sampling(self) -> Sampling:
        """How benchmarks are sampled: as [eval] says, else as the rounds draw; without token statistics, which are read
        by training alone.
        """
        given = None if self.eval is None else self.eval.sampling
        return replace(given or self.generate.sampling, token_statistics=0)

    def runner_of(self, stage: str) -> RunnerOptions:
        """Where the jobs of a stage run."""
        return {**self.runners}.get(stage, self.runner)  # type: ignore[call-overload, no-any-return]

    def at_round(self, round_index: int) -> RunConfig:
        """The configuration of one round, without a schedule. Raises ConfigError where a value cannot be used."""
        if not self.schedule:
            return self
        config = schedules.at_round(replace(self, schedule={}), schedules.rules(self.schedule), round_index)
        eval_options = (
            None if self.eval is None else replace(self.eval, sampling=self.eval.sampling or self.eval_sampling)
        )
        return replace(config, eval=eval_options)

    def scheduled_in(self, round_index: int) -> dict[str, Any]:
        """Scheduled option, by its dotted name -> its value in one round. Raises ConfigError."""
        return schedules.values(self.at_round(round_index), schedules.rules(self.schedule))


def _check_part(place: str, source: PromptSource, *, size: int, tokens: int) -> None:
    """Refuse parts that could outgrow their columns. Raises ConfigError."""
    rows = min(source.prompts_per_part, source.limit or source.prompts_per_part)
    if rows * size * tokens > MOST_TOKENS_OF_A_PART:
        raise ConfigError(
            f"{place}.prompts_per_part: {rows} prompts of {size} rollouts of up to {tokens} tokens are "
            f"{rows * size * tokens:,} tokens in one part, and {MOST_TOKENS_OF_A_PART:,} fit: at 4 bytes a token, "
            "their text fills what int32 offsets reach. Lower prompts_per_part, or the rollouts or their max_tokens"
        )


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> RunConfig:
    """Read a TOML file, apply `section.key=value` overrides, check it. Raises ConfigError with every problem found."""
    file = Path(path)
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        fix = "give the path of a TOML file"
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); {fix}", place=str(file), fix=fix) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: is not TOML: {error}.", place=str(file)) from error
    data = _beside(data, file.resolve().parent)
    for override in overrides:
        apply_override(data, override)
    return build(RunConfig, data, where=str(file))


def module_folders(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Where modules of the user's own are found: the folder of the configuration file."""
    return (str(Path(path).resolve().parent),)


def _beside(data: Any, folder: Path, key: str = "") -> Any:
    """Paths that exist beside the configuration file become absolute, and so do prompts that exist nowhere, so that an
    error says where they are missed; everything else stays as written.
    """
    if isinstance(data, dict):
        ruled = isinstance(data.get("rule"), str)  # a schedule's: its values are those of the key above
        return {name: _beside(value, folder, key if ruled else name) for name, value in data.items()}
    if isinstance(data, list):
        return [_beside(value, folder, key) for value in data]
    if not (isinstance(data, str) and key in PATH_KEYS and data and "://" not in data):
        return data
    if (folder / data).exists():
        return str((folder / data).resolve())
    here = Path(data).expanduser()
    return str((folder / here).resolve()) if key == "source" and not here.exists() else data
