"""Folders named from one another, so that a RUN folder can be moved or copied as a whole."""

from __future__ import annotations

import os
import posixpath

from pass_ops.shards.store import Store


def relative_folder(dataset: str, target: str) -> str:
    """`target` as seen from a dataset's folder: relative where both are in one store, the URL as it is otherwise.

    >>> relative_folder("s3://bucket/run/round-000/shaped", "s3://bucket/run/round-000/rollouts")
    '../rollouts'
    """
    here, there = _split(dataset), _split(target)
    if here[0] != there[0]:
        return target
    return posixpath.relpath(there[1], here[1])


def resolve_folder(dataset: str, folder: str) -> str:
    """The URL of a folder recorded in a dataset.

    >>> resolve_folder("memory://run/shaped", "../rollouts")
    'memory://run/rollouts'
    """
    if "://" in folder or os.path.isabs(folder):
        return folder
    store, path = _split(dataset)
    joined = posixpath.normpath(posixpath.join(path, folder))
    return f"{store}{joined.lstrip('/') if store == 'memory://' else joined}"


def _split(url: str) -> tuple[str, str]:
    """What two URLs must share for a relative path between them (scheme and bucket or host), and the path below it."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme in ("file", "local"):
        return "", Store(url).path()
    if scheme == "memory":
        return "memory://", f"/{rest}"
    bucket, _, path = rest.partition("/")
    return f"{scheme}://{bucket}", f"/{path}"
