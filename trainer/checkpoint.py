"""Resumable state: float32 weights and optimizer state, committed by a marker written last.

    STATE/step-00000008/        torch.distributed.checkpoint files
    STATE/step-00000008.json    the marker: step, updates over all rounds, architecture, sha256 of every file

A folder without its marker is ignored. Training draws no random number (the order is a pure function of the step,
dropout is off), so weights, optimizer state and two counters are the whole state.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pass_ops.shards.store import sync_folder
from trainer.digests import sha256_files
from trainer.distributed import World
from trainer.errors import StateError
from trainer.model_folder import SAVED_BY_KEYS
from trainer.records import STATE_FORMAT, Checkpoint, check_files, complete_checkpoints, marker_of, write_json

# Keys of config.json that do not change which weights fit.
UNRELATED_KEYS = SAVED_BY_KEYS | {"dtype", "torch_dtype", "use_cache"}


def architecture(model: Any) -> dict[str, Any]:
    """The model's config without the keys that do not affect its weights' names, shapes and use."""
    config = json.loads(model.config.to_json_string(use_diff=False))
    return {key: value for key, value in config.items() if key not in UNRELATED_KEYS}


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
    shutil.rmtree(folder, ignore_errors=True)  # from an attempt killed before its marker
    folder.mkdir(parents=True)


def _commit(folder: Path, found: Mapping[str, Any], *, keep: int) -> None:
    sync_folder(folder)
    files = {file.name: digest for file, digest in sha256_files(sorted(folder.iterdir())).items()}
    write_json(marker_of(folder), {"format": STATE_FORMAT, **found, "files": files})
    remove_older(folder.parent, keep=keep)


def remove_older(state: Path, *, keep: int) -> None:
    """Removes all but the newest `keep` checkpoints, and every folder without a marker: one that a kill left behind,
    between its marker and itself when it was removed, or before its marker when it was written.
    """
    for old in complete_checkpoints(state)[:-keep]:
        marker_of(old.folder).unlink()  # the marker first: a half-removed folder must not look complete
    for folder in state.glob(f"step-{8 * '[0-9]'}/"):
        if not marker_of(folder).exists():
            shutil.rmtree(folder, ignore_errors=True)  # what of it cannot be removed now is tried again next time


def load_checkpoint(
    checkpoint: Checkpoint, *, model: nn.Module, optimizer: torch.optim.Optimizer, world: World
) -> None:
    """Loads a checkpoint's weights and optimizer state, however many ranks wrote it. The optimizer keeps its options.

    Raises StateError where the architecture differs (naming the key) or bytes changed since.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

    _check_architecture(checkpoint, architecture(model))
    if checkpoint.removed:
        raise StateError(
            f"{checkpoint.folder} was removed, as run.keep_states says, so training cannot go on from it. Train "
            "without state, or from a round whose state is kept."
        )
    world.on_main(lambda: check_files(checkpoint))
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
    """Suppresses the warning that no process group exists; with one process that is intended."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _check_architecture(checkpoint: Checkpoint, ours: Mapping[str, Any]) -> None:
    theirs = checkpoint.architecture
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            raise StateError(
                f"State {checkpoint.folder} belongs to another model: {key} is {theirs.get(key)!r} there and "
                f"{ours.get(key)!r} in the policy. Train the policy it was saved with, or start without state."
            )
