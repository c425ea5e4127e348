"""The folder of a run: claimed once by what the run is, compared on every rerun."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.data import TrainData
from trainer.errors import RunFolderError, StateError
from trainer.model_folder import base_folder, local_folder, weights_digest
from trainer.options import TrainOptions
from trainer.records import IDENTITY, STATE, Checkpoint, newest_checkpoint, read_done, read_identity, write_json


def describe(
    data: TrainData, *, policy: str, state: str | None, options: TrainOptions
) -> tuple[Checkpoint | None, dict[str, Any]]:
    """The checkpoint carried from the round before, and what the run is.

    Raises PolicyNotFoundError, AdapterError, StateError.
    """
    base_folder(policy)  # a wrong path must not become the run's identity
    before = _carried(state, policy)
    identity = {
        "datasets": data.digests,
        "policy_weights": weights_digest(Path(policy)),
        "state": dict(before.files) if before else None,
        "options": options.semantic(),
    }
    return before, identity


def claim(folder: Path, exported: Path, identity: Mapping[str, Any]) -> None:
    """Claims the run's folder, or checks that it is this run's. Raises StateError, RunFolderError."""
    if (stored := read_identity(folder)) is not None:
        _check_same_run(stored, identity, folder=str(folder))
        return
    if exported.exists() and any(exported.iterdir()):
        raise RunFolderError(
            f"{exported} is not empty, and no training in {folder} belongs to it; a policy is exported into a new "
            "folder. Remove it and train again, or choose another one."
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / IDENTITY, identity)


def _carried(state: str | None, policy: str) -> Checkpoint | None:
    """The last checkpoint of the round before, whose export `policy` must be."""
    if state is None:
        return None
    folder = local_folder(state, name="state")
    done = read_done(folder)
    if done is None:
        raise StateError(f"{state} is not the train folder of a finished round (it has no _done.json).")
    if done.policy_weights != weights_digest(Path(policy)):
        raise StateError(
            f"The weights in {policy} are not those that {state} exported, so its optimizer state is another policy's. "
            "Train the policy exported by that round, or train without state."
        )
    return newest_checkpoint(folder / STATE)


def _check_same_run(stored: Mapping[str, Any], ours: Mapping[str, Any], *, folder: str) -> None:
    """Raises StateError that names the first difference between a folder's run and this one."""
    for key in sorted(stored.keys() | ours.keys()):
        where, a, b = key, stored.get(key), ours.get(key)
        if a == b:
            continue
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            inner = next(k for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k))
            where, a, b = f"{key}.{inner}", a.get(inner), b.get(inner)
        raise StateError(
            f"{folder} holds a run with another {where}: {a!r} there, {b!r} now. Its state cannot be continued; choose "
            "another folder, or remove this one to start again."
        )
