"""The files of a source, in order, with their sha256, and the records in them."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass

from pass_ops.shards import Store
from pass_ops.shards.fingerprint import stream_digest
from pipelines.imports.check import checked
from pipelines.imports.record import Format, ImportSourceError, Place, Record
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


def read_records(files: tuple[SourceFile, ...], form: Format) -> Iterator[tuple[Place, Record] | RejectedRow]:
    """Every record in order, rejected rows in their places. Raises RowFileError for a file that cannot be read."""
    for file in files:
        for row in form.rows(file.url):
            if isinstance(row, RejectedRow):
                yield row
                continue
            place = Place(file=file.name, number=row.number, where=row.where)
            try:
                for record in form.read(row.values, place):
                    yield place, checked(record, form)
            except RowError as error:
                yield RejectedRow(where=row.where, reason=error.reason, detail=str(error))


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
