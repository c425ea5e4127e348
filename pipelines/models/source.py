"""A model's folder on this machine, however the model is named.

| name | where its files are |
| --- | --- |
| a folder, also as `file://` | there |
| `org/name`, `org/name@REVISION`, `hf://org/name` | on the hub; its copy in the hub's own cache (`HF_HOME`) |
| `s3://...`, `gs://...`, any fsspec URL | in a store; its copy in `~/.cache/passrl` (`PASSRL_CACHE`) |

A folder that is there comes first. A name that reads both ways is refused if the folder holds no model.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from pass_ops.errors import PassError
from pass_ops.shards import Store
from pass_ops.support.extras import MissingExtraError
from trainer.model_folder import ADAPTER_CONFIG

HUB = "hf://"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(?:@[\w./-]+)?")
_CONFIGS = ("config.json", ADAPTER_CONFIG)
_TEMPLATES = "additional_chat_templates"
# As the process was started: vLLM's engine sets the variable for itself, which must not keep the next model away.
_OFFLINE = os.environ.get("HF_HUB_OFFLINE")
# In a process of its own, for huggingface_hub reads its settings once, when it is imported.
_DOWNLOAD = """
import json, sys
from huggingface_hub import snapshot_download
name, _, revision = sys.argv[1].partition("@")
try:
    folder = snapshot_download(
        name, revision=revision or None, allow_patterns=["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"],
        ignore_patterns=["*/*.safetensors", "*/*.json", "*/*.txt", "*/*.model"],
    )
    print(json.dumps({"folder": folder}))
except Exception as error:
    print(json.dumps({"kind": type(error).__name__, "error": str(error)}))
"""


class ModelNotFoundError(PassError, FileNotFoundError):
    """A model folder does not exist, or cannot be fetched from where its name says it is."""


def local_model(model: str) -> str:
    """The model's folder on this machine; fetched first, where it is not here yet. A folder is returned as it is.

    Raises ModelNotFoundError (also for a folder that is not there), MissingExtraError.
    """
    if (repository := hub_repository(model)) is not None:
        return _snapshot(repository)
    scheme, separator, rest = model.partition("://")
    if separator and scheme in ("file", "local"):
        return rest
    return _copied(model) if separator else model


def pinned_model(model: str) -> str:
    """The name under which every machine finds the same files: of a hub repository, org/name@COMMIT.

    Fetches it. Raises as `local_model` does.
    """
    repository = hub_repository(model)
    if repository is None:
        return model
    prefix = HUB if model.startswith(HUB) else ""
    return f"{prefix}{repository.partition('@')[0]}@{Path(_snapshot(repository)).name}"


def hub_repository(model: str) -> str | None:
    """org/name[@REVISION] where the name means a repository of the hub. Raises ModelNotFoundError where it may."""
    if model.startswith(HUB):
        if not _HUB_ID.fullmatch(repository := model.removeprefix(HUB)):
            raise ModelNotFoundError(
                f"{model} names no repository of the hub; write hf://org/name or hf://org/name@REVISION."
            )
        return repository
    if not _HUB_ID.fullmatch(model):
        return None
    folder = Path(model)
    if not folder.is_dir():
        return model
    if any((folder / name).exists() for name in _CONFIGS):
        return None
    raise ModelNotFoundError(
        f"{model} is a folder here ({folder.absolute()}) without {_CONFIGS[0]}, and also reads as a repository of the "
        f"Hugging Face hub, so it is not clear which one is meant. Write ./{model} for the folder, {HUB}{model} for "
        "the repository."
    )


@lru_cache(maxsize=64)
def _snapshot(repository: str) -> str:
    """The snapshot's folder in the hub's cache; its last name is the commit."""
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    if _OFFLINE is not None:
        environment["HF_HUB_OFFLINE"] = _OFFLINE
    done = subprocess.run(
        [sys.executable, "-c", _DOWNLOAD, repository], env=environment, stdout=subprocess.PIPE, check=False
    )
    lines = done.stdout.decode().splitlines()
    if done.returncode != 0 or not lines:
        raise MissingExtraError("models", [(f"model {repository} of the Hugging Face hub", "huggingface_hub")])
    told = json.loads(lines[-1])
    if "folder" in told:
        return str(told["folder"])
    reason = {
        "RepositoryNotFoundError": "the hub has no such repository, or HF_TOKEN gives no access to it",
        "GatedRepoError": "its owner grants access on request; accept the conditions on its page, then set HF_TOKEN",
        "RevisionNotFoundError": "it has no such revision",
        "LocalEntryNotFoundError": (
            "the hub cannot be reached from here (or HF_HUB_OFFLINE is set), and its cache on this machine has no copy"
        ),
    }.get(told["kind"], f"{told['kind']}: {told['error']}")
    raise ModelNotFoundError(
        f"Model {repository} is no folder here ({Path(repository).absolute()}), so it was looked for on the Hugging "
        f"Face hub: {reason}. Give a model folder, an org/name (optionally @REVISION) of the hub, or a folder's URL."
    )


def _copied(url: str) -> str:
    """The folder of a store, copied to this machine's cache; one that changed there is another one here.

    config.json comes last when a model is written to a store (`trainer`), so what has one is whole.
    """
    store = Store(url.rstrip("/"))
    try:
        files = {entry.name: entry for entry in store.entries()}
        files |= {f"{_TEMPLATES}/{entry.name}": entry for entry in store.entries(_TEMPLATES)}
    except ImportError:
        raise
    except Exception as error:
        raise ModelNotFoundError(
            f"Model {url} cannot be listed ({type(error).__name__}: {error}). Check the address and this machine's "
            "access to it."
        ) from error
    if not any(name in files for name in _CONFIGS):
        raise ModelNotFoundError(
            f"{url} holds no {' and no '.join(_CONFIGS)} ({len(files)} files): no model lies there, or it is still "
            "being written. Give the URL of a Hugging Face checkpoint's folder."
        )
    listed = [url, sorted((name, entry.size, entry.modified) for name, entry in files.items())]
    key = hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:32]
    folder = cache_folder() / "models" / key
    if not folder.exists():
        with alone(folder):
            if not folder.exists():
                _fetch(store, {name: entry.size for name, entry in files.items()}, folder)
    return str(folder)


def cache_folder() -> Path:
    """Where copies from stores are kept on this machine; anything in it may be removed between jobs."""
    given = os.environ.get("PASSRL_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "passrl"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One process of this machine at a time; the others wait, and find the folder there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f".{folder.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch(store: Store, sizes: dict[str, int], folder: Path) -> None:
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    try:
        for name, size in sizes.items():
            target = temporary / name
            target.parent.mkdir(parents=True, exist_ok=True)
            store.fs.get_file(store.path(name), str(target))
            if target.stat().st_size != size:
                raise OSError(f"{name} has {target.stat().st_size} bytes here and {size} there")
        temporary.rename(folder)
    except Exception as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise ModelNotFoundError(
            f"Model {store.root} cannot be copied to {folder.parent} ({type(error).__name__}: {error}). Nothing of it "
            "is kept; check the access and the room there (PASSRL_CACHE names another folder), and run again."
        ) from error
