"""Reading complete datasets. Names come from the manifest, never from a glob; an incomplete dataset is refused."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from pass_ops.errors import (
    CorruptDatasetError,
    IncompleteDatasetError,
    NotADatasetError,
    RowsDeletedError,
    StaleInputError,
)
from pass_ops.shards import names
from pass_ops.shards.dataset import read_dataset_json
from pass_ops.shards.fingerprint import folder_digest, sha256_bytes, stream_digest
from pass_ops.shards.paths import relative_folder, resolve_folder
from pass_ops.shards.records import Manifest, PartRecord, read_complete
from pass_ops.shards.remedy import command_for
from pass_ops.shards.spec import DatasetSpec, InputRef
from pass_ops.shards.splice import StoredPart
from pass_ops.shards.store import Store
from pass_ops.shards.tables import SMALL, metadata_problems, open_parquet, read_columns


@dataclass(frozen=True)
class CompleteDataset:
    """A finalized dataset: a small picklable handle."""

    url: str
    spec: DatasetSpec
    manifest: Manifest
    parts: tuple[PartRecord, ...] = field(repr=False)
    store: Store = field(compare=False, repr=False)
    _sound: set[tuple[object, ...]] = field(default_factory=set, init=False, compare=False, repr=False)

    @property
    def content_digest(self) -> str:
        return self.manifest.content_digest

    def ref(self, dataset: str) -> InputRef:
        """The dataset as an input of the one at `dataset`."""
        return InputRef(relative_folder(dataset, self.url), self.content_digest)

    def read_part(self, part: int, columns: Sequence[str] | None = None) -> pa.Table:
        """A part's table, or some of its columns. Raises as `open_part`."""
        with self.open_part(part) as file:
            return read_columns(file, columns)

    def read_stored(self, part: int) -> StoredPart:
        """A part's table beside the content of its file, which is held in memory and hashed. Raises as `open_part`."""
        content, file = self.open_content(part)
        with file:
            return StoredPart(content=content, table=read_columns(file), format_version=self.spec.format_version)

    def open_content(self, part: int) -> tuple[pa.Buffer, pq.ParquetFile]:
        """The bytes of a part's file, hashed, and its reader. Raises as `open_part`."""
        record = self.parts[part]
        with self._source(record.data)[1] as source:
            content = self._hashed(source, record.data, record.sha256)
        return content, self._parsed(record.data, pa.BufferReader(content))

    def open_part(self, part: int) -> pq.ParquetFile:
        """A part's Parquet file, to read it by row groups (they hold whole groups).

        The file is hashed first, in bounded memory: what is read is what was committed. A local file that has not been
        written to since is not hashed again by this handle in this process.

        Raises:
            RowsDeletedError: the dataset's rows were deleted by a rule.
            CorruptDatasetError: the file is gone, damaged, or of another format or stage.
        """
        record = self.parts[part]
        return self._open(record.data, record.sha256)

    def read_rejected(self, part: int) -> pa.Table | None:
        """A part's rejections; None if there were none. Raises as `open_part`."""
        record = self.parts[part]
        if record.rejected is None:
            return None
        with self._open(record.rejected, str(record.rejected_sha256)) as file:
            return read_columns(file)

    def _open(self, name: str, sha256: str) -> pq.ParquetFile:
        """A Parquet file whose bytes are those recorded, opened once for hashing and for reading."""
        version, source = self._source(name)
        known = (os.getpid(), name, version)
        if version is None or known not in self._sound:
            if source.size() <= SMALL:
                with source:
                    content = self._hashed(source, name, sha256)
                source = pa.BufferReader(content)
            else:
                self._check(name, stream_digest(source), sha256)
                source.seek(0)
            self._sound.add(known)
        return self._parsed(name, source)

    def _hashed(self, source: pa.NativeFile, name: str, sha256: str) -> pa.Buffer:
        """All that a file holds, which is what was recorded."""
        content = source.read_buffer()
        self._check(name, sha256_bytes(content), sha256)
        return content

    def _source(self, name: str) -> tuple[tuple[int, ...] | None, pa.NativeFile]:
        try:
            return self.store.settled_version(name), self.store.open_arrow(name)
        except FileNotFoundError as error:
            deleted = names.deleted(self.spec.fingerprint[:8])
            if self.store.exists(deleted):
                fact = f"the rows of {self.url} were deleted on purpose: {deleted} says by which rule"
                fix = f"remove that file, then {self._command} makes them again where its inputs still have theirs"
                raise RowsDeletedError(f"{fact}; {fix}") from error
            message = (
                f"{self.store.path(name)} is gone, but the manifest names it; {self._command} makes the part again"
            )
            raise CorruptDatasetError(message) from error

    def _parsed(self, name: str, source: pa.NativeFile) -> pq.ParquetFile:
        try:
            file = open_parquet(source)
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(name, f" cannot be read as Parquet ({error})") from error
        for problem in metadata_problems(file, self.spec):
            raise self._unreadable(name, f": {problem}")
        return file

    def _unreadable(self, name: str, problem: str) -> CorruptDatasetError:
        remedy = f"Remove it, then {self._command} makes the part again"
        return CorruptDatasetError(f"{self.store.path(name)}{problem}. {remedy}")

    def _check(self, name: str, found: str, recorded: str) -> None:
        if found != recorded:
            raise CorruptDatasetError(
                f"{self.store.path(name)} is damaged: its sha256 is {found[:16]}..., recorded {recorded[:16]}...; none "
                f"of it was used. Remove it, then {self._command} makes the part again"
            )

    @property
    def _command(self) -> str:
        return command_for(self.url, self.spec)

    def check_inputs(self) -> None:
        """Refuse if an input that can be found holds something else now than was recorded. Raises StaleInputError.

        An input that is gone proves nothing: a dataset may be moved without its inputs.
        """
        for name, ref in self.spec.inputs.items():
            _, reason = examine_input(self.url, self.spec, ref)
            if reason is not None:
                raise StaleInputError(
                    f"{self.url} is stale: its input {name} ({resolve_folder(self.url, ref.folder)}) {reason}. "
                    "Make this dataset again (--overwrite), or bring back the input it was made from"
                )


