"""What killed processes left behind, in a RUN folder and in the system's folder for temporary files.

Nothing that a living process uses is taken for one: temporary files of the store and the trainer's folders are locked
while they are in use (the system drops the lock with the process), temporary folders are named after their process.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from pass_ops.shards import names
from pass_ops.shards.names import is_temporary
from pass_ops.shards.store import Store
from pass_ops.support.temporary import is_abandoned
from trainer.errors import RunFolderError
from trainer.folder_lock import LOCK, locked
from trainer.records import marker_of


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """A file or folder that nobody uses. bytes: what it holds; lock: held by whoever would use it, None where that is
    the file itself, or a process by name.
    """

    path: str
    bytes: int
    why: str
    lock: str | None = None


def leftovers(url: str) -> list[Leftover]:
    """Of a RUN folder, where that is local, and of the folder for temporary files."""
    store = Store(url)
    found = [*_scratch()]
    if store.is_local:
        run = Path(store.path())
        found += _of_stages(run)
        for train in (run / "train", *sorted(run.glob("round-*/train"))):
            found += _of_training(train)
    return found


def remove_leftovers(found: Iterable[Leftover]) -> list[Leftover]:
    """Remove them; returns what was removed. What has come into use meanwhile stays."""
    return [leftover for leftover in found if _removed(leftover)]


def _scratch() -> Iterator[Leftover]:
    for entry in sorted(Path(tempfile.gettempdir()).glob("passrl-*")):
        with suppress(FileNotFoundError):  # its process has removed it meanwhile
            found = entry.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and is_abandoned(entry.name):
                yield Leftover(path=str(entry), bytes=_size(entry), why="temporary files of a process that is gone")


def _of_stages(run: Path) -> Iterator[Leftover]:
    """Files that the store was writing, and journals of parts that are committed. Those of open parts hold rollouts
    that the next attempt takes over.
    """
    for path in _files(run):
        if is_temporary(path.name) and _is_free(path):
            yield Leftover(path=str(path), bytes=_size(path), why="a file whose writer was killed")
        elif path.parent.name == names.JOURNAL:
            found = names.parse(names.JOURNAL, path.name)
            if found is not None and (path.parents[1] / names.done(found.part, found.fp8)).exists():
                yield Leftover(path=str(path), bytes=_size(path), why="the journal of a part that is committed")


def _of_training(train: Path) -> Iterator[Leftover]:
    """What a killed trainer was saving: a checkpoint without its marker, an export under its temporary name."""
    lock = train / LOCK
    if not train.is_dir() or not _is_free(lock):
        return
    for folder in sorted((train / "state").glob("step-*")):
        if folder.is_dir() and not marker_of(folder).exists():
            why = "a checkpoint whose trainer was killed"
            yield Leftover(path=str(folder), bytes=_size(folder), why=why, lock=str(lock))
    for folder in (train / ".policy.writing", train.parent / ".policy.writing"):
        if folder.is_dir():
            why = "an export whose trainer was killed"
            yield Leftover(path=str(folder), bytes=_size(folder), why=why, lock=str(lock))


def _removed(leftover: Leftover) -> bool:
    """Remove one; False where it is in use or gone by now."""
    path = Path(leftover.path)
    try:
        with locked(Path(leftover.lock)) if leftover.lock else nullcontext():
            if leftover.lock and marker_of(path).exists():  # its trainer finished it meanwhile
                return False
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif _is_free(path):
                path.unlink()
    except (FileNotFoundError, RunFolderError):
        return False
    return not path.exists()


def _is_free(path: Path) -> bool:
    """Whether no process holds the lock of a file; one that is not there is free."""
    try:
        with path.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _files(folder: Path) -> Iterator[Path]:
    """Every file below a folder; folders that vanish meanwhile have none."""
    for base, _, names_here in os.walk(folder):
        yield from (Path(base, name) for name in sorted(names_here))


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; of those that vanish meanwhile, none."""
    total = 0
    for file in (path, *_files(path)):
        with suppress(OSError):
            total += 0 if file.is_dir() else file.lstat().st_size
    return total
