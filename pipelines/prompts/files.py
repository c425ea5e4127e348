"""Prompt files as records: JSONL, JSON, Parquet, and Hugging Face datasets saved to disk, on any fsspec URL.

A record is a dict and its place ("train.jsonl:17"), so that whatever is wrong with it can be found.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from pass_ops.errors import PassError
from pass_ops.shards.store import Store, arrow_reader
from pass_ops.shards.tables import open_parquet
from pipelines.prompts.hub import PREFIX, at_commit

SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}

# Nesting of a row beyond this is refused: what reads it later recurses.
DEEPEST = 100


class SourceNotFoundError(PassError, FileNotFoundError):
    """A prompt file or folder does not exist or cannot be opened."""


class SourceFormatError(PassError, ValueError):
    """A prompt file is not what its format says, or holds nothing."""


class SourceColumnError(PassError, LookupError):
    """A mapped column is not in the prompt file."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One row of a source. stem: its file's name without suffix; row: 0-based within that file."""

    values: dict[str, Any]
    where: str
    stem: str
    row: int


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """One file that was read: its URL and the sha256 of its bytes."""

    name: str
    url: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class SourceContent:
    """Everything a source holds. columns: those found, in order of appearance."""

    records: tuple[Record, ...]
    files: tuple[SourceFile, ...]
    columns: tuple[str, ...]


def read_source(url: str, *, file_format: str = "auto", split: str | None = None) -> SourceContent:
    """Read every record of a source: one file, a folder of Parquet or JSONL files, or a saved Hugging Face dataset.

    What lies on the hub is read at one commit, which the files' URLs name. split names one dataset of a saved
    DatasetDict. Raises SourceNotFoundError, SourceFormatError.
    """
    url = at_commit(os.path.expanduser(url))
    store = Store(url)
    fs, path = store.fs, store.path()
    if not fs.exists(path):
        raise SourceNotFoundError(
            f"Prompt source {url} does not exist. Restore it, or give another: a JSONL or Parquet file, a folder of "
            "them, or a saved dataset."
        )
    chosen, paths = _files(fs, path, url, file_format, split)
    records: list[Record] = []
    files: list[SourceFile] = []
    columns: dict[str, None] = {}
    for file in paths:
        name = posixpath.basename(file)
        content = _read(fs, file)
        rows = _ROWS.get(chosen, partial(_table_rows, file_format=chosen))(content, name)
        before = len(records)
        for row, (place, values) in enumerate(rows):
            columns.update(dict.fromkeys(values))
            records.append(Record(values=values, where=place, stem=name.rsplit(".", 1)[0], row=row))
        if len(records) == before:
            raise SourceFormatError(f"{file} holds no rows. Nothing can be generated from it; check how it was made.")
        files.append(
            SourceFile(
                name=name,
                url=f"{PREFIX}{file}" if url.startswith(PREFIX) else file,
                sha256=hashlib.sha256(content).hexdigest(),
            )
        )
    return SourceContent(records=tuple(records), files=tuple(files), columns=tuple(columns))


def _files(fs: Any, path: str, url: str, file_format: str, split: str | None) -> tuple[str, list[str]]:
    """The format, and the files in order."""
    if not fs.isdir(path):
        suffix = posixpath.splitext(path)[1].lower()
        known = SUFFIXES | {".json": "json"}  # of a folder's files, those describe the others
        chosen = known.get(suffix, "") if file_format == "auto" else file_format
        if chosen not in known.values():
            raise SourceFormatError(
                f"{url}: a file's format is jsonl, json or parquet, and {suffix or 'no suffix'!r} does not tell. "
                "Set format, or convert the file."
            )
        return chosen, [path]
    names = {posixpath.basename(entry.rstrip("/")) for entry in fs.ls(path, detail=False)}
    if "dataset_dict.json" in names:
        path, names = _split_folder(fs, path, url, split)
    if "state.json" in names and file_format in ("auto", "huggingface"):
        return "huggingface", [posixpath.join(path, item["filename"]) for item in _state(fs, path)]
    for suffix, chosen in SUFFIXES.items():
        found = sorted(name for name in names if name.lower().endswith(suffix))
        if found and file_format in ("auto", chosen):
            return chosen, [posixpath.join(path, name) for name in found]
    raise SourceFormatError(
        f"Folder {url} holds no prompts in format {file_format!r}: no state.json (a dataset saved with save_to_disk), "
        f"no *.parquet, no *.jsonl. It has {', '.join(sorted(names)[:8]) or 'nothing'}."
    )


