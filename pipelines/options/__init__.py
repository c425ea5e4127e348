"""What every section of a configuration shares: the decorator, checked building, secrets."""

from __future__ import annotations

from pipelines.options.build import as_dict, build
from pipelines.options.errors import ConfigError, problem_lines
from pipelines.options.secrets import Secret, Table, Url, secret
from trainer.option_class import options

__all__ = ["ConfigError", "Secret", "Table", "Url", "as_dict", "build", "options", "problem_lines", "secret"]
