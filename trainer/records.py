"""What a training writes beside its weights: its identity, steps, checkpoints' markers and end. Imports no torch.

Each reader checks what it reads; a file that is damaged is named, with what to do about it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from pass_ops.errors import PassError
from pass_ops.shards import Store
from trainer.digests import sha256_file, sha256_files
from trainer.errors import RunFolderError, StateError
from trainer.model_folder import weights_digest

T = TypeVar("T")
IDENTITY, DONE, METRICS, STATE = "_train.json", "_done.json", "metrics.jsonl", "state"
STATE_FORMAT = 2


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A complete checkpoint. step: steps of its call of `train` done; updates: optimizer steps over all rounds.
    removed: only the marker is left, on purpose.
    """

    folder: Path
    step: int
    updates: int
    architecture: Mapping[str, Any]
    files: Mapping[str, str]
    removed: bool = False


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a finished training says of itself. policy_weights: `trainer.model_folder.weights_digest` of its export;
    policy_files: sha256 of each other file of it (tokenizer, config, templates); metrics_file: that of metrics.jsonl.
    Both are empty where an older version trained.
    """

    steps: int
    updates: int
    policy_weights: str
    metrics: dict[str, float]
    policy_files: dict[str, str] = field(default_factory=dict)
    metrics_file: str = ""


@dataclass(frozen=True, kw_only=True)
class _Marker:
    format: int
    step: int
    updates: int
    architecture: dict[str, Any]
    files: dict[str, str]
    removed: bool = False


@dataclass(frozen=True, kw_only=True)
class _Step:
    """Of a line of metrics.jsonl, what its readers count on; `trainer.metrics` lists all of it."""

    step: int
    update: int
    loss: float
    policy_loss: float
    kl: float | None
    clip_low: float
    clip_high: float
    behavior_kl: float | None
    entropy: float | None
    advantage_mean: float | None
    grad_norm: float
    rollouts: float
    tokens: float
    dropped_tokens: float
    masked_rollouts: float
    fed_tokens: float
    seconds: float
    data_wait: float
    tokens_per_second: float


def parse_json(kind: type[T], content: bytes | str, *, where: str, error: type[PassError], fix: str) -> T:
    """The content of a JSON file, checked against a dataclass or another type. Raises `error`, naming file and fix."""
    try:
        return pydantic.TypeAdapter(kind).validate_python(json.loads(content))
    except pydantic.ValidationError as refused:
        wrong = refused.errors()[0]
        cause = ": ".join(filter(None, [".".join(map(str, wrong["loc"])), wrong["msg"]]))
    except (ValueError, RecursionError) as unreadable:
        cause = str(unreadable)
    raise error(f"{where} is damaged ({cause}): {fix}") from None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replaces the file in one step; synced to disk. Raises StoreError, an OSError."""
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    Store(str(path.parent)).put(path.name, text.encode())


def read_identity(folder: Path) -> dict[str, Any] | None:
    """What the run in a train folder is; None where none began. Raises RunFolderError."""
    path = folder / IDENTITY
    if not path.exists():
        return None
    fix = f"what was trained in {folder} is no longer known; remove that folder to train again"
    return parse_json(dict[str, Any], path.read_bytes(), where=str(path), error=RunFolderError, fix=fix)


def read_done(folder: Path) -> Done | None:
    """How the run in a train folder ended; None while it has not. Raises StateError."""
    path = folder / DONE
    if not path.exists():
        return None
    fix = "remove it and train again: that goes on from the last checkpoint, and exports the same policy"
    return parse_json(Done, path.read_bytes(), where=str(path), error=StateError, fix=fix)


def files_beside_weights(policy: Path) -> dict[str, str]:
    """Path within the policy's folder -> sha256 of each file that is neither weights nor hidden."""
    files = [path for path in sorted(policy.rglob("*")) if path.is_file() and not _is_weights_or_hidden(path)]
    return {path.relative_to(policy).as_posix(): digest for path, digest in sha256_files(files).items()}


