"""Resumable state: float32 weights and optimizer state, committed by a marker written last.

    STATE/step-00000008/        torch.distributed.checkpoint files
    STATE/step-00000008.json    the marker: step, updates over all rounds, architecture, sha256 of every file

A folder without its marker is not there for anyone. Training draws no random number (the order is a pure function of
the step, dropout is off), so weights, optimizer state and two counters are all the state there is.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer.distributed import World
from trainer.errors import CorruptStateError, StateMismatchError, StateNotFoundError
from trainer.lora import base_folder, is_adapter

STATE_FORMAT = 2
# Keys of config.json that do not change which weights fit: where or by what it was saved, or in which precision.
VOLATILE_KEYS = frozenset({"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache"})


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A complete checkpoint. step: steps of its call of `train` done; updates: optimizer steps over all rounds."""

    folder: Path
    step: int
    updates: int
    architecture: Mapping[str, Any]
    files: Mapping[str, str]


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """All of it or nothing, under its final name."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(json.dumps(content, indent=2, sort_keys=True) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)
    _sync_folder(path.parent)


def sha256_file(path: Path) -> str:
    """64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def weights_digest(folder: Path) -> str:
    """sha256 over the names and contents of a model folder's weight files: which weights these are.

    Of an adapter's folder it is that of the adapter's and the base model's.
    """
    digests = {file.name: sha256_file(file) for file in sorted(folder.glob("*.safetensors"))}
    if is_adapter(folder):
        digests["base"] = weights_digest(base_folder(folder))
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def architecture(model: Any) -> dict[str, Any]:
    """The model's config without what does not decide its weights' names, shapes and use."""
    config = json.loads(model.config.to_json_string(use_diff=False))
    return {key: value for key, value in config.items() if key not in VOLATILE_KEYS}


def save_checkpoint(
    state: Path, *, step: int, updates: int, model: nn.Module, optimizer: torch.optim.Optimizer, keep: int, world: World
) -> None:
    """Writes and commits a checkpoint, then removes all but the newest `keep`. Every rank writes its shard."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

    folder = state / f"step-{step:08d}"
    world.on_main(lambda: _make_anew(folder))
    weights, optimizer_state = get_state_dict(model, optimizer, options=StateDictOptions(ignore_frozen_params=True))
    writer = dcp.FileSystemWriter(folder, single_file_per_rank=True, sync_files=True)
    with _quiet():
        dcp.save({"model": weights, "optimizer": optimizer_state}, storage_writer=writer, no_dist=world.size == 1)
    found = {"step": step, "updates": updates, "architecture": architecture(model)}
    world.on_main(lambda: _commit(folder, found, keep=keep))


def _make_anew(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was killed before its marker
    folder.mkdir(parents=True)


def _commit(folder: Path, found: Mapping[str, Any], *, keep: int) -> None:
    _sync_folder(folder)
    files = {file.name: sha256_file(file) for file in sorted(folder.iterdir())}
    write_json(_marker(folder), {"format": STATE_FORMAT, **found, "files": files})
    for old in complete_checkpoints(folder.parent)[:-keep]:
        _marker(old.folder).unlink()  # the marker first: a folder half removed must not look complete
        shutil.rmtree(old.folder)


def complete_checkpoints(state: Path) -> list[Checkpoint]:
    """Committed checkpoints, oldest first."""
    found = []
    for marker in sorted(state.glob("step-*.json")):
        content = json.loads(marker.read_text(encoding="utf-8"))
        if content.pop("format") != STATE_FORMAT:
            raise StateMismatchError(
                f"{marker} is of another format than {STATE_FORMAT}; resume it with the version that wrote it."
            )
        found.append(Checkpoint(folder=marker.with_suffix(""), **content))
    return found


def newest_checkpoint(state: Path) -> Checkpoint:
    """The last committed checkpoint; raises StateNotFoundError where there is none."""
    found = complete_checkpoints(state)
    if not found:
        raise StateNotFoundError(f"{state} holds no complete checkpoint; give the train folder of a finished round.")
    return found[-1]


def load_checkpoint(
    checkpoint: Checkpoint, *, model: nn.Module, optimizer: torch.optim.Optimizer, world: World
) -> None:
    """Puts a checkpoint's weights and optimizer state in place, whatever the world that wrote it was.

    The optimizer keeps its own options.

    Raises StateMismatchError (another architecture, naming the key), CorruptStateError (bytes changed since).
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

    _check_architecture(checkpoint, architecture(model))
    world.on_main(lambda: _check_files(checkpoint))
    options = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    weights, optimizer_state = get_state_dict(model, optimizer, options=StateDictOptions(ignore_frozen_params=True))
    content = {"model": weights, "optimizer": optimizer_state}
    with _quiet():
        dcp.load(content, storage_reader=dcp.FileSystemReader(checkpoint.folder), no_dist=world.size == 1)
    trained = StateDictOptions(ignore_frozen_params=True, strict=False)  # an adapter's base is not in the state
    set_state_dict(
        model, optimizer, model_state_dict=content["model"], optim_state_dict=content["optimizer"], options=trained
    )
    for group, kept in zip(optimizer.param_groups, options, strict=True):
        group.update(kept)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warning that no process group exists: where there is one process, that is on purpose."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _check_files(checkpoint: Checkpoint) -> None:
    for name, digest in checkpoint.files.items():
        path = checkpoint.folder / name
        if not path.is_file() or sha256_file(path) != digest:
            raise CorruptStateError(
                f"{path} is missing or not what its marker says. Remove {_marker(checkpoint.folder)} to go back to the "
                "checkpoint before it."
            )


def _check_architecture(checkpoint: Checkpoint, ours: Mapping[str, Any]) -> None:
    theirs = checkpoint.architecture
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            raise StateMismatchError(
                f"State {checkpoint.folder} is of another model: {key} is {theirs.get(key)!r} there and "
                f"{ours.get(key)!r} in the policy. Train the policy that state was saved with, or start without state."
            )


def _marker(folder: Path) -> Path:
    return folder.with_name(folder.name + ".json")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
