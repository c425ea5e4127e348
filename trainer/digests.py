"""sha256 of files: several at a time, and those of large files remembered beside them.

    FOLDER/.digests.json      name -> size, times, inode and sha256 of each large file, when it was read

A remembered digest counts only while size, modification and change time, inode and device are what they were. Nothing
is remembered of a file that changed moments ago (a further change might leave its times as they are), nor where the
folder cannot be written. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

SIDECAR = ".digests.json"
LEAST = 2**26  # bytes from which a file's digest is remembered: below, reading it takes no time
SETTLED = 2.0  # seconds without a change: file systems' clocks are no coarser
THREADS = 8  # a digest takes a core, a disk serves a few of them


def file_digests(files: Sequence[Path]) -> dict[Path, str]:
    """`file_digest` of each file, several read at a time."""
    return _at_once(file_digest, files)


def file_digest(file: Path) -> str:
    """sha256 (64 hexadecimal digits) of a file, which is not read again as long as it does not change."""
    return _digest(*file_identity(file))


def file_identity(file: Path) -> tuple[str, int, int]:
    """Path, modification time (ns) and size: as long as they are equal, the content is taken to be."""
    stat = os.stat(file)
    return str(file.absolute()), stat.st_mtime_ns, stat.st_size


def sha256_files(files: Sequence[Path]) -> dict[Path, str]:
    """sha256 of each file, read now, several at a time."""
    return _at_once(sha256_file, files)


def sha256_file(path: Path) -> str:
    """sha256 (64 hexadecimal digits) of a file, read now."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _at_once(digest: Callable[[Path], str], files: Sequence[Path]) -> dict[Path, str]:
    with ThreadPoolExecutor(max_workers=max(1, min(THREADS, len(files)))) as pool:
        return dict(zip(files, pool.map(digest, files), strict=True))


@lru_cache(maxsize=256)
def _digest(path: str, modified_ns: int, size: int) -> str:  # noqa: ARG001 - part of the key
    file = Path(path)
    if size < LEAST:
        return sha256_file(file)
    before = _state(file)
    remembered = _read(file.parent).get(file.name, {})
    if before == {name: value for name, value in remembered.items() if name != "sha256"}:
        return str(remembered["sha256"])
    found = sha256_file(file)
    if _state(file) == before and time.time() - max(before["mtime_ns"], before["ctime_ns"]) / 1e9 > SETTLED:
        _remember(file, before | {"sha256": found})
    return found


def _state(file: Path) -> dict[str, int]:
    stat = os.stat(file)
    return {
        "size": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "ctime_ns": stat.st_ctime_ns,
        "inode": stat.st_ino,
        "device": stat.st_dev,
    }


def _read(folder: Path) -> dict[str, dict[str, int | str]]:
    try:
        content = json.loads((folder / SIDECAR).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    files = content.get("files") if isinstance(content, dict) else None
    whole = isinstance(files, dict) and all(isinstance(v, dict) and "sha256" in v for v in files.values())
    return dict(files) if whole and files is not None else {}


def _remember(file: Path, entry: dict[str, int | str]) -> None:
    """Two that write at once lose an entry of one another, which is then read again."""
    sidecar = file.parent / SIDECAR
    writing = sidecar.with_name(f"{SIDECAR}.{os.getpid()}.{file.name}")
    text = json.dumps({"files": _read(file.parent) | {file.name: entry}}, indent=1, sort_keys=True) + "\n"
    with suppress(OSError):  # read-only, or full: it is only a memory
        writing.write_text(text, encoding="utf-8")
        writing.replace(sidecar)
