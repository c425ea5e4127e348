"""Training for a run that lies in an object store: on this machine's disk, with every checkpoint copied to the store.

The trainer's files are many, large and rewritten, so it keeps to a disk. A round's `train/` and `policy/` are made in
`~/.cache/passrl/train` (`PASSRL_CACHE`) and copied to the run's own folders: each checkpoint as it is complete, its
marker last; at the end the policy, `config.json` last; then `_done.json`. Whoever runs the round again, on this machine
or another, goes on from the store's last checkpoint. One machine trains a round at a time; nothing keeps two apart.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pass_ops.errors import PassError
from pass_ops.shards import Store
from pipelines.models.source import alone, cache_folder, local_model
from pipelines.runs.progress import Report
from pipelines.runs.run import Run
from trainer.folder_lock import LOCK
from trainer.model_folder import ADAPTER_CONFIG
from trainer.records import DONE, IDENTITY, STATE

_LOG = logging.getLogger(__name__)
_LAST = ("config.json", ADAPTER_CONFIG)


class CopyError(PassError, OSError):
    """A training could not be copied from or to the run's store."""


@dataclass(frozen=True, kw_only=True)
class Folders:
    """Where the trainer of one round works: its own folder, the one of the round before, and its export."""

    out: str
    state: str | None
    export: str
    progress: Report


@contextmanager
def training_folders(run: Run, round_index: int, report: Report) -> Iterator[Folders]:
    """The round's own folders, or those that stand for them here while they are copied to the run's store.

    Raises CopyError. What was trained then lies on this machine, and the same command goes on with that.
    """
    from trainer import is_main_process

    out, export = run.folder(round_index, "train"), run.folder(round_index, "policy")
    before = run.folder(round_index - 1, "train") if round_index else None
    if Store(run.url).is_local:
        yield Folders(out=out, state=before, export=export, progress=report)
        return
    ended = Store(out).exists(DONE)
    here = _fetched(out, with_state=not ended)
    state = None if before is None else _fetched(before, with_state=not ended)
    if ended and not (here / "policy").exists():
        (here / "policy").symlink_to(local_model(export))
    copier = None if ended or not is_main_process() else _Copier(here / "train", Store(out))

    def progress(done: int, total: int, note: str = "") -> None:
        if copier is not None:
            copier.look()
        report(done, total, note)

    try:
        yield Folders(
            out=str(here / "train"),
            state=None if state is None else str(state / "train"),
            export=str(here / "policy"),
            progress=progress,
        )
    except PassError as error:  # what has to be mended is in the store: the folder here follows it
        told = str(error).replace(str(here / "train"), out).replace(str(here / "policy"), export)
        error.args = (told if before is None else told.replace(f"{state}/train", before),)
        raise
    finally:
        if copier is not None:
            copier.finish()
    if copier is not None:
        with _named(f"{here} to {run.url}"):
            _copy_model(here / "policy", Store(export))
            copier.copy(with_end=True)
        if state is not None:
            shutil.rmtree(state, ignore_errors=True)  # the store has it


def _fetched(out: str, *, with_state: bool) -> Path:
    """The folder of a training on this machine, at least as far as the store's; without what the store does not know.

    with_state: its checkpoints too, not only their markers.
    """
    here = cache_folder() / "train" / hashlib.sha256(out.encode()).hexdigest()[:32]
    store = Store(out)
    with alone(here), _named(f"{out} to {here}"):
        there = _complete(_files(store))
        wanted = {name for name in there if with_state or not name.startswith(f"{STATE}/") or name.count("/") == 1}
        identity = here / "train" / IDENTITY
        same = IDENTITY in there and identity.exists() and identity.read_bytes() == store.read(IDENTITY)
        have = _complete(_files(Store(str(here / "train")))) if same else set()
        if _progress(there) > _progress(have) or not same:
            shutil.rmtree(here, ignore_errors=True)
            have = set()
        if _progress(there) >= _progress(have):
            for name in _in_order(wanted - have):
                target = here / "train" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                store.fs.get_file(store.path(name), str(target))
    return here


