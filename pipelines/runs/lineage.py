"""RUN/lineage.json: which round was made from what, and how it went.

    {"format_version": 1, "rounds": [{"round", "policy_digest", "policy", "datasets": {name: content digest},
     "config", "metrics"}, ...]}

Rewritten whole after each stage; a reader sees the old text or the new one, never half of one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pass_ops.shards.store import Store

FORMAT_VERSION = 1
FILE = "lineage.json"


def read_lineage(run: str) -> dict[str, Any]:
    """The lineage of a RUN folder; an empty one where none was written yet."""
    store = Store(run)
    if not store.exists(FILE):
        return {"format_version": FORMAT_VERSION, "rounds": []}
    lineage = json.loads(store.read(FILE))
    assert isinstance(lineage, dict)
    return lineage


def record_round(run: str, round_index: int, facts: Mapping[str, Any]) -> None:
    """Merge what is known of one round into the lineage; nested tables (datasets, metrics) are merged key by key."""
    lineage = read_lineage(run)
    rounds = {entry["round"]: entry for entry in lineage["rounds"]}
    rounds[round_index] = _merged(rounds.get(round_index, {"round": round_index}), facts)
    lineage["rounds"] = [rounds[index] for index in sorted(rounds)]
    Store(run).put(FILE, json.dumps(lineage, indent=1).encode())


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(old)
    for key, value in new.items():
        before = merged.get(key)
        if key in ("datasets", "metrics") and isinstance(before, Mapping) and isinstance(value, Mapping):
            merged[key] = _merged(before, value)
        else:
            merged[key] = value
    return merged
