"""The files of a source, in order, with their sha256, and the records in them."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pass_ops.shards import Store
from pass_ops.shards.fingerprint import stream_digest
from pipelines.imports.check import checked
from pipelines.imports.record import Format, ImportSourceError, Place, Read, Record
from pipelines.rows.read import SourceRow
from pipelines.rows.record import RejectedRow, RowError

#: what would run code when it is opened
PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".dp", ".ckpt", ".npy", ".joblib")


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """One file: its name below the source, where it lies, and the sha256 of its bytes."""

    name: str
    url: str
    sha256: str


def source_files(url: str, form: Format) -> tuple[SourceFile, ...]:
    """The files of a source, one or a folder's, numbers in names in their order (step 2 before step 10).

    Raises ImportSourceError: nothing is there, or nothing of the format.
    """
    store = Store(os.path.expanduser(url))
    path = store.path()
    if not store.fs.exists(path):
        raise ImportSourceError(f"{url} does not exist. Give the path of a file or a folder that is there.")
    if not store.fs.isdir(path):
        if not path.lower().endswith(form.files):
            _refuse_pickle(url, path)
        return (_digested(posixpath.basename(path), os.path.abspath(path) if store.is_local else url, store),)
    found = sorted((name for name in store.fs.find(path) if "/." not in name[len(path) :]), key=_in_order)
    chosen = [name for name in found if name.lower().endswith(form.files)]
    if not chosen:
        for name in found:
            _refuse_pickle(name, name)
        raise ImportSourceError(
            f"{url} holds no file of format {form.name} ({', '.join(form.files)}); it has "
            f"{', '.join(posixpath.basename(name) for name in found[:8]) or 'nothing'}."
        )
    path = os.path.abspath(path) if store.is_local else path  # as `find` gives them
    prefix = "" if store.is_local else f"{url.partition('://')[0]}://"
    return tuple(
        _digested(posixpath.relpath(name, path), f"{prefix}{name}", store.at(f"{prefix}{name}")) for name in chosen
    )


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far a source was read: so many files whole, and of the next so many rows."""

    files: int = 0
    rows: int = 0


#: what a row holds: records with their place, or why it was rejected
Entry = tuple[Place, Record] | RejectedRow


def read_entries(
    files: Sequence[SourceFile], form: Format, *, start: Position = Position()
) -> Iterator[tuple[int, int, list[Entry]]]:
    """What each row from `start` on holds, in order: number of its file, its own in the file, both from 0.

    Raises RowFileError for a file that cannot be read.
    """
    read = form.read if form.joined is None else form.joined([file.url for file in files])
    for number, file in enumerate(files):
        if number < start.files:
            continue
        skip = start.rows if number == start.files else 0
        for at, row in enumerate(form.rows(file.url, skip=skip), start=skip):
            yield number, at, [row] if isinstance(row, RejectedRow) else _entries(row, file, read, form)


def _entries(row: SourceRow, file: SourceFile, read: Read, form: Format) -> list[Entry]:
    """The records of a row; those before one that is not what its format says stay."""
    place = Place(file.name, row.number, row.where)
    found: list[Entry] = []
    try:
        for record in read(row.values, place):
            found.append((place, checked(record, form)))  # noqa: PERF401 - what was found before an error stays
    except RowError as error:
        return [*found, RejectedRow(where=row.where, reason=error.reason, detail=str(error))]
    return found


def _digested(name: str, url: str, store: Store) -> SourceFile:
    with store.open("") as stream:
        return SourceFile(name=name, url=url, sha256=stream_digest(stream))


def _refuse_pickle(url: str, path: str) -> None:
    if path.lower().endswith(PICKLES):
        raise ImportSourceError(
            f"{url} is a pickle or may hold one: opening it runs whatever its maker put in. It was not opened. Export "
            "the rollouts as JSON lines or Parquet where they were made."
        )


def _in_order(name: str) -> tuple[tuple[int, str], ...]:
    """Digits as numbers."""
    return tuple((int(piece), "") if piece.isdigit() else (-1, piece) for piece in re.split(r"(\d+)", name))
