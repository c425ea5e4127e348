"""Whether a folder or file can be written, asked before work is paid for. Nothing is left behind by asking."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pass_ops.errors import PassError
from pass_ops.shards.store import Store


class UnwritablePlaceError(PassError, ValueError):
    """Nothing can be written where something is to be written."""


def folder_problem(url: str) -> str | None:
    """Why nothing can be written into a folder that may have to be made; None where it can, or the store is remote."""
    store = Store(url)
    if not store.is_local:
        return None
    folder = Path(store.path())
    place = next(place for place in (folder, *folder.absolute().parents) if place.exists() or place.is_symlink())
    if not place.is_dir():
        kind = "a link to nothing" if place.is_symlink() and not place.exists() else "a file"
        return f"{place} is {kind}, where a folder is needed for {url}; give another folder"
    try:
        with tempfile.TemporaryFile(dir=place):
            return None
    except OSError as error:
        return f"{url} cannot be written: {place} takes no file ({error.strerror}); give another folder"


def check_folder(url: str, *, key: str) -> None:
    """Raises UnwritablePlaceError where nothing can be written into the folder; the message names the key."""
    if (problem := folder_problem(url)) is not None:
        raise UnwritablePlaceError(f"{key}: {problem}")


def check_file(path: Path, *, key: str) -> None:
    """Raises UnwritablePlaceError where a file cannot be written: its folder is missing, or is no folder."""
    if path.is_dir():
        raise UnwritablePlaceError(f"{key}: {path} is a folder; name a file in it")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise UnwritablePlaceError(f"{key}: the folder {folder} does not exist; make it, or name another file")
    check_folder(str(folder), key=key)
