"""Secrets: given as env:NAME only, resolved where they are used, never printed or stored."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.options.errors import ConfigError

# Values under keys that end so are secrets.
SECRET_SUFFIXES = ("api_key", "token", "password", "secret")
# In tables without a fixed set of keys (a signal's options) a "step_token" is a token of text.
FREE_SECRET_SUFFIXES = ("api_key", "access_token", "auth_token", "api_token", "password", "secret")


def secret(value: str, *, key: str) -> str:
    """The secret that `env:NAME` names. Raises ConfigError for a literal one, or a variable that is not set."""
    prefix, _, name = value.partition(":")
    if prefix != "env" or not name:
        raise ConfigError(f"{key}: secrets are given as env:NAME only, so that none is ever printed or stored")
    if name not in os.environ:
        raise ConfigError(f"{key}: the environment variable {name} is not set")
    return os.environ[name]


def literal_secrets(data: Any, path: tuple[str, ...]) -> Iterator[str]:
    """Secrets in a table without a fixed set of keys, however deep."""
    if not isinstance(data, Mapping):
        return
    for key, value in data.items():
        if isinstance(value, str) and key.endswith(FREE_SECRET_SUFFIXES) and not value.startswith("env:"):
            yield f"{'.'.join((*path, key))}: secrets are given as env:NAME only"
        yield from literal_secrets(value, (*path, key))
