"""Options on the command line: `--set section.key=value` and `--grid option=value,value`, as plain data.

Apart from the configuration, so that a command which takes thresholds alone does not import every stage's options.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Any

from pipelines.options.errors import ConfigError


def apply_override(data: dict[str, Any], override: str) -> None:
    """Set one `section.key=value` in place; the value is TOML, or a plain string where it is not.

    >>> d = {"shape": {"k": 0.7}}
    >>> apply_override(d, "shape.k=0"); apply_override(d, "policy.model=my/model"); d
    {'shape': {'k': 0}, 'policy': {'model': 'my/model'}}
    """
    dotted, separator, text = override.partition("=")
    keys = [key.strip() for key in dotted.split(".")]
    if not separator or not all(keys):
        fix = "write it as section.key=value, for example --set shape.k=0.5"
        raise ConfigError(f"--set {dotted!r}: {fix}", place=f"--set {dotted}", fix=fix)
    value = _toml_value(text)
    table = data
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {dotted!r}: {key} is a value, not a section")
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
