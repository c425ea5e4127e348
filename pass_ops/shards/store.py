"""The few store operations that the dataset protocol needs, on any fsspec URL.

Everything that reads or writes a dataset goes through `Store`, so that a test can stop, fail or reorder the protocol
between any two operations (`Store.before`).

How each kind of store gives *exclusive create* (the whole content under the name, or nothing; an error if the name is
taken):

| store | how |
| --- | --- |
| local path, `file://` | a synced temporary file in the same folder, then `os.link`, which fails if the name exists |
| `s3://` | conditional put, `If-None-Match: *` (s3fs `pipe_file(mode="create")`; botocore > 1.35.20) |
| `gs://` | conditional put, `ifGenerationMatch=0` (gcsfs `pipe_file(mode="create")`) |
| `memory://` | one lock around test and set; such a store lives in one process |
| `hdfs://` | a temporary file, then the name node's rename, which refuses an existing target |
| other fsspec stores | `pipe_file(mode="create")`, which they must implement atomically |
"""

from __future__ import annotations

import errno
import fcntl
import os
import posixpath
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BufferedIOBase
from typing import Any

import fsspec
import pyarrow as pa

from pass_ops.errors import StoreError

_MEMORY_CREATE = threading.Lock()  # memory:// is one per process, and so is what makes its create exclusive
_CONFLICT_RETRIES = 20  # S3 answers 409 while another conditional put of the name is under way
_READ_BATCH = 128
_SETTLED = 10.0  # seconds
# Said outright, it makes s3fs send one GET; otherwise it first asks for the size (s3fs 2026.9), twice the requests.
_ONE_GET = {"start": 0}


@dataclass(frozen=True)
class Entry:
    """One file of a listing: name within the folder, bytes, modification time (seconds since the epoch, if known)."""

    name: str
    size: int
    modified: float | None