def _progress(names: set[str]) -> tuple[bool, str]:
    """Whether a training has ended, and the marker of its last checkpoint."""
    markers = [name for name in names if name.startswith(f"{STATE}/step-") and name.endswith(".json")]
    return DONE in names, max(markers, default="")


def _files(store: Store) -> set[str]:
    """Every file of a folder, at any depth, by its path below it."""
    root = store.path()
    return (
        {str(path).removeprefix(root).lstrip("/") for path in store.fs.find(root)} if store.fs.exists(root) else set()
    )


def _complete(files: set[str]) -> set[str]:
    """Without what is still being written: checkpoints that have no marker yet, temporary files, the lock."""

    def is_complete(name: str) -> bool:
        checkpoint = "/".join(name.split("/")[:2])
        if name.startswith(f"{STATE}/") and checkpoint != name and f"{checkpoint}.json" not in files:
            return False
        return name != LOCK and not name.endswith(".tmp")

    return {name for name in files if is_complete(name)}


def _in_order(names: set[str]) -> list[str]:
    """Files, then the markers of checkpoints and of models, then the end of the training."""

    def rank(name: str) -> tuple[int, str]:
        marker = (name.startswith(f"{STATE}/step-") and name.count("/") == 1) or name in _LAST
        return (2 if name == DONE else int(marker), name)

    return sorted(names, key=rank)


def _copy_model(folder: Path, store: Store) -> None:
    """A model folder to a store: its configuration goes first and comes back last, so half of it is no model."""
    for name in _LAST:
        store.remove(name)
    for name in _in_order(_files(Store(str(folder)))):
        store.fs.put_file(str(folder / name), store.path(name))


class _Copier:
    """Copies a training to a store as it grows, in a thread of its own."""

    def __init__(self, folder: Path, store: Store) -> None:
        self._folder, self._store = folder, store
        self._copied: dict[str, tuple[int, int]] = {}
        self._seen = ""
        self._due, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True, name="copy-training")
        self._thread.start()

    def look(self) -> None:
        """Copy what is new if there is another checkpoint."""
        newest = max((marker.name for marker in (self._folder / STATE).glob("step-*.json")), default="")
        if newest != self._seen:
            self._seen = newest
            self._due.set()

    def finish(self) -> None:
        """Copy what is complete by now, however the training ended; a failure is only told of."""
        self._over.set()
        self._due.set()
        self._thread.join()

    def copy(self, *, with_end: bool = False) -> None:
        """Copy what is new or changed, markers last; then remove there what is gone here, markers first."""
        here = _complete(_files(Store(str(self._folder))))
        for name in _in_order(here if with_end else here - {DONE}):
            stat = (self._folder / name).stat()
            if self._copied.get(name) != (stat.st_mtime_ns, stat.st_size):
                self._store.fs.put_file(str(self._folder / name), self._store.path(name))
                self._copied[name] = (stat.st_mtime_ns, stat.st_size)
        for name in reversed(_in_order(_files(self._store) - here)):
            self._store.remove(name)

    def _work(self) -> None:
        over = False
        while not over:
            self._due.wait()
            self._due.clear()
            over = self._over.is_set()
            try:
                self.copy()
            except FileNotFoundError:
                pass  # the trainer removed an older checkpoint meanwhile; the next look copies what there is
            except Exception as error:  # noqa: BLE001 - any of a store's library; the training itself goes on
                _LOG.warning("%s could not be copied to %s (%s)", self._folder, self._store.root, error)


@contextmanager
def _named(what: str) -> Iterator[None]:
    try:
        yield
    except (PassError, ImportError):
        raise
    except Exception as error:
        raise CopyError(
            f"Copying {what} failed ({type(error).__name__}: {error}). What was trained is kept where it is; mend that "
            "and run the same command again."
        ) from error