def check_metrics(folder: Path, done: Done) -> None:
    """Raises StateError where the metrics.jsonl of a finished training is not what it wrote."""
    path = folder / METRICS
    if done.metrics_file and (not path.exists() or sha256_file(path) != done.metrics_file):
        raise StateError(
            f"{path} is {'changed: it is not what the training wrote' if path.exists() else 'gone'}. Remove {folder} "
            "and the policy it exported, and run its round again."
        )


def check_export(policy: Path, done: Done) -> None:
    """Raises StateError where a file of a training's policy is not what the training exported.

    AdapterError, where the base of an adapter cannot be read.
    """
    found = files_beside_weights(policy)
    changed = [name for name, digest in done.policy_files.items() if found.get(name) != digest]
    if changed:
        fact = f"{policy / changed[0]} is {'changed' if changed[0] in found else 'gone'}"
    elif weights_digest(policy) != done.policy_weights:
        fact = f"the weights in {policy} are changed"
    else:
        return
    raise StateError(
        f"{fact}: it is not what the training exported. Remove {policy} and run its round again, which exports the "
        "policy from the last checkpoint."
    )


def _is_weights_or_hidden(path: Path) -> bool:
    return path.suffix == ".safetensors" or path.name.startswith(".")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The steps in metrics.jsonl so far, without a last line cut off by a kill. Raises StateError."""
    path = folder / METRICS
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    whole = [line for line in lines if line.endswith(b"\n")]
    fix = "remove that line and all after it; a run that is not finished writes again those after its last checkpoint"
    for number, line in enumerate(whole, start=1):
        parse_json(_Step, line, where=f"{path}:{number}", error=StateError, fix=fix)
    return [json.loads(line) for line in whole]


def complete_checkpoints(state: Path) -> list[Checkpoint]:
    """Committed checkpoints, oldest first. Raises StateError."""
    found = []
    for marker in sorted(state.glob("step-*.json")):
        fix = "remove it to resume from the checkpoint before it"
        content = parse_json(_Marker, marker.read_bytes(), where=str(marker), error=StateError, fix=fix)
        if content.format != STATE_FORMAT:
            raise StateError(f"{marker} is not of format {STATE_FORMAT}; resume it with the version that wrote it.")
        found.append(
            Checkpoint(
                folder=marker.with_suffix(""),
                step=content.step,
                updates=content.updates,
                architecture=content.architecture,
                files=content.files,
                removed=content.removed,
            )
        )
    return found


def newest_checkpoint(state: Path) -> Checkpoint:
    """The last committed checkpoint. Raises StateError where there is none."""
    found = complete_checkpoints(state)
    if not found:
        raise StateError(
            f"{state} holds no complete checkpoint, so no training can go on from its optimizer state. Remove "
            f"{state.parent} and the policy it exported, and train that round again; or give that of another "
            "finished round."
        )
    return found[-1]


def remove_state(state: Path) -> None:
    """Removes the weights and optimizer state of a finished training. The markers stay: they are what the next round's
    identity names. They say so first, so that a removal cut off leaves nothing that looks damaged.
    """
    for checkpoint in complete_checkpoints(state):
        marker = marker_of(checkpoint.folder)
        if not checkpoint.removed:
            write_json(marker, json.loads(marker.read_bytes()) | {"removed": True})
        shutil.rmtree(checkpoint.folder, ignore_errors=True)


def check_files(checkpoint: Checkpoint) -> None:
    """Raises StateError where a file is missing or differs from its marker, unless all were removed on purpose."""
    if checkpoint.removed:
        return
    paths = {checkpoint.folder / name: digest for name, digest in checkpoint.files.items()}
    found = sha256_files([path for path in paths if path.is_file()])
    for path, digest in paths.items():
        if found.get(path) != digest:
            raise StateError(
                f"{path} is missing or differs from its marker. Remove {marker_of(checkpoint.folder)} to resume from "
                "the checkpoint before it; the next start then removes the folder."
            )


def marker_of(folder: Path) -> Path:
    """The marker of a checkpoint's folder."""
    return folder.with_name(folder.name + ".json")
