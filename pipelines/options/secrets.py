"""Secrets: written as env:NAME only, resolved where they are used, never printed or stored."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator

from pipelines.options.errors import ConfigError

# A value under a key that ends like this is a secret; not every "token" is one: a "step_token" is text.
SECRET_SUFFIXES = ("api_key", "access_token", "auth_token", "api_token", "password", "secret")


def secret(value: str, *, key: str) -> str:
    """The secret that `env:NAME` names. Raises ConfigError for a literal one, or a variable that is not set."""
    try:
        name = _reference(value).removeprefix("env:")
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from None
    if name not in os.environ:
        raise ConfigError(f"{key}: the environment variable {name} is not set")
    return os.environ[name]


def _reference(value: Any) -> str:
    if not (isinstance(value, str) and value.startswith("env:") and value != "env:"):
        raise ValueError("secrets are given as env:NAME only, so that none is ever printed or stored")
    return value


def _without_secrets(table: Mapping[str, Any]) -> Mapping[str, Any]:
    for place in _literal_secrets(table, ()):
        raise ValueError(f"{place}: secrets are given as env:NAME only, so that none is ever printed or stored")
    return table


def _literal_secrets(data: Any, path: tuple[str, ...]) -> Iterator[str]:
    if isinstance(data, Mapping):
        for key, value in data.items():
            if isinstance(value, str) and key.endswith(SECRET_SUFFIXES) and not value.startswith("env:"):
                yield ".".join((*path, key))
            yield from _literal_secrets(value, (*path, key))


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise ValueError('holds a user or password; leave them out and give a secret as api_key = "env:NAME"')
    return url


#: the type of an option that is a secret: env:NAME
Secret = Annotated[str, BeforeValidator(_reference)]
#: the type of a table with keys of its own: a secret in it, however deep, is env:NAME too
Table = Annotated[Mapping[str, Any], AfterValidator(_without_secrets)]
#: the type of a URL, which may hold no password
Url = Annotated[str, AfterValidator(_without_credentials)]
