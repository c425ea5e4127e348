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

from annotated_types import Ge, Le
from pydantic import Strict

from pipelines.engines.base import EngineOptions, Sampling
from pipelines.options import ConfigError, Table, Url, build, options
from pipelines.options.overrides import apply_override
from pipelines.options.types import AtLeastOne, Rows, SignalName
from pipelines.parts.operations import Limits
from pipelines.prompts.stage import PromptSource
from pipelines.rollouts.stage import GenerateOptions
from pipelines.runners import RunnerOptions
from pipelines.runs.evaluate import EvalOptions
from pipelines.shaped.stage import ShapeOptions
from trainer import TrainOptions

# Values under these keys name files or folders, wherever they stand.
PATH_KEYS = frozenset({"model", "recording", "source", "tokenizer"})

MOST_ROUNDS = 999_999
MOST_TOKENS_OF_A_PART = 2**29

Consent = Literal["disk_space", "gpu_memory", "group_size_1", "negative_weights"]


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
    used up (default: all prompts, every round). Example: 128."""
    keep_states: AtLeastOne | None = None
    """Rounds whose optimizer state stays, the newest ones; a round can be trained again while the one before it has its
    own (default: all; datasets, policies and the lineage stay in any case). For runs on a local disk. Example: 2."""
    accept: Annotated[tuple[Consent, ...], Strict(False)] = ()
    """What the check before a run refuses and you want all the same: disk_space (the estimate is above what is free),
    gpu_memory (a stage is computed to need more than a GPU has), group_size_1 (groups of one rollout), negative_weights
    (a stream whose good values are punished). Example: ["group_size_1"]."""


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
    runner: RunnerOptions = field(default_factory=RunnerOptions)
    """Where Beam jobs run."""
    operations: Limits = field(default_factory=Limits)
    """How hard a stage tries, and how many rejects it tolerates."""

    def __post_init__(self) -> None:
        asked = [("prompts", self.prompts, self.generate.group_size, self.generate.sampling.max_tokens)]
        if self.eval is not None:
            asked += [
                (f"eval.benchmarks.{name}", source, self.eval.samples, self.eval_sampling.max_tokens)
                for name, source in self.eval.benchmarks.items()
            ]
        for place, source, size, tokens in asked:
            _check_part(place, source, size=size, tokens=tokens)

    @property
    def eval_sampling(self) -> Sampling:
        """How benchmarks are sampled: as [eval] says, else as the rounds draw; without token statistics, which are read
        by training alone.
        """
        given = None if self.eval is None else self.eval.sampling
        return replace(given or self.generate.sampling, token_statistics=0)


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
        return {name: _beside(value, folder, name) for name, value in data.items()}
    if not (isinstance(data, str) and key in PATH_KEYS and data and "://" not in data):
        return data
    if (folder / data).exists():
        return str((folder / data).resolve())
    here = Path(data).expanduser()
    return str((folder / here).resolve()) if key == "source" and not here.exists() else data
