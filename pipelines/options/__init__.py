"""What every section of a configuration shares: checked building, secrets."""

from __future__ import annotations

from pipelines.options.build import as_dict, build
from pipelines.options.errors import ConfigError
from pipelines.options.secrets import secret

__all__ = ["ConfigError", "as_dict", "build", "secret"]
