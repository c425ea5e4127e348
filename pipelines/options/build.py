"""Plain data in, checked options out: the one way from TOML and `--set` to an options class."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, TypeVar

import pydantic

from pass_ops.errors import PassError
from pipelines.options.errors import ConfigError
from trainer.option_class import CONFIG, problems

T = TypeVar("T")


def build(cls: type[T], data: Mapping[str, Any], *, where: str, error: type[PassError] = ConfigError) -> T:
    """An instance of a class of options from plain data, checked as its constructor checks.

    A plain dataclass (a signal of your own) is checked against its types, too.

    Args:
        cls: the class, made with `@options` or a plain dataclass.
        data: key -> value, as TOML and JSON have them.
        where: what the message begins with: the file, or what else the data came from.
        error: what is raised, with one line for each problem: its dotted key, the value, and what it must be.
    """
    if not hasattr(cls, "__pydantic_config__"):
        pydantic.with_config(CONFIG)(cls)
    try:
        return pydantic.TypeAdapter(cls).validate_json(json.dumps(data, default=str))
    except pydantic.ValidationError as refused:
        told = "\n  ".join(["cannot be used:", *problems(refused, cls)])
        raise error(f"{where}: {told}", place=where) from None


def as_dict(config: Any) -> dict[str, Any]:
    """The resolved configuration as plain data, secrets left as they were given (env:NAME)."""
    resolved = pydantic.TypeAdapter(type(config)).dump_python(config, mode="json")
    assert isinstance(resolved, dict)
    return resolved


def as_json(value: Any) -> Any:
    """Values of options for a JSON file: an infinite one as TOML writes it, for JSON has no such number.

    >>> as_json({"train": {"stop_ratio": float("inf"), "lr": 1e-6}})
    {'train': {'stop_ratio': 'inf', 'lr': 1e-06}}
    """
    if isinstance(value, Mapping):
        return {name: as_json(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(one) for one in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value
