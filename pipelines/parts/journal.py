"""What an attempt at a part has finished so far, kept beside the dataset until the part commits.

A worker that is lost takes a part's unfinished attempt with it. What the attempt had finished stays in its journal, and
the next attempt, on whichever machine, begins with that.

    entry  = length of name, length of content, sha256 over (key, lengths, name, content), name, content
    key    = fingerprint, part, digest of the part's inputs

Each entry checks itself: one that is torn, damaged, or made under other options, weights or inputs fails its checksum,
and reading a file ends there. Every attempt writes files of its own, so two at a time do not disturb each other.

Local disks are appended to, entry by entry: a killed process loses nothing, a machine without power what `flush` had
not yet synced. Other stores cannot append: `flush` creates one small file of all entries since the last.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import struct
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from pass_ops.shards import Dataset, Store, names
from pass_ops.shards.commit import journal_files, parts_in

FLUSH_SECONDS = 5.0
_FRAME = struct.Struct("<II32s")
_LENGTHS = struct.Struct("<II")
_LOG = logging.getLogger(__name__)


class Journal:
    """The journal of one attempt at one part. It never fails a part: what it cannot write, it goes without.

    inputs: digest of what the part is made from. left: names of the files that earlier attempts left (`left_journals`).
    """

    def __init__(self, dataset: Dataset, part: int, *, inputs: str, left: Sequence[str] = ()) -> None:
        self._store = dataset.store
        self._part = part
        self._fp8 = dataset.fp8
        self._key = json.dumps([dataset.fingerprint, part, inputs]).encode()
        self._left = tuple(left)
        self._own: list[str] = []
        self._writer = uuid.uuid4().hex[:12]
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._waiting: list[bytes] = []
        self._open = True

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files that hold what this attempt and those before it finished."""
        with self._lock:
            return (*self._left, *self._own)

    def read(self) -> dict[str, bytes]:
        """Name -> content of everything that earlier attempts finished. What cannot be read counts for nothing."""
        found: dict[str, bytes] = {}
        for name in self._left:
            try:
                found |= dict(read_entries(self._store.read(name), self._key))
            except Exception as error:  # noqa: BLE001 - any of a store's library; the part is made without it
                _LOG.warning("%s cannot be read (%s): what it kept is made again", self._store.path(name), error)
        return found

    def add(self, name: str, content: bytes) -> None:
        """Keep one finished piece of the part."""
        entry = make_entry(self._key, name, content)
        with self._lock:
            if not self._open:
                return
            if not self._store.is_local:
                self._waiting.append(entry)
                return
            try:
                if os.write(self._file(), entry) != len(entry):  # the torn entry fails its checksum
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                self._stop(error)

    def flush(self) -> None:
        """Make what was added outlast this machine; may run beside `add`."""
        with self._lock:
            entries, self._waiting = self._waiting, []
            descriptor, segment = self._descriptor, self._name(len(self._own))
            if entries:
                self._own.append(segment)
        try:
            if descriptor is not None:
                os.fdatasync(descriptor)
            elif entries:
                self._store.create(segment, b"".join(entries))
        except Exception as error:  # noqa: BLE001 - any of a store's library; the part is made without it
            with self._lock:
                self._stop(error)

    def close(self) -> None:
        """Nothing more will be added. What was kept stays."""
        with self._lock:
            self._close()

    def discard(self) -> None:
        """Remove it and what earlier attempts left: the part is committed, or what was kept is of no use."""
        self.close()
        _remove(self._store, self.files)

    def _file(self) -> int:
        """The local file, created at the first entry."""
        if self._descriptor is None:
            self._own.append(self._name(0))
            path = self._store.path(self._own[0])
            os.makedirs(os.path.dirname(path), exist_ok=True)
            self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644)
        return self._descriptor

    def _name(self, segment: int) -> str:
        return names.journal(self._part, self._fp8, self._writer, segment)

    def _stop(self, error: Exception) -> None:
        """Go on without. On a full disk its room is given back: the part itself needs it more."""
        self._close()
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            _remove(self._store, self._own)
            self._own.clear()
        _LOG.warning(
            "the journal of part %d in %s cannot be written (%s). The part goes on without it: if its worker is lost, "
            "what it had finished is made again",
            *(self._part, self._store.root, error),
        )

    def _close(self) -> None:
        self._open, self._waiting = False, []
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with suppress(OSError):
                os.close(descriptor)


