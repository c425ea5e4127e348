"""A run's configuration: TOML in, frozen dataclasses out.

Every section is the options dataclass of the room it configures, so that a name is defined once; pydantic checks
types, and
a key nobody knows is refused with the nearest known one. A relative path in a file is looked up beside that file first.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from pass_ops.errors import PassError
from pipelines.engines.base import EngineOptions
from pipelines.evaluate import EvalOptions
from pipelines.runners import RunnerOptions
from pipelines.sources import PromptSource
from pipelines.stages.generate import GenerateOptions
from pipelines.stages.operations import Limits
from pipelines.stages.shape import ShapeOptions
from trainer import TrainOptions

# Values under these keys name files or folders, wherever they stand.
PATH_KEYS = frozenset({"model", "recording", "source", "tokenizer"})
# Values under keys that end so are secrets: given as env:NAME, resolved late, never printed or stored.
SECRET_SUFFIXES = ("api_key", "token", "password", "secret")
# In tables without a fixed set of keys (a signal's options) a "step_token" is a token of text.
FREE_SECRET_SUFFIXES = ("api_key", "access_token", "auth_token", "api_token", "password", "secret")

T = TypeVar("T")


class ConfigError(PassError, ValueError):
    """A configuration cannot be used; the message lists every problem, one a line, with its place."""


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


def build(cls: type[T], data: Mapping[str, Any], *, where: str) -> T:
    """A checked instance of an options dataclass from plain data; unknown keys are refused with the nearest known
    one.
    """
    problems = list(_unknown_keys(cls, data, ()))
    if not problems:
        try:
            return pydantic.TypeAdapter(cls).validate_json(json.dumps(data, default=str), strict=True)
        except pydantic.ValidationError as error:
            problems = [_problem(item) for item in error.errors()]
    raise ConfigError(f"{where}: " + "\n  ".join(["cannot be used:", *problems]))


def as_dict(config: Any) -> dict[str, Any]:
    """The resolved configuration as plain data, secrets left as they were given (env:NAME)."""
    resolved = pydantic.TypeAdapter(type(config)).dump_python(config, mode="json")
    assert isinstance(resolved, dict)
    return resolved


def secret(value: str, *, key: str) -> str:
    """The secret that `env:NAME` names. Raises ConfigError for a literal one, or a variable that is not set."""
    prefix, _, name = value.partition(":")
    if prefix != "env" or not name:
        raise ConfigError(f"{key}: secrets are given as env:NAME only, so that none is ever printed or stored")
    if name not in os.environ:
        raise ConfigError(f"{key}: the environment variable {name} is not set")
    return os.environ[name]


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


def _unknown_keys(cls: Any, data: Any, path: tuple[str, ...]) -> Iterator[str]:
    if not isinstance(data, Mapping):
        return
    hints = typing.get_type_hints(cls)
    known = [item.name for item in dataclasses.fields(cls)]
    for key, value in data.items():
        place = ".".join((*path, key))
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            advice = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
            yield f"{place}: unknown key; {advice}"
        elif key.endswith(SECRET_SUFFIXES) and isinstance(value, str) and not value.startswith("env:"):
            yield f"{place}: secrets are given as env:NAME only"
        elif typing.get_origin(hints[key]) in (dict, Mapping):
            yield from _literal_secrets(value, (*path, key))
        elif (nested := _dataclass_in(hints[key])) is not None:
            yield from _unknown_keys(nested, value, (*path, key))


def _literal_secrets(data: Any, path: tuple[str, ...]) -> Iterator[str]:
    """Secrets in a table without a fixed set of keys, however deep."""
    if not isinstance(data, Mapping):
        return
    for key, value in data.items():
        if isinstance(value, str) and key.endswith(FREE_SECRET_SUFFIXES) and not value.startswith("env:"):
            yield f"{'.'.join((*path, key))}: secrets are given as env:NAME only"
        yield from _literal_secrets(value, (*path, key))


def _dataclass_in(hint: Any) -> Any:
    """The dataclass a field holds: itself, or the one in `X | None`."""
    options = (
        typing.get_args(hint)
        if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
        else (hint,)
    )
    return next((option for option in options if dataclasses.is_dataclass(option)), None)


def _problem(item: Any) -> str:
    place = ".".join(str(part) for part in item["loc"])
    if item["type"] == "missing":
        return f"{place}: is required"
    if "error" in item.get("ctx", {}):
        return f"{place}: {item['ctx']['error']}"
    return f"{place}: {item['msg'].lower()}, not {item['input']!r}"
