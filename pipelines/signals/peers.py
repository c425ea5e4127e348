"""Another rollout of the group, right or wrong, as what a rollout is shown; never the rollout itself.

Which one is a pure function of (seed, the two rollouts' ids): not of the part, the order of rows, or the machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Literal

import pyarrow as pa

PeerKind = Literal["right", "wrong"]
#: verify_status of an outcome signal -> what its rollout is; one whose verification failed is neither
_KINDS: Mapping[str, PeerKind] = {"ok": "right", "wrong": "wrong", "unparseable": "wrong"}


def choose_peers(
    rollouts: pa.Table, outcome: pa.Table, *, kind: PeerKind, number: int, seed: int
) -> list[tuple[str | None, str]]:
    """For each rollout the text of its peer, or None and why it has none.

    kind: which rollouts may be one. number: which of them, from 0, in an order drawn for each rollout by the seed;
    equal texts count once, so that different numbers are different texts.

    A rollout is never its own peer, nor is another one with its text or its tokens; nor is one without text.
    """
    rows = rollouts.select(["group_id", "rollout_id", "text", "token_ids"]).to_pylist()
    statuses = outcome.select(["status", "verify_status"]).to_pylist()
    groups: dict[str, list[dict[str, Any]]] = {}
    for row, said in zip(rows, statuses, strict=True):
        row["kind"] = _KINDS.get(said["verify_status"]) if said["status"] == "ok" else None
        groups.setdefault(row["group_id"], []).append(row)
    return [_peer(row, groups[row["group_id"]], kind=kind, number=number, seed=seed) for row in rows]


def _peer(
    own: Mapping[str, Any], group: list[dict[str, Any]], *, kind: PeerKind, number: int, seed: int
) -> tuple[str | None, str]:
    of_kind = [row for row in group if row["kind"] == kind]
    others = [row for row in of_kind if row["text"].strip() and not _same(row, own)]
    drawn = sorted(others, key=lambda row: _draw(seed, own["rollout_id"], row["rollout_id"]))
    texts = list(dict.fromkeys(row["text"] for row in drawn))
    if number < len(texts):
        return texts[number], ""
    found = f"{len(of_kind)} of the group's {len(group)} rollouts are {kind}"
    what = "no other text" if not texts else f"{len(texts)} other texts, and number is {number}"
    return None, f"no {kind} peer: {found}, with {what}"


def _same(row: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    return bool(
        row["rollout_id"] == own["rollout_id"]
        or row["text"].strip() == own["text"].strip()
        or row["token_ids"] == own["token_ids"]
    )


def _draw(seed: int, own: str, other: str) -> bytes:
    return hashlib.sha256(f"peer {seed}\0{own}\0{other}".encode()).digest()
