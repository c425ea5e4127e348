"""Opening a dataset for writing: create, resume, overwrite.

`_dataset.json` is created first and exclusively. A run with the same fingerprint resumes where the last one stopped;
another fingerprint in the folder is an error that names what differs, unless the folder is to be overwritten: then
`_dataset.json` is swapped first (it remembers the fingerprints it replaced) and the old files, which from then on
exist for no reader, are removed. A crash in between leaves such files behind; the next opening removes them.
"""

from __future__ import annotations

import logging
import posixpath
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from pass_ops.errors import (
    CorruptDatasetError,
    FingerprintMismatchError,
    NotADatasetError,
    ReplacedFingerprintError,
)
from pass_ops.shards import names
from pass_ops.shards.documents import json_object
from pass_ops.shards.paths import resolve_folder
from pass_ops.shards.spec import DatasetSpec, differences, parse_dataset_json
from pass_ops.shards.store import Store

_ROUND = re.compile(r"round-\d+")
_SEARCH_DEPTH = 5  # RUN/round-000/eval/NAME/signals/outcome
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dataset:
    """A dataset opened for writing: a small picklable handle.

    attempts_before: part -> number of the last attempt before the part was given up (`_failed`): later ones count, by
    whichever run they were made, so that a part which kills its run each time is given up in the end.
    notes: what opening it did beyond the ordinary, for people (an overwrite that changed nothing, what became stale);
    logged as warnings too.
    stale: folders of the datasets made from what an overwrite replaced.
    """

    url: str
    spec: DatasetSpec
    store: Store = field(compare=False, repr=False)
    attempts_before: Mapping[int, int] = field(default_factory=dict, compare=False, repr=False)
    notes: tuple[str, ...] = field(default=(), compare=False)
    stale: tuple[str, ...] = field(default=(), compare=False)

    @property
    def fingerprint(self) -> str:
        return self.spec.fingerprint

    @property
    def fp8(self) -> str:
        return self.spec.fingerprint[:8]


def create_dataset(url: str, spec: DatasetSpec, *, overwrite: bool = False, store: Store | None = None) -> Dataset:
    """Create the dataset, or resume it if the folder holds one of the same fingerprint.

    overwrite: replace a dataset of another fingerprint. One overwrite at a time in one folder; finalize of a writer
    whose fingerprint was replaced meanwhile says so.
    store: the folder's store, for tests; `url` otherwise.

    Raises FingerprintMismatchError, ReplacedFingerprintError, CorruptDatasetError, StoreError.
    """
    store = store or Store(url)
    if store.create(names.DATASET, spec.to_json()):
        return Dataset(url, spec, store)
    there, replaced = read_dataset_json(store)
    same_format = replace(spec, format_version=there.format_version)  # a dataset keeps the format it was begun in
    notes: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    if there.fingerprint == same_format.fingerprint:
        spec = same_format
        if overwrite:
            notes = (
                f"{url} already is the dataset asked for (fingerprint {spec.fingerprint[:8]}): "
                "overwrite changed nothing",
            )
    elif not overwrite:
        raise FingerprintMismatchError(
            f"{url} holds another dataset (fingerprint {there.fingerprint[:8]}, asked {same_format.fingerprint[:8]}). "
            "It differs in:\n  "
            + "\n  ".join(differences(there, same_format))
            + "\nNothing was changed. Give another folder, the old options, or --overwrite to replace it"
        )
    else:
        replaced = _swap(url, store, there=there, spec=spec, replaced=replaced)
        stale = _made_from(store)
        notes = (f"{url}: fingerprint {there.fingerprint[:8]} was replaced by {spec.fingerprint[:8]}",)
        notes += tuple(f"{folder} was made from the replaced dataset and is stale" for folder in stale)
    for note in notes:
        _LOG.warning(note)
    if replaced:
        remove_replaced(store, {fingerprint[:8] for fingerprint in replaced})
    return Dataset(url, spec, store, _attempts_given_up(store, spec.fingerprint[:8]), notes, stale)


def load_dataset(url: str) -> Dataset:
    """The dataset of a folder from its `_dataset.json`; it need not be complete. Raises NotADatasetError,
    CorruptDatasetError.
    """
    store = Store(url)
    spec, _ = read_dataset_json(store)
    return Dataset(url, spec, store, _attempts_given_up(store, spec.fingerprint[:8]))


def read_dataset_json(store: Store) -> tuple[DatasetSpec, tuple[str, ...]]:
    """The spec of a folder, and the fingerprints replaced in it."""
    try:
        content = store.read(names.DATASET)
    except FileNotFoundError as error:
        message = f"{store.root} is no dataset: it holds no {names.DATASET}; check the path"
        raise NotADatasetError(message, place=store.root, fix="check the path") from error
    return parse_dataset_json(content, posixpath.join(store.root, names.DATASET))


def remove_replaced(store: Store, old_fp8s: set[str]) -> None:
    """Remove every file of replaced fingerprints: what readers would start from first, then the commits, then the
    rest.
    """
    here = [entry.name for entry in store.entries() if names.fingerprint_of("", entry.name) in old_fp8s]
    data = [name for name in here if names.parse("", name) is not None]
    for name in here:  # in order of name, so the manifest before the list of parts
        if name not in data:
            store.remove(name)
    _remove_in(store, names.DONE, old_fp8s)
    for name in data:
        store.remove(name)
    for folder in names.FOLDERS[1:]:
        _remove_in(store, folder, old_fp8s)