def _split_folder(fs: Any, path: str, url: str, split: str | None) -> tuple[str, set[str]]:
    file = posixpath.join(path, "dataset_dict.json")
    try:
        splits = list(json.loads(_read(fs, file))["splits"])
    except (ValueError, KeyError, TypeError) as error:
        raise SourceFormatError(
            f"{file} does not list the splits ({error!r}). Save the dataset again with save_to_disk."
        ) from error
    if split is None and len(splits) == 1:
        split = splits[0]
    if split is None or split not in splits:
        asked = "no split is chosen" if split is None else f"there is no split {split!r}"
        raise SourceFormatError(f"{url} holds the splits {', '.join(splits)}, and {asked}. Set split to one of them.")
    path = posixpath.join(path, split)
    return path, {posixpath.basename(entry.rstrip("/")) for entry in fs.ls(path, detail=False)}


def _state(fs: Any, path: str) -> list[dict[str, str]]:
    file = posixpath.join(path, "state.json")
    try:
        files = json.loads(_read(fs, file))["_data_files"]
    except (ValueError, KeyError, TypeError) as error:
        raise SourceFormatError(
            f"{file} does not list the dataset's files ({error!r}). Save the dataset again with save_to_disk."
        ) from error
    return list(files)


def _read(fs: Any, path: str) -> bytes:
    try:
        return bytes(fs.cat_file(path))
    except FileNotFoundError as error:
        raise SourceNotFoundError(f"Prompt file {path} does not exist.") from error
    except OSError as error:
        raise SourceNotFoundError(f"Prompt file {path} cannot be read: {error.strerror or error}.") from error


def _jsonl(content: bytes, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """One JSON object a line, in UTF-8 with or without a byte order mark; blank lines are passed over."""
    for number, line in enumerate(content.splitlines(), start=1):
        if line.strip():
            yield _object(_parsed(line, f"{name}:{number}"), f"{name}:{number}", each="one a line")


def _json(content: bytes, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """One list of JSON objects."""
    rows = _parsed(content, name, fix='mend it, or set format = "jsonl" where each line is an object')
    if not isinstance(rows, list):
        raise SourceFormatError(
            f"{name} holds a {type(rows).__name__} where a list of JSON objects is expected. Give the list alone, or "
            "one object a line in a file that ends in .jsonl."
        )
    for row, values in enumerate(rows):
        yield _object(values, f"{name} row {row}", each="in a list")


def _parsed(content: bytes, place: str, *, fix: str = "mend that line") -> Any:
    try:
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        fact = "is not JSON" if isinstance(error, json.JSONDecodeError) else "cannot be read"
        raise SourceFormatError(f"{place} {fact}: {error}. Nothing was made from the file; {fix}.") from error


def _object(values: Any, place: str, *, each: str) -> tuple[str, dict[str, Any]]:
    if not isinstance(values, dict):
        raise SourceFormatError(f"{place} holds a {type(values).__name__} where a JSON object is expected, {each}.")
    if _nested_deeper(values, DEEPEST):
        raise SourceFormatError(
            f"{place} is nested more than {DEEPEST} levels deep. Nothing was made from the file; mend that line."
        )
    return place, values


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object, and which value is meant is not known")
    return values


def _nested_deeper(value: Any, levels: int) -> bool:
    inside = [value]
    for _ in range(levels):
        containers = [
            item.values() if isinstance(item, dict) else item for item in inside if isinstance(item, dict | list)
        ]
        inside = [item for container in containers for item in container]
    return bool(inside)


def _table_rows(content: bytes, name: str, *, file_format: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        if file_format == "parquet":
            table = open_parquet(content).read()
        else:
            table = pa.ipc.open_stream(arrow_reader(content)).read_all()
        table.validate(full=True)  # texts that are not UTF-8
    except (pa.ArrowException, OSError) as error:
        raise SourceFormatError(f"{name} is no readable {file_format} file: {error}. Copy or make it again.") from error
    if twice := [column for column in table.column_names if table.column_names.count(column) > 1]:
        raise SourceFormatError(f"{name} has two columns named {twice[0]!r}; rename one of them.")
    for row, values in enumerate(table.to_pylist()):
        yield f"{name} row {row}", values


#: format -> how its bytes become rows; those that are not here are tables
_ROWS: Mapping[str, Callable[[bytes, str], Iterator[tuple[str, dict[str, Any]]]]] = {"jsonl": _jsonl, "json": _json}
