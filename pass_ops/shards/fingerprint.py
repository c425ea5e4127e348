"""Digests: what decides a dataset's bytes, and what its bytes are.

fingerprint    = sha256(canonical JSON of what decides the bytes)
content digest = sha256(the fingerprint and the sha256 of each part in order, one a line)
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from pass_ops.errors import SpecError
from pass_ops.shards.store import Store


def canonical_json(value: Any) -> str:
    """One text for one value: keys sorted, no spaces, ASCII, integral floats as integers (1.0 and 1 are one number).

    Raises SpecError for NaN, infinity, and anything not made of dict, list, tuple, str, int, float, bool and None.

    >>> canonical_json({"k": 1.0, "a": (0.7, None)})
    '{"a":[0.7,null],"k":1}'
    """
    return json.dumps(plain_json(value), sort_keys=True, separators=(",", ":"))


def plain_json(value: Any, where: str = "") -> Any:
    """The value as JSON would give it back (tuples as lists, integral floats as integers); refuses what JSON cannot
    hold.
    """
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise SpecError(
                    f"{where or 'the value'} has the key {key!r}; keys in a dataset's description are strings"
                )
        return {key: plain_json(item, f"{where}.{key}" if where else key) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise SpecError(f"{where or 'the value'} is {value}; a dataset's description holds finite numbers only")
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if value is None or type(value) in (str, int, bool):
        return value
    if isinstance(value, str):
        return str(value)
    raise SpecError(
        f"{where or 'the value'} is {value!r} ({type(value).__name__}), which JSON cannot hold; give strings, "
        "numbers, booleans, lists and tables only"
    )


def json_file(value: Any) -> bytes:
    """A value as the content of a JSON file for people and programs: keys in the order given."""
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def sha256_bytes(content: bytes | pa.Buffer) -> str:
    """64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def content_digest(fingerprint: str, part_sha256s: Iterable[str]) -> str:
    """sha256 over the fingerprint and the ordered sha256s of the parts (docs/spec/contract.md section 2)."""
    digest = hashlib.sha256(f"{fingerprint}\n".encode())
    for sha256 in part_sha256s:
        digest.update(f"{sha256}\n".encode())
    return digest.hexdigest()


def file_digest(store: Store, name: str = "") -> str:
    """sha256 of a file of any size, in bounded memory; without a name, of the one the store's URL names."""
    with store.open(name) as stream:
        return stream_digest(stream)


def stream_digest(stream: Any) -> str:
    """sha256 of what a binary stream still holds, in bounded memory."""
    return hashlib.file_digest(stream, hashlib.sha256).hexdigest()


def folder_digest(url: str) -> str:
    """sha256 over a folder's files: relative names and contents, in order of names. Hidden files (".git") do not count.

    The same for a folder wherever it lies. A URL of a single file gives that file's sha256. Raises FileNotFoundError.
    """
    store = Store(url)
    names = sorted(_walk(store))
    if not names:
        return file_digest(store)
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{file_digest(store, name)} {name}\n".encode())
    return digest.hexdigest()


def _walk(store: Store, folder: str = "") -> Iterable[str]:
    prefix = f"{folder}/" if folder else ""
    for entry in store.entries(folder):
        if not entry.name.startswith("."):
            yield prefix + entry.name
    for name in store.folders(folder):
        if not name.startswith("."):
            yield from _walk(store, prefix + name)