def open_dataset(url: str) -> CompleteDataset:
    """A finalized dataset for reading. Raises NotADatasetError, IncompleteDatasetError, CorruptDatasetError."""
    store = Store(url)
    spec, _ = read_dataset_json(store)
    complete = read_complete(store, spec)
    if complete is None:
        raise IncompleteDatasetError(
            f"{url} is not finalized (no {names.manifest(spec.fingerprint[:8])}); run its stage again, or look at "
            f"`passrl status {url}`"
        )
    return CompleteDataset(url, spec, *complete, store)


def digest_now(folder: str, stage: str) -> str | None:
    """The digest of what lies in a folder, as a dataset of this stage records its inputs; None if it is gone.

    Raises IncompleteDatasetError, CorruptDatasetError.
    """
    if stage == "prompts":
        return _source_digest(folder)
    try:
        return open_dataset(folder).content_digest
    except NotADatasetError:
        return None


def examine_input(
    url: str, spec: DatasetSpec, ref: InputRef, *, digest: Callable[[str, str], str | None] = digest_now
) -> tuple[bool, str | None]:
    """Whether a recorded input can be found, and if so, why it is not what was recorded (None if it is).

    digest: `digest_now`, or what remembers its answers.
    """
    try:
        present = digest(resolve_folder(url, ref.folder), spec.stage)
    except IncompleteDatasetError:
        return True, "is not finalized now: it was replaced or taken back"
    if present is None or present == ref.content_digest:
        return present is not None, None
    return True, f"has content digest {present[:16]}... now, {ref.content_digest[:16]}... when this was made"


def _source_digest(path: str) -> str | None:
    """The digest of a source of prompts, a file or a folder; None if it is gone."""
    try:
        return folder_digest(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
