"""A run's configuration: TOML in, frozen dataclasses out.

Every section is the options dataclass of the room it configures, so that a name is defined once; pydantic checks
types, and
a key nobody knows is refused with the nearest known one. A relative path in a file is looked up beside that file first.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.engines.base import EngineOptions
from pipelines.options import ConfigError, build
from pipelines.parts.operations import Limits
from pipelines.prompts.stage import PromptSource
from pipelines.rollouts.stage import GenerateOptions
from pipelines.runners import RunnerOptions
from pipelines.runs.evaluate import EvalOptions
from pipelines.shaped.stage import ShapeOptions
from trainer import TrainOptions

# Values under these keys name files or folders, wherever they stand.
PATH_KEYS = frozenset({"model", "recording", "source", "tokenizer"})


@dataclass(frozen=True, kw_only=True)
class RunSection:
    """What holds for the whole run.

    seed: of the order of prompts and of every rollout (train.seed orders batches, eval.seed draws evaluations). rounds:
    how many `passrl rounds` makes. prompts_per_round: each round takes the next so many prompts of the source, shuffled
    once by the seed and begun again when it is used up; None = all, every round.
    """

    seed: int = 0
    rounds: int = 1
    prompts_per_round: int | None = None


@dataclass(frozen=True, kw_only=True)
class PolicySection:
    """The model to train: a Hugging Face folder (config, safetensors, tokenizer)."""

    model: str


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run, as `passrl run` reads it. Sections are TOML tables; `[signals.NAME]` holds one signal each."""

    prompts: PromptSource
    policy: PolicySection
    run: RunSection = field(default_factory=RunSection)
    engine: EngineOptions = field(default_factory=EngineOptions)
    generate: GenerateOptions = field(default_factory=GenerateOptions)
    signals: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    shape: ShapeOptions = field(default_factory=ShapeOptions)
    train: TrainOptions = field(default_factory=TrainOptions)
    eval: EvalOptions | None = None
    runner: RunnerOptions = field(default_factory=RunnerOptions)
    operations: Limits = field(default_factory=Limits)


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> RunConfig:
    """Read a TOML file, apply `section.key=value` overrides, check it. Raises ConfigError with every problem found."""
    file = Path(path)
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}). Give the path of a TOML file.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: is not TOML: {error}.") from error
    data = _beside(data, file.resolve().parent)
    for override in overrides:
        apply_override(data, override)
    return build(RunConfig, data, where=str(file))


def apply_override(data: dict[str, Any], override: str) -> None:
    """Set one `section.key=value` in place; the value is TOML, or a plain string where it is not.

    >>> d = {"shape": {"k": 0.7}}
    >>> apply_override(d, "shape.k=0"); apply_override(d, "policy.model=my/model"); d
    {'shape': {'k': 0}, 'policy': {'model': 'my/model'}}
    """
    dotted, separator, text = override.partition("=")
    keys = [key.strip() for key in dotted.split(".")]
    if not separator or not all(keys):
        raise ConfigError(f"--set {override!r}: write it as section.key=value, for example --set shape.k=0.5")
    value = _toml_value(text)
    table = data
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {override!r}: {key} is a value, not a section")
    table[keys[-1]] = value


def parse_grid(texts: Sequence[str]) -> dict[str, list[Any]]:
    """`option=value,value,...` texts as option -> values, each value TOML, or a plain string where it is not.

    >>> parse_grid(["k=0,0.7", "estimator=pass,grpo_outcome"])
    {'k': [0, 0.7], 'estimator': ['pass', 'grpo_outcome']}
    """
    grid: dict[str, list[Any]] = {}
    for text in texts:
        key, _, values = text.partition("=")
        if not key.strip() or not all(part.strip() for part in values.split(",")):
            raise ConfigError(f"--grid {text!r}: write it as option=value,value,..., for example --grid k=0,0.7,1")
        if key.strip() in grid:
            raise ConfigError(f"--grid {text!r}: {key.strip()} is given twice; list all its values in one --grid")
        grid[key.strip()] = [_toml_value(part.strip()) for part in values.split(",")]
    return grid


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _beside(data: Any, folder: Path, key: str = "") -> Any:
    """Paths that exist beside the configuration file become absolute; everything else stays as written."""
    if isinstance(data, dict):
        return {name: _beside(value, folder, name) for name, value in data.items()}
    if isinstance(data, str) and key in PATH_KEYS and data and "://" not in data and (folder / data).exists():
        return str((folder / data).resolve())
    return data
