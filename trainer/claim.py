"""What a run's folder says it is: written once, compared on every rerun."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.checkpoint import Checkpoint, newest_checkpoint, weights_digest, write_json
from trainer.checks import check_same_run, local_folder
from trainer.data import TrainData
from trainer.errors import ExportFolderError, StateMismatchError, StateNotFoundError
from trainer.options import TrainOptions


def begin(
    folder: Path,
    exported: Path,
    data: TrainData,
    *,
    policy: str,
    state: str | None,
    options: TrainOptions,
) -> Checkpoint | None:
    """Claims the run's folder, or checks that it is this run's; returns the checkpoint carried from the round before.

    Raises StateNotFoundError, StateMismatchError, ExportFolderError, and what `trainer.checks.check_same_run` raises.
    """
    before = _carried(state, policy)
    identity = {
        "datasets": data.digests,
        "policy_weights": weights_digest(Path(policy)),
        "state": dict(before.files) if before else None,
        "options": options.semantic(),
    }
    _claim(folder, exported, identity)
    return before


def _claim(folder: Path, exported: Path, identity: Mapping[str, Any]) -> None:
    path = folder / "_train.json"
    if path.exists():
        check_same_run(json.loads(path.read_text(encoding="utf-8")), identity, folder=str(folder))
        return
    if exported.exists() and any(exported.iterdir()):
        raise ExportFolderError(f"{exported} is not empty; the policy is exported into a new folder. Give another one.")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, identity)


def _carried(state: str | None, policy: str) -> Checkpoint | None:
    """The last checkpoint of the round before; refuses one whose export is not the policy given."""
    if state is None:
        return None
    folder = local_folder(state, name="state")
    done = folder / "_done.json"
    if not done.exists():
        raise StateNotFoundError(f"{state} is not the train folder of a finished round (it has no _done.json).")
    if json.loads(done.read_text(encoding="utf-8"))["policy_weights"] != weights_digest(Path(policy)):
        raise StateMismatchError(
            f"The weights in {policy} are not those that {state} exported, so its optimizer state is another policy's. "
            "Give the policy of that round, or train without state."
        )
    return newest_checkpoint(folder / "state")