@dataclass(frozen=True)
class Store:
    """One folder of a store. Names are relative to it, with "/" between folders.

    root: any fsspec URL, a plain local path too.
    before: called as `before(operation, name)` ahead of every operation (and of every step of a local create); what it
        raises is raised from there. For tests.
    """

    root: str
    before: Callable[[str, str], None] | None = field(default=None, compare=False)

    @property
    def is_local(self) -> bool:
        return _protocol(self.root) == "file"

    def at(self, root: str) -> Store:
        """The same store, another folder."""
        return Store(root, self.before)

    def path(self, name: str = "") -> str:
        """The file's path, as `fs` takes it; without a name, the folder's."""
        base = _base(self.root)
        return posixpath.join(base, name) if name else base

    @property
    def fs(self) -> Any:
        """The fsspec file system; fsspec keeps one instance a process."""
        return _filesystem(self.root)

    @property
    def _overlaps(self) -> bool:
        """Whether requests may overlap: object stores, whose fsspec side is asynchronous."""
        return not self.is_local and bool(self.fs.async_impl)

    def read(self, name: str) -> bytes:
        """The file's whole content. Raises FileNotFoundError."""
        self._hook("read", name)
        with _named_errors("reading", self.path(name)):
            if self.is_local:
                with open(self.path(name), "rb") as stream:
                    return stream.read()
            return bytes(self.fs.cat_file(self.path(name), **(_ONE_GET if self._overlaps else {})))

    def read_many(self, names: Sequence[str]) -> dict[str, bytes | None]:
        """Many small files, overlapped where the store can; None for one that is not there."""
        found: dict[str, bytes | None] = {}
        if not self._overlaps:
            for name in names:
                try:
                    found[name] = self.read(name)
                except FileNotFoundError:
                    found[name] = None
            return found
        for start in range(0, len(names), _READ_BATCH):
            batch = names[start : start + _READ_BATCH]
            self._hook("read", batch[0])
            paths = [self.path(name) for name in batch]
            contents = self.fs.cat_ranges(paths, 0, None, on_error="return")  # `cat` takes "[" in a path for a pattern
            for name, path, content in zip(batch, paths, contents, strict=True):
                if isinstance(content, FileNotFoundError):
                    found[name] = None
                elif isinstance(content, Exception):
                    raise StoreError(f"reading {path} failed: {content}") from content
                else:
                    found[name] = bytes(content)
        return found

    def open(self, name: str) -> BufferedIOBase:
        """A seekable reader, for formats that read only a range."""
        self._hook("read", name)
        if self.is_local:
            return open(self.path(name), "rb")
        stream: BufferedIOBase = self.fs.open(self.path(name))
        return stream

    def open_arrow(self, name: str = "") -> pa.NativeFile:
        """A seekable reader that Arrow's threads may use: the file itself, or a remote one's whole content.

        Nothing in it belongs to Python. Arrow's threads let go of what they read a moment after the reader has its
        table; memory or a file of Python's, let go of while the interpreter exits, aborts the process
        (apache/arrow 34314; once that is closed, `open` and a `pa.BufferReader` of bytes will do).

        Raises:
            FileNotFoundError: there is no such file.
            StoreError: the store refuses.
        """
        if not self.is_local:
            return arrow_reader(self.read(name))
        self._hook("read", name)
        with _named_errors("reading", self.path(name)):
            return pa.OSFile(self.path(name))

    def settled_version(self, name: str) -> tuple[int, ...] | None:
        """What changes when a local file is written to (inode, size, time); None where that could not be told.

        A file written in the last seconds may be written again within one tick of its file system's clock.
        """
        if not self.is_local:
            return None
        stat = os.stat(self.path(name))
        return (stat.st_ino, stat.st_size, stat.st_mtime_ns) if time.time() - stat.st_mtime > _SETTLED else None

    def exists(self, name: str) -> bool:
        self._hook("exists", name)
        if self.is_local:
            return os.path.exists(self.path(name))
        return bool(self.fs.exists(self.path(name)))

    def entries(self, folder: str = "") -> list[Entry]:
        """The files of one folder, not of those below it, by name. An absent folder is empty."""
        self._hook("list", folder)
        if folder and not self.is_local:
            # s3fs answers `ls` of an empty folder by listing the whole folder above it: 100 requests for 100,000 parts
            found = self.fs.find(self.path(folder), detail=True).values()
            return [entry for entry, is_folder in _directly_in(self.path(folder), found) if not is_folder]
        return [entry for entry, is_folder in self._scan(folder) if not is_folder]

    def folders(self, folder: str = "") -> list[str]:
        """Names of the folders in a folder."""
        self._hook("list", folder)
        return [entry.name for entry, is_folder in self._scan(folder) if is_folder]

    def create(self, name: str, content: bytes) -> bool:
        """Publish the whole content under a new name. False, and nothing changed, if the name is taken."""
        self._hook("create", name)
        with _named_errors("creating", self.path(name)):
            protocol = _protocol(self.root)
            if protocol == "file":
                return self._create_local(name, content)
            if protocol == "hdfs":
                return self._create_by_rename(name, content)
            if protocol == "memory":
                with _MEMORY_CREATE:
                    return self._create_conditionally(name, content)
            return self._create_conditionally(name, content)

    def put(self, name: str, content: bytes) -> None:
        """Publish the whole content under a name, replacing what was there.

        Locally a rename of a synced temporary file; on object stores a plain put, which is atomic there. On HDFS, whose
        rename cannot replace, the name is absent for a moment.
        """
        self._hook("put", name)
        with _named_errors("writing", self.path(name)):
            protocol = _protocol(self.root)
            if protocol == "file":
                self._put_local(name, content)
            elif protocol == "hdfs":
                temporary = self._remote_temporary(name, content)
                self.remove(name)
                self.fs.mv(temporary, self.path(name))
            else:
                self.fs.pipe_file(self.path(name), content)

    def remove(self, name: str) -> None:
        """Remove a file; one that is gone already is fine."""
        self._hook("remove", name)
        with _named_errors("removing", self.path(name)), suppress(FileNotFoundError):
            if self.is_local:
                os.unlink(self.path(name))
            else:
                self.fs.rm_file(self.path(name))

    # -- how ----------------------------------------------------------------------------------------------------

    def _hook(self, operation: str, name: str) -> None:
        if self.before is not None:
            self.before(operation, name)

    def _scan(self, folder: str) -> Iterator[tuple[Entry, bool]]:
        if self.is_local:
            yield from _scan_local(self.path(folder))
            return
        try:
            found = self.fs.ls(self.path(folder), detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return
        yield from _directly_in(self.path(folder), found)

    def _put_local(self, name: str, content: bytes) -> None:
        target = self.path(name)
        with self._local_temporary(name, content) as temporary:
            self._hook("put:rename", name)
            try:
                os.replace(temporary, target)
            except FileNotFoundError:  # whoever cleans the folder took the temporary file for a killed writer's
                return self._put_local(name, content)
            sync_folder(os.path.dirname(target))
        return None

    def _create_local(self, name: str, content: bytes) -> bool:
        target = self.path(name)
        with self._local_temporary(name, content) as temporary:
            self._hook("create:link", name)
            try:
                os.link(temporary, target)
            except FileExistsError:
                return False
            except FileNotFoundError:  # whoever overwrites the dataset removed the temporary file: once more, as on
                return self._create_local(name, content)  # stores without any, where a late writer's file harms nothing
            except OSError as error:
                if error.errno in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP):
                    message = (
                        f"creating {target} failed: this file system has no hard links ({error.strerror}), so "
                        "two writers could not be kept apart; use a local disk, NFS, or the store's own URL (s3://, gs://)"
                    )
                    raise StoreError(error.errno, message) from error
                raise
            sync_folder(os.path.dirname(target))
        return True

    @contextmanager
    def _local_temporary(self, name: str, content: bytes) -> Iterator[str]:
        """A synced temporary file beside the target; gone afterwards, unless the process dies.

        It is locked as long as its writer lives, so that one of a killed writer can be told (where files have locks).
        """
        folder, base = os.path.split(self.path(name))
        os.makedirs(folder, exist_ok=True)
        temporary = os.path.join(folder, f".{base}.{uuid.uuid4().hex[:12]}.tmp")
        self._hook("create:temporary", name)
        try:
            with open(temporary, "xb") as stream:
                with suppress(OSError):
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
                yield temporary
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)

    def _create_conditionally(self, name: str, content: bytes) -> bool:
        for _ in range(_CONFLICT_RETRIES):
            try:
                self.fs.pipe_file(self.path(name), content, mode="create")
            except FileExistsError:
                return False
            except OSError as error:
                code = _response_code(error)
                if code in ("PreconditionFailed", "412"):
                    return False
                if code not in ("ConditionalRequestConflict", "OperationAborted", "409"):
                    raise
            else:
                return True
        raise OSError(
            errno.EAGAIN, f"another conditional put of this name was under way {_CONFLICT_RETRIES} times in turn"
        )

    def _create_by_rename(self, name: str, content: bytes) -> bool:
        temporary = self._remote_temporary(name, content)
        try:
            if self.fs.exists(self.path(name)):
                return False
            self.fs.mv(temporary, self.path(name))
        except OSError:
            if self.fs.exists(self.path(name)):  # the rename was refused: somebody was first
                return False
            raise
        finally:
            with suppress(FileNotFoundError):
                self.fs.rm_file(temporary)
        return True

    def _remote_temporary(self, name: str, content: bytes) -> str:
        folder, base = posixpath.split(self.path(name))
        self.fs.makedirs(folder, exist_ok=True)
        temporary = posixpath.join(folder, f".{base}.{uuid.uuid4().hex[:12]}.tmp")
        with self.fs.open(temporary, "wb") as stream:
            stream.write(content)
        return temporary


