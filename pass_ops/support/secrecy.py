"""What a secret looks like in a configuration, a URL or a flag, and how text is shown without it.

Secrets are given as env:NAME; what is recognized as a literal one is refused before it could be stored. What still may
say one, a server's answer or a library's message, is shown through `hidden`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MASK = "***"
ADVICE = "secrets are given as env:NAME only, so that none is ever printed or stored"
_SHORTEST = 6  # an environment variable's value below this is more likely a switch than a secret
_WORDS = (
    r"(?:api|access|secret|private|account)_?key(?:_?id)?|passwords?|passwd|passphrase|secrets?|credentials?"
    r"|(?:access|auth|api|bearer|refresh|session|security|sas|hf|hub)_?token|authorization|cookies?"
)
#: a key whose value is a secret; not every "token" is one: a "step_token" is text
_KEY = re.compile(rf"(?:.*_)?(?:{_WORDS})")
_QUERY_KEY = re.compile(rf"(?:.*_)?(?:{_WORDS}|key|token|sig|signature|auth|credential|awsaccesskeyid)")
_VARIABLE = re.compile(r"(?:.*_)?(?:key|token|secret|password|passwd|pass|credentials?|auth)")
_USER = re.compile(r"(?<=://)[^/?#\s@'\"]+(?=@)")
_QUERY = re.compile(r"([?&;])([\w.%-]+)=([^&;#\s'\"]+)")
_ASSIGNED = re.compile(rf"(?i)([\w-]*(?:{_WORDS.replace('_?', '[_-]?')})(?:[\"']\s*:|=)\s*[\"']?)([^\s\"',;&}}\]]+)")
_HEADER = re.compile(r"(?i)\b(bearer|basic)\s+[\w+/=.~-]+")
# In these an account's name and a repository stand before the @, no secret.
_NAMES_BEFORE_AT = ("github://", "git://")


def is_secret(key: str) -> bool:
    """Whether a value under this key is a secret.

    >>> is_secret("api_key"), is_secret("X-API-Key"), is_secret("s3_secret_access_key"), is_secret("step_token")
    (True, True, True, False)
    """
    return _KEY.fullmatch(_plain(key)) is not None


def url_secret(text: str) -> str | None:
    """What of a URL is a secret: "user or password", or the name of a query's parameter; None where nothing is.

    >>> url_secret("https://me:pw@host/v1"), url_secret("https://host/v1?key=abc&n=1"), url_secret("s3://bucket/a@b")
    ('a user or password', "the secret 'key' in its query", None)
    """
    if _USER.search(text) and not text.startswith(_NAMES_BEFORE_AT):
        return "a user or password"
    for _, name, value in _QUERY.findall(text) if "://" in text else ():
        if _QUERY_KEY.fullmatch(_plain(name)) and not value.startswith("env:"):
            return f"the secret {name!r} in its query"
    return None


def literal_secrets(data: Any, place: str = "") -> Iterator[str]:
    """Where plain data holds a secret that is no env:NAME: dotted keys, with what is wrong there."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            at = f"{place}.{key}" if place else str(key)
            if is_secret(str(key)) and isinstance(value, str) and not value.startswith("env:"):
                yield f"{at}: {ADVICE}"
            elif is_secret(str(key)) and isinstance(value, Mapping | Sequence) and not isinstance(value, str):
                yield f"{at}: {ADVICE}; give each of them under a key of its own"
            else:
                yield from literal_secrets(value, at)
    elif isinstance(data, str):
        if (found := url_secret(data)) is not None:
            yield f"{place or 'it'}: holds {found}; {ADVICE}"
    elif isinstance(data, Sequence):
        for index, value in enumerate(data):
            yield from literal_secrets(value, f"{place}[{index}]")


def assigned_secret(text: str) -> str | None:
    """The name that a text, such as a flag, assigns a literal secret to; None where it does not.

    >>> assigned_secret("--s3_secret_access_key=abc"), assigned_secret("--s3_secret_access_key=env:KEY")
    ('s3_secret_access_key', None)
    """
    for name, value in _ASSIGNED.findall(text):
        if not value.startswith("env:"):
            return re.sub(r"[\"':=\s]+$", "", name).lstrip("-")
    return None


def hidden(text: str) -> str:
    """A text with a mask in the place of secrets: in URLs, assigned to a key, or held by an environment variable.

    >>> hidden("GET https://me:pw@host/x?api_key=abc gave 401, with Authorization: Bearer abc")
    'GET https://***@host/x?api_key=*** gave 401, with Authorization: Bearer ***'
    """
    text = _HEADER.sub(rf"\1 {MASK}", text)
    text = text if text.startswith(_NAMES_BEFORE_AT) else _USER.sub(MASK, text)
    text = _QUERY.sub(lambda m: f"{m[1]}{m[2]}={MASK}" if _QUERY_KEY.fullmatch(_plain(m[2])) else m[0], text)
    text = _ASSIGNED.sub(lambda m: m[0] if m[2].startswith("env:") else m[1] + MASK, text)
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and value in text and _VARIABLE.fullmatch(name.lower()):
            text = text.replace(value, MASK)
    return text


def _plain(key: str) -> str:
    """A key in the form of the patterns: words in lower case, joined by underscores."""
    return re.sub(r"[-.\s%]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key)).lower().strip("_")
