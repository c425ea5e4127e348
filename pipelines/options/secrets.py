"""Secrets: written as env:NAME only, resolved where they are used, never printed or stored."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Strict

from pass_ops.support.secrecy import ADVICE, assigned_secret, is_secret, literal_secrets, url_secret
from pipelines.options.errors import ConfigError

_NAMED = re.compile(r"env:(\w+)")


def secret(value: str, *, key: str) -> str:
    """The secret that `env:NAME` names. Raises ConfigError for a literal one, or a variable that is not set."""
    try:
        name = _reference(value).removeprefix("env:")
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from None
    if name not in os.environ:
        raise ConfigError(f"{key}: the environment variable {name} is not set")
    return os.environ[name]


def resolved_flags(flags: Sequence[str]) -> tuple[str, ...]:
    """Flags of a runner with the secrets that env:NAME names in them. Raises ConfigError where one is not set."""
    return tuple(_NAMED.sub(lambda named: secret(named[0], key="runner.flags"), flag) for flag in flags)


def check_url(url: str, *, key: str) -> str:
    """The URL or path, which may hold no secret. Raises ConfigError, which names the key and repeats nothing."""
    if (found := url_secret(url)) is not None:
        raise ConfigError(f"{key}: holds {found}; leave it out: the store's own environment variables or files give it")
    return url


def _reference(value: Any) -> str:
    if not (isinstance(value, str) and value.startswith("env:") and value != "env:"):
        raise ValueError(ADVICE)
    return value


def _without_secrets(table: Mapping[str, Any]) -> Mapping[str, Any]:
    for problem in literal_secrets(table):
        raise ValueError(problem)
    return table


def _without_credentials(url: str) -> str:
    if (found := url_secret(url)) is not None:
        them = "them" if found.startswith("a user") else "it"
        raise ValueError(f'holds {found}; leave {them} out and give a secret as api_key = "env:NAME"')
    return url


def _without_secret_flags(flags: tuple[str, ...]) -> tuple[str, ...]:
    for flag, following in pairwise((*flags, "")):
        name, _, value = flag.partition("=")
        if (url := url_secret(value or flag)) is not None:
            raise ValueError(f"{name}: holds {url}; {ADVICE}")
        bare = is_secret(name) and not value and following and not following.startswith(("-", "env:"))
        if bare or (assigned := assigned_secret(flag)) is not None:
            raise ValueError(f"{name if bare else assigned}: {ADVICE}")
    return flags


#: the type of an option that is a secret: env:NAME
Secret = Annotated[str, BeforeValidator(_reference)]
#: the type of a table with keys of its own: a secret in it, however deep, is env:NAME too
Table = Annotated[Mapping[str, Any], AfterValidator(_without_secrets)]
#: the type of a URL or a path, which may hold no secret
Url = Annotated[str, AfterValidator(_without_credentials)]
#: the type of a list of flags, in which a secret is env:NAME
Flags = Annotated[tuple[str, ...], Strict(False), AfterValidator(_without_secret_flags)]