def _made_from(store: Store) -> tuple[str, ...]:
    """Folders of the datasets beside this one that have it among their inputs, directly or through others.

    Beside means: in the RUN folder if it lies in one (RUN/round-000/[signals/]NAME), else in the folder above it. A
    dataset that cannot be read is skipped; verify reports it.
    """
    found: dict[str, DatasetSpec] = {}
    run = _common_folder(store.root)
    if run.endswith("://"):
        return ()  # a bucket of its own: nothing lies beside it
    for folder in _beside(store.at(run)):
        with suppress(NotADatasetError, CorruptDatasetError):
            found[folder.root] = read_dataset_json(folder)[0]
    stale: list[str] = []
    frontier = [store.root]
    while frontier:
        source = Store(frontier.pop()).path()
        for folder_url, spec in found.items():
            sources = {Store(resolve_folder(folder_url, ref.folder)).path() for ref in spec.inputs.values()}
            if source in sources and folder_url not in stale:
                stale.append(folder_url)
                frontier.append(folder_url)
    return tuple(stale)


def dataset_folders(url: str) -> list[Store]:
    """Every folder with a `_dataset.json` at or below a folder (five levels), nearer ones first, in order of name and
    round.

    Raises:
        NotADatasetError: there is none.
    """
    pending, found = [(Store(url), 0)], []
    while pending:
        here, depth = pending.pop(0)
        if any(entry.name == names.DATASET for entry in here.entries()):
            found.append(here)
        elif depth < _SEARCH_DEPTH:
            pending.extend((here.at(folder), depth + 1) for folder in _below(here))
    if not found:
        message = f"there is no dataset at or below {url}: no folder with a {names.DATASET}; check the path"
        raise NotADatasetError(message, place=url, fix="check the path")
    return found


def _beside(top: Store) -> Iterator[Store]:
    """Folders that may be datasets of one RUN: those in `top`, in its rounds, and in `signals` of either."""
    for folder in _below(top):
        name = posixpath.basename(folder)
        if name == "signals" or _ROUND.fullmatch(name):
            yield from _beside(top.at(folder))
        else:
            yield top.at(folder)


def _below(store: Store) -> list[str]:
    """URLs of the folders in a folder, except hidden ones; rounds by their number, which names follow to 999."""
    shown = sorted((name for name in store.folders() if not name.startswith(".")), key=_place)
    return [f"{store.root.rstrip('/')}/{name}" for name in shown]


def _place(folder: str) -> tuple[str, int, str]:
    return ("round-", len(folder), folder) if _ROUND.fullmatch(folder) else (folder, 0, folder)


def _common_folder(url: str) -> str:
    """RUN of RUN/round-000/[signals/]NAME; without a round, the folder above the dataset (or above `signals`)."""
    above = _parent(url)
    if posixpath.basename(above) == "signals":
        above = _parent(above)
    return _parent(above) if _ROUND.fullmatch(posixpath.basename(above)) else above


def _parent(url: str) -> str:
    scheme, separator, path = url.rstrip("/").rpartition("://")
    return f"{scheme}{separator}{posixpath.dirname(path) or ('' if separator else '.')}"


def _swap(
    url: str, store: Store, *, there: DatasetSpec, spec: DatasetSpec, replaced: tuple[str, ...]
) -> tuple[str, ...]:
    """Put the new `_dataset.json` over the old one. Returns the fingerprints replaced so far."""
    if spec.fingerprint[:8] in {fingerprint[:8] for fingerprint in (*replaced, there.fingerprint)}:
        raise ReplacedFingerprintError(
            f"fingerprint {spec.fingerprint[:8]} was replaced in {url} before: a writer of it may still be alive "
            "and its files are being removed, so it is refused there. Nothing was changed. "
            f"Make this dataset in another folder; or, once no job of {url} runs any more, remove the folder and run "
            f"again{_with_those_made_from(store)}"
        )
    replaced = (*replaced, there.fingerprint)
    store.put(names.DATASET, spec.to_json(replaced=replaced))
    now, _ = read_dataset_json(store)
    if now.fingerprint != spec.fingerprint:
        raise CorruptDatasetError(
            f"{url} was overwritten by somebody else at the same time; run again once they have finished"
        )
    return replaced


def _with_those_made_from(store: Store) -> str:
    """For whoever removes a dataset: what was made from it would be refused in the same way."""
    stale = _made_from(store)
    return f" (remove those made from it as well: {', '.join(stale)})" if stale else ""


def _remove_in(store: Store, folder: str, old_fp8s: set[str]) -> None:
    for entry in store.entries(folder):
        if names.fingerprint_of(folder, entry.name) in old_fp8s:
            store.remove(f"{folder}/{entry.name}")


def _attempts_given_up(store: Store, fp8: str) -> dict[int, int]:
    """Part -> the last attempt before it was given up, of the parts without a marker that were (0: not recorded)."""
    listed = {folder: _parts_in(store, folder, fp8) for folder in (names.DONE, names.FAILED)}
    failed = {names.failed(part, fp8): part for part in sorted(listed[names.FAILED] - listed[names.DONE])}
    found = {name: content for name, content in store.read_many(list(failed)).items() if content is not None}
    return {failed[name]: _attempts_in(content, store.path(name)) for name, content in found.items()}


def _attempts_in(content: bytes, where: str) -> int:
    """What `_failed` says of the last attempt before the part was given up. Raises CorruptDatasetError."""
    fix = "remove it: the part's attempts then count from the first on record"
    attempts = json_object(content, where, fix=fix).get("attempts", 0)
    if type(attempts) is not int:
        raise CorruptDatasetError(f"{where} is damaged: its attempts are {attempts!r}, not a number; {fix}")
    return attempts


def _parts_in(store: Store, folder: str, fp8: str) -> set[int]:
    found = (names.parse(folder, entry.name) for entry in store.entries(folder))
    return {name.part for name in found if name is not None and name.fp8 == fp8}
