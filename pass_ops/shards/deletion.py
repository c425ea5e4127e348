"""Deleting a complete dataset's rows by a rule, while what it was stays: its spec, markers, list of parts, manifest.

`_deleted-fp8.json` is written before the first file goes, so a dataset whose rows are missing without it is damaged,
and one with it is not. Its digests still prove what later datasets were made from, and a rerun takes it as complete.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from pass_ops.errors import CorruptDatasetError
from pass_ops.shards import names
from pass_ops.shards.dataset import read_dataset_json
from pass_ops.shards.documents import json_object
from pass_ops.shards.fingerprint import json_file
from pass_ops.shards.reader import open_dataset
from pass_ops.shards.store import Store


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """Why rows were deleted (rule: the option that asked for it), and how many files and bytes they were."""

    rule: str
    files: int
    bytes: int


def read_deletion(store: Store, fp8: str) -> Deletion | None:
    """The deletion of a dataset's rows; None where they were never deleted. Raises CorruptDatasetError."""
    name = names.deleted(fp8)
    try:
        content = store.read(name)
    except FileNotFoundError:
        return None
    fix = "remove it to have its stage run again"
    found = json_object(content, store.path(name), fix=fix)
    try:
        return Deletion(rule=str(found["rule"]), files=int(found["files"]), bytes=int(found["bytes"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptDatasetError(f"{store.path(name)} is damaged ({error}); {fix}") from None


def deletion_of(url: str) -> Deletion | None:
    """The deletion of the dataset in a folder. Raises NotADatasetError, CorruptDatasetError."""
    store = Store(url)
    return read_deletion(store, read_dataset_json(store)[0].fingerprint[:8])


def delete_rows(url: str, *, rule: str) -> Deletion:
    """Delete the data files of a complete dataset, or go on with a deletion that was cut off; returns its record.

    Raises NotADatasetError, IncompleteDatasetError, CorruptDatasetError.
    """
    dataset = open_dataset(url)
    fp8 = dataset.spec.fingerprint[:8]
    deletion = read_deletion(dataset.store, fp8)
    if deletion is None:
        size = sum(record.bytes for record in dataset.parts)
        deletion = Deletion(rule=rule, files=len(dataset.parts), bytes=size)
        dataset.store.put(names.deleted(fp8), json_file(asdict(deletion)))
    there = {entry.name for entry in dataset.store.entries()}
    for record in dataset.parts:
        if record.data in there:
            dataset.store.remove(record.data)
    return deletion
