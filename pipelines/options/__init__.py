"""What every section of a configuration shares: the decorator, checked building, secrets."""

from __future__ import annotations

from pipelines.options.build import as_dict, as_json, build
from pipelines.options.errors import ConfigError, problem_lines
from pipelines.options.secrets import Flags, Secret, Table, Url, check_url, resolved_flags, secret
from trainer.option_class import options

__all__ = [
    "ConfigError",
    "Flags",
    "Secret",
    "Table",
    "Url",
    "as_dict",
    "as_json",
    "build",
    "check_url",
    "options",
    "problem_lines",
    "resolved_flags",
    "secret",
]
