"""The scratch folder of a program: all that it may change, watched while it runs, gone afterwards. Light to import."""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid

from pass_ops.support.temporary import temporary_prefix

SCRATCH_BYTES = 64 << 20
SCRATCH_FILES = 1000
_REMOVALS = 10


#: names the folder in which a worker's scratch folders are, which exists while there are any: who kills it removes that
PARENT_VARIABLE = "PASSRL_SCRATCH"


class Scratch:
    """A new folder beneath the system's folder for temporary files, or beneath the one that PARENT_VARIABLE names."""

    def __init__(self) -> None:
        self._parent = os.environ.get(PARENT_VARIABLE)
        if self._parent:
            os.makedirs(self._parent, mode=0o700, exist_ok=True)
        self.path = tempfile.mkdtemp(prefix="passrl-" if self._parent else temporary_prefix(), dir=self._parent)

    def over(self) -> bool:
        """Whether it holds more than SCRATCH_BYTES or SCRATCH_FILES. A path too long to look at counts as more."""
        held = files = 0
        folders = [self.path]
        while folders:
            try:
                with os.scandir(folders.pop()) as entries:
                    for entry in entries:
                        files += 1
                        with contextlib.suppress(FileNotFoundError):
                            held += entry.stat(follow_symlinks=False).st_blocks * 512
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(entry.path)
                        if files > SCRATCH_FILES or held > SCRATCH_BYTES:
                            return True
            except FileNotFoundError:
                continue  # taken away while it was looked at
            except OSError:
                return True
        return False

    def remove(self) -> None:
        """Delete it with all it holds."""
        remove_folder(self.path)
        if self._parent:
            with contextlib.suppress(OSError):  # others are in it
                os.rmdir(self._parent)


def remove_folder(path: str) -> None:
    """Delete a folder with all it holds, however deep: what lies in an inner one is moved up, where paths are short.

    Where it is not there, that is no error, nor is a process that still writes as it dies.
    """
    for _ in range(_REMOVALS):
        if not os.path.lexists(path):
            return
        with contextlib.suppress(OSError):
            _empty(path)
            os.rmdir(path)


def _empty(path: str) -> None:
    while entries := list(os.scandir(path)):
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
                continue
            os.chmod(entry.path, 0o700)
            for inner in os.listdir(entry.path):
                os.rename(os.path.join(entry.path, inner), os.path.join(path, uuid.uuid4().hex))
            os.rmdir(entry.path)
