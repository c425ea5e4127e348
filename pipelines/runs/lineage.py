"""RUN/lineage.json: which round was made from what, and how it went.

    {"format_version": 1, "rounds": [{"round", "policy_digest", "policy", "datasets": {name: content digest},
     "config", "schedule", "anchors", "trained_on", "selection", "budget", "deleted", "metrics"}, ...],
     "start": {"policy", "policy_digest", "metrics"}, "stopped": {"round", "metric", "value", "best_round", "best"}}

schedule: scheduled option -> its value. anchors: option -> digest of a model that stays the policy before round 0.
trained_on: the rounds whose shaped datasets the update read. selection: reason -> prompts. budget: with
run.disk_gigabytes, the bytes above it and what was to be deleted. deleted: dataset, or "state" -> the rule, files,
bytes. stopped: only where [stop] ended the rounds.

Rewritten whole after each stage; a reader sees the old text or the new one, never half of one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Required

import pydantic
from typing_extensions import TypedDict

from pass_ops.errors import PassError
from pass_ops.shards.store import Store
from pipelines.options import as_json
from trainer.records import parse_json

FORMAT_VERSION = 1
FILE = "lineage.json"
_OPTIONS = {"config", "schedule"}


class LineageError(PassError, ValueError):
    """lineage.json is damaged, of another format, or was to hold what JSON has not."""


@pydantic.with_config(extra="allow")
class _Round(TypedDict, total=False):
    round: Required[int]
    policy: str
    policy_digest: str
    datasets: dict[str, str]
    config: dict[str, Any]
    schedule: dict[str, Any]
    anchors: dict[str, str]
    trained_on: list[int]
    selection: dict[str, int]
    budget: dict[str, Any]
    deleted: dict[str, dict[str, Any]]
    metrics: dict[str, dict[str, Any]]


class _Start(TypedDict, total=False):
    policy: str
    policy_digest: str
    metrics: dict[str, dict[str, Any]]


@pydantic.with_config(extra="allow")
class Lineage(TypedDict, total=False):
    format_version: Required[Literal[1]]
    rounds: Required[list[_Round]]
    start: _Start
    stopped: dict[str, Any]


def read_lineage(run: str) -> dict[str, Any]:
    """The lineage of a RUN folder; an empty one where none was written yet. Raises LineageError."""
    store = Store(run)
    try:
        content = store.read(FILE)
    except FileNotFoundError:
        return {"format_version": FORMAT_VERSION, "rounds": []}
    fix = "remove it and run every round again: what is made is kept, and is written down anew"
    return dict(parse_json(Lineage, content, where=store.path(FILE), error=LineageError, fix=fix))


def read_rounds(run: str) -> dict[int, dict[str, Any]]:
    """What the lineage of a RUN folder says of each round, by its number, in order. Raises LineageError."""
    return {entry["round"]: entry for entry in read_lineage(run)["rounds"]}


def training_metrics(run: str) -> dict[int, dict[str, Any]]:
    """What the lineage has of each round's training, {} where it was not trained. Raises LineageError."""
    return {index: entry.get("metrics", {}).get("train", {}) for index, entry in read_rounds(run).items()}


def record_round(run: str, round_index: int, facts: Mapping[str, Any]) -> None:
    """Merge what is known of one round into the lineage; nested tables (datasets, metrics) are merged key by key.

    Raises LineageError.
    """
    lineage = read_lineage(run)
    rounds = {entry["round"]: entry for entry in lineage["rounds"]}
    rounds[round_index] = _merged(rounds.get(round_index, {"round": round_index}), facts)
    lineage["rounds"] = [rounds[index] for index in sorted(rounds)]
    _write(run, lineage)


def record_start(run: str, facts: Mapping[str, Any]) -> None:
    """Write down what is known of the policy before round 0. Raises LineageError."""
    lineage = read_lineage(run)
    _write(run, {**lineage, "start": dict(facts)})


def record_stopped(run: str, decision: Mapping[str, Any] | None) -> None:
    """Write down that and why the rounds ended early, or that they did not. Raises LineageError."""
    lineage = read_lineage(run)
    if lineage.get("stopped") != decision:
        kept = {key: value for key, value in lineage.items() if key != "stopped"}
        told = {} if decision is None else {"stopped": dict(decision)}
        _write(run, kept | told)


def _write(run: str, lineage: Mapping[str, Any]) -> None:
    """Write the whole text. Options may be infinite, in rounds that stand there already too; what was measured not."""
    store = Store(run)
    rounds = [{**entry, **{key: as_json(entry[key]) for key in _OPTIONS & entry.keys()}} for entry in lineage["rounds"]]
    lineage = {**lineage, "rounds": rounds}
    if wrong := list(_not_finite(lineage, "")):
        place, value = wrong[0]
        raise LineageError(
            f"{store.path(FILE)} was to say that {place} is {value}, which JSON has no number for, so nothing was "
            "written; what was made is kept. Look at what measured it, and run the command again"
        )
    store.put(FILE, json.dumps(lineage, indent=1, allow_nan=False).encode())


def _not_finite(value: Any, place: str) -> Iterator[tuple[str, float]]:
    """Where in a value there are numbers that JSON has not, as "rounds.0.metrics.train.loss"."""
    if isinstance(value, float) and not math.isfinite(value):
        yield place.removeprefix("."), value
    elif isinstance(value, Mapping):
        for name, one in value.items():
            yield from _not_finite(one, f"{place}.{name}")
    elif isinstance(value, list | tuple):
        for index, one in enumerate(value):
            yield from _not_finite(one, f"{place}.{index}")


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(old)
    for key, value in new.items():
        before = merged.get(key)
        if key in ("datasets", "metrics", "deleted") and isinstance(before, Mapping) and isinstance(value, Mapping):
            merged[key] = _merged(before, value)
        else:
            merged[key] = value
    return merged
