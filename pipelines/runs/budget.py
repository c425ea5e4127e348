"""What the rules of [run] delete of a run: rows of old datasets, optimizer states.

    keep_states       optimizer states of all but the newest rounds, once a round is trained
    keep_rollouts     rows of rollouts, signals and shaped datasets of all but the newest rounds, once one is complete
    disk_gigabytes    then states and rows of the oldest rounds, until the run's folder is small enough

Prompts, evaluations, policies, every manifest and the lineage stay. What a next round reads stays: the state of the
newest round, and the shaped rows of those that it trains on. A deletion that was cut off goes on the next time.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pass_ops import shards
from pass_ops.errors import NotADatasetError
from pass_ops.shards import Store
from pipelines.runs.disk import written
from pipelines.runs.lineage import record_round
from pipelines.runs.run import Run
from trainer.records import STATE, complete_checkpoints, remove_state


@dataclass(frozen=True, kw_only=True)
class _Step:
    """One thing that may go: a round's rows or its state, and the rule that asks for it."""

    round: int
    what: str
    rule: str


def apply_budget(run: Run, round_index: int) -> None:
    """Delete what the rules do not keep, now that a round is complete; the lineage of each round says what is gone."""
    keep, limit = run.config.run.keep_rollouts, run.config.run.disk_gigabytes
    for index in range(max(0, round_index + 1 - keep) if keep is not None else 0):
        _delete(run, _Step(round=index, what="rows", rule=f"run.keep_rollouts = {keep}"))
    if limit is None or not Store(run.url).is_local:
        return
    folder = Path(Store(run.url).path())
    for step in _by_size(run, round_index):
        if written(folder) <= limit * 1e9:
            return
        _delete(run, step)
    if (size := written(folder)) > limit * 1e9:
        run.reporter.note(
            f"    {run.url} holds {size / 1e9:.3g} GB, above run.disk_gigabytes = {limit:g}: no rule deletes the rest"
        )


def remove_old_states(run: Run, round_index: int) -> None:
    """What run.keep_states does not keep, once a round is trained."""
    keep = run.config.run.keep_states
    for index in range(max(0, round_index + 1 - keep) if keep is not None else 0):
        _delete(run, _Step(round=index, what="state", rule=f"run.keep_states = {keep}"))


def _by_size(run: Run, newest: int) -> Iterator[_Step]:
    """What disk_gigabytes may delete, the oldest first: nothing that the next round reads."""
    rule = f"run.disk_gigabytes = {run.config.run.disk_gigabytes:g}"
    read_next = set(run.trained_rounds(newest + 1))
    for index in range(newest):
        yield _Step(round=index, what="state", rule=rule)
        if index not in read_next:
            yield _Step(round=index, what="rows", rule=rule)


def _delete(run: Run, step: _Step) -> None:
    """Delete one thing and record it, where it is still there."""
    if step.what == "state":
        deleted = _delete_state(run, step)
    else:
        deleted = {
            name: asdict(shards.delete_rows(run.folder(step.round, name), rule=step.rule))
            for name in _datasets(run, step.round)
        }
    if deleted:
        record_round(run.url, step.round, {"deleted": deleted})


def _datasets(run: Run, round_index: int) -> Iterator[str]:
    """Datasets of a round whose rows may go, what was made from others first: nothing is left without its rollouts."""
    store = Store(run.folder(round_index))
    signals = [f"signals/{name}" for name in Store(run.folder(round_index, "signals")).folders()]
    for name in ("shaped", *signals, "rollouts"):
        try:
            if name.startswith("signals/") or name in store.folders():
                shards.open_dataset(run.folder(round_index, name))
                yield name
        except NotADatasetError:
            continue


def _delete_state(run: Run, step: _Step) -> dict[str, Any]:
    store = Store(run.url)
    if not store.is_local:
        return {}
    state = Path(store.path()) / posixpath.relpath(run.folder(step.round, "train"), run.url) / STATE
    checkpoints = [found.folder for found in complete_checkpoints(state) if found.folder.exists() or not found.removed]
    if not checkpoints:
        return {}
    size = sum(written(folder) for folder in checkpoints)
    remove_state(state)
    return {"state": {"rule": step.rule, "files": len(checkpoints), "bytes": size}}