class Journals:
    """The journals of one worker's attempts. dataset: what the parts belong to; None keeps none. Used by one thread."""

    def __init__(self, dataset: Dataset | None) -> None:
        self._dataset = dataset
        self._left: dict[int, tuple[str, ...]] = {}
        self._begun: dict[int, Journal] = {}

    def look(self) -> None:
        """See what earlier attempts, here or elsewhere, have left. A store that cannot tell fails no part."""
        if self._dataset is None:
            return
        try:
            self._left = left_journals(self._dataset)
        except Exception as error:  # noqa: BLE001 - any of a store's library
            _LOG.warning(
                "the journals of %s cannot be listed (%s): what they keep is made again", self._dataset.url, error
            )

    def begin(self, part: int, *, inputs: Callable[[], str]) -> Journal | None:
        """That of a new attempt at a part; inputs: see `Journal`. What this worker's own attempts left it knows."""
        if self._dataset is None:
            return None
        own = self._begun[part].files if part in self._begun else ()
        left = tuple(dict.fromkeys((*self._left.get(part, ()), *own)))
        self._begun[part] = Journal(self._dataset, part, inputs=inputs(), left=left)
        return self._begun[part]

    def forget(self, part: int) -> None:
        """Remove all that is kept of a part's attempts."""
        self._left.pop(part, None)
        if (journal := self._begun.pop(part, None)) is not None:
            journal.discard()


@contextmanager
def flushed(journal: Journal) -> Iterator[None]:
    """While a part is made: flush every FLUSH_SECONDS, in a thread of its own, and where the part fails; then close."""
    ended = threading.Event()

    def flush_regularly() -> None:
        while not ended.wait(FLUSH_SECONDS):
            journal.flush()

    flushing = threading.Thread(target=flush_regularly, daemon=True, name="journal")
    flushing.start()
    try:
        yield
    except BaseException:
        journal.flush()
        raise
    finally:
        ended.set()
        flushing.join()
        journal.close()


def left_journals(dataset: Dataset) -> dict[int, tuple[str, ...]]:
    """Part -> journals that attempts left, of parts without a marker; those of committed parts are removed."""
    found = journal_files(dataset)
    done = parts_in(dataset, names.DONE) if found else set()
    for part in done & found.keys():
        _remove(dataset.store, found.pop(part))
    return found


def _remove(store: Store, files: Sequence[str]) -> None:
    """One that stays is harmless: verify tells of it."""
    for name in files:
        with suppress(Exception):
            store.remove(name)


def make_entry(key: bytes, name: str, content: bytes) -> bytes:
    """The bytes of one entry."""
    named = name.encode()
    lengths = _LENGTHS.pack(len(named), len(content))
    digest = hashlib.sha256(key + lengths + named)
    digest.update(content)
    return b"".join((lengths, digest.digest(), named, content))


def read_entries(content: bytes, key: bytes) -> Iterator[tuple[str, bytes]]:
    """Name and content of the entries of one file, up to the first that fails its checksum."""
    place = 0
    while place + _FRAME.size <= len(content):
        named, size, digest = _FRAME.unpack_from(content, place)
        begin = place + _FRAME.size
        place = begin + named + size
        body = content[begin:place]
        if hashlib.sha256(key + _LENGTHS.pack(named, size) + body).digest() != digest:
            return
        yield body[:named].decode(), body[named:]
