"""What the rules of [run] delete of a run: rows of old datasets, optimizer states.

    keep_states       optimizer states of all but the newest rounds, once a round is trained
    keep_rollouts     rows of rollouts, signals and shaped datasets of all but the newest rounds, once one is complete
    disk_gigabytes    then states and rows of the oldest rounds, until the run's folder is small enough: what goes is
                      written into the lineage first

Prompts, evaluations, policies, every manifest and the lineage stay. What a next round reads stays: the state of the
newest round, and the shaped rows of those that it trains on. A deletion that was cut off goes on the next time.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pass_ops import shards
from pass_ops.errors import NotADatasetError
from pass_ops.shards import Store
from pipelines.runs.disk import written
from pipelines.runs.lineage import read_rounds, record_round
from pipelines.runs.run import Run
from trainer.records import STATE, Checkpoint, complete_checkpoints, remove_state

#: files that a limit of bytes counts: rows, weights, optimizer states
COUNTED = frozenset({".parquet", ".safetensors", ".distcp"})


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
    for step in _left_over(run, round_index):
        _delete(run, step)
    for step in _planned(run, round_index, limit=int(limit * 1e9)):
        _delete(run, step)
    if (size := _held(run, round_index)) > limit * 1e9:
        run.reporter.note(
            f"    {run.url} holds {size / 1e9:.3g} GB, above run.disk_gigabytes = {limit:g}: no rule deletes the rest"
        )


def remove_old_states(run: Run, round_index: int) -> None:
    """What run.keep_states does not keep, once a round is trained."""
    keep = run.config.run.keep_states
    for index in range(max(0, round_index + 1 - keep) if keep is not None else 0):
        _delete(run, _Step(round=index, what="state", rule=f"run.keep_states = {keep}"))


def _planned(run: Run, newest: int, *, limit: int) -> list[_Step]:
    """What disk_gigabytes deletes now that a round is complete.

    Decided once and written into the lineage before anything goes: a run that is cut off in the middle deletes what an
    undisturbed one does.
    """
    rule = f"run.disk_gigabytes = {run.config.run.disk_gigabytes:g}"
    plan = read_rounds(run.url).get(newest, {}).get("budget")
    if plan is None or plan["rule"] != rule:
        over = _held(run, newest) - limit
        plan = {"rule": rule, "over": max(0, over), "deletes": []}
        for round_index, what in _oldest_first(run, newest):
            if over > 0 and (size := _bytes_of(run, round_index, what)):
                plan["deletes"].append([round_index, what])
                over -= size
        record_round(run.url, newest, {"budget": plan})
    return [_Step(round=round_index, what=what, rule=rule) for round_index, what in plan["deletes"]]


def _left_over(run: Run, newest: int) -> Iterator[_Step]:
    """What plans of earlier rounds name: `passrl run --round N` may follow one that was cut off while it deleted."""
    rule, may_go = f"run.disk_gigabytes = {run.config.run.disk_gigabytes:g}", set(_oldest_first(run, newest))
    for index, entry in read_rounds(run.url).items():
        plan = entry.get("budget") if index < newest else None
        for round_index, what in plan["deletes"] if plan is not None and plan["rule"] == rule else ():
            if (round_index, what) in may_go:
                yield _Step(round=round_index, what=what, rule=rule)


def _oldest_first(run: Run, newest: int) -> Iterator[tuple[int, str]]:
    """What disk_gigabytes may delete: nothing that the next round reads."""
    read_next = set(run.trained_rounds(newest + 1))
    for index in range(newest):
        yield index, "state"
        if index not in read_next:
            yield index, "rows"


def _held(run: Run, newest: int) -> int:
    """Bytes of rows, weights and states up to a round, and of the evaluations of any policy (RUN/eval).

    Logs, markers and manifests are left out: they are small, and their sizes depend on how often a run was cut off.
    """
    folders = [posixpath.join(run.url, name) for name in ("start", "eval")]
    folders += [run.folder(index) for index in range(newest + 1)]
    return sum(_counted(Path(Store(folder).path())) for folder in folders)


def _counted(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.suffix in COUNTED)


def _bytes_of(run: Run, round_index: int, what: str) -> int:
    """Bytes that a deletion would free."""
    if what == "state":
        return sum(_counted(checkpoint.folder) for checkpoint in _checkpoints(run, round_index))
    kept = [run.folder(round_index, name) for name in _datasets(run, round_index)]
    kept = [url for url in kept if shards.deletion_of(url) is None]
    return sum(record.bytes for url in kept for record in shards.open_dataset(url).parts)


def _delete(run: Run, step: _Step) -> None:
    """Delete one thing, where it is still there, and record it."""
    if step.what == "state":
        _delete_state(run, step)
        return
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


def _delete_state(run: Run, step: _Step) -> None:
    """Recorded first: of a removal that was cut off, the bytes are no longer there to be counted."""
    checkpoints = _checkpoints(run, step.round)
    if not checkpoints:
        return
    if "state" not in read_rounds(run.url).get(step.round, {}).get("deleted", {}):
        size = sum(written(checkpoint.folder) for checkpoint in checkpoints)
        told = {"rule": step.rule, "files": len(checkpoints), "bytes": size}
        record_round(run.url, step.round, {"deleted": {"state": told}})
    remove_state(_state(run, step.round))


def _state(run: Run, round_index: int) -> Path:
    return Path(Store(run.folder(round_index, "train", STATE)).path())


def _checkpoints(run: Run, round_index: int) -> list[Checkpoint]:
    """Those of a round of which something is left; none where the run's folder is in a store elsewhere."""
    if not Store(run.url).is_local:
        return []
    found = complete_checkpoints(_state(run, round_index))
    return [one for one in found if one.folder.exists() or not one.removed]