def arrow_reader(content: bytes) -> pa.NativeFile:
    """A reader of a copy of `content` in Arrow's own memory (`Store.open_arrow` says why)."""
    return pa.BufferReader(arrow_buffer(content))


def arrow_buffer(content: bytes) -> pa.Buffer:
    """A copy of `content` in Arrow's own memory."""
    copy = pa.BufferOutputStream()
    copy.write(content)
    return copy.getvalue()


def _protocol(root: str) -> str:
    scheme, separator, _ = root.partition("://")
    return scheme if separator and scheme != "local" else "file"


def _filesystem(root: str) -> Any:
    """A file system that never answers a listing from memory: another writer may have been there since."""
    return _located(root)[0]


def _base(root: str) -> str:
    if _protocol(root) == "file":
        return os.path.abspath(root.rpartition("://")[2])
    return _located(root)[1].rstrip("/")


def _located(root: str) -> tuple[Any, str]:
    """File system and path of a URL. "::" is part of a name unless another URL follows it, as in zip://a::s3://b."""
    scheme = _protocol(root)
    if scheme != "file" and ("::" in scheme or "://" in root.partition("://")[2].partition("::")[2]):
        fs, path = fsspec.core.url_to_fs(root, use_listings_cache=False)
        return fs, str(path)
    kind = fsspec.get_filesystem_class(scheme)
    options = {**kind._get_kwargs_from_urls(root), "use_listings_cache": False}
    return fsspec.filesystem(scheme, **options), str(kind._strip_protocol(root))


def _scan_local(path: str) -> Iterator[tuple[Entry, bool]]:
    try:
        with os.scandir(path) as scan:
            found = sorted(scan, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in found:
        with suppress(FileNotFoundError):  # removed by another writer meanwhile
            stat = entry.stat()
            yield Entry(entry.name, stat.st_size, stat.st_mtime), entry.is_dir()


def _directly_in(path: str, found: Iterable[dict[str, Any]]) -> Iterator[tuple[Entry, bool]]:
    """Of a listing by fsspec, what lies directly in a folder, and whether it is a folder itself; by name."""
    for info in sorted(found, key=lambda info: str(info["name"])):
        above, _, name = str(info["name"]).rstrip("/").rpartition("/")
        if above.strip("/") == path.strip("/"):
            yield Entry(name, int(info.get("size") or 0), _modified(info)), info["type"] == "directory"


def sync_folder(path: str | os.PathLike[str]) -> None:
    """Make the names in a local folder survive a power cut: fsync of the folder itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _modified(info: dict[str, Any]) -> float | None:
    """Fsspec stores name and type the modification time differently."""
    for key in ("mtime", "LastModified", "updated", "created"):
        value = info.get(key)
        if isinstance(value, datetime):
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
        if isinstance(value, int | float):
            return float(value)
        if isinstance(value, str):
            return datetime.fromisoformat(value).timestamp()
    return None


def _response_code(error: BaseException | None) -> str | None:
    """The store's own error code: s3fs turns a failed precondition into a plain OSError and keeps the cause."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code"))
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def _named_errors(doing: str, path: str) -> Iterator[None]:
    """An OSError of the store, with the place and what it means; missing files stay FileNotFoundError."""
    try:
        yield
    except (FileNotFoundError, StoreError):
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        fix = "free space there and run the same command again" if full else "mend that and run the same command again"
        reason = error.strerror or str(error)
        message = f"{doing} {path} failed: {reason}; nothing half-written was published under that name; {fix}"
        raise StoreError(error.errno, message) from error
