"""A step's batch made one rollout and one token at a time: the slow reference of `trainer.batching`.

Written from what a batch is (docs/spec/contract.md, `MicroBatch`), without its code: it plans by trying every bin in
turn and fills lists token by token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from trainer.rollouts import Rollout

DTYPES = {
    "input_ids_BS": np.int64, "position_ids_BS": np.int64, "prefix_1P": np.int64, "select_N": np.int64,
    "targets_N": np.int64, "advantages_N": np.float32, "behavior_N": np.float32, "old_N": np.float32,
    "reference_N": np.float32, "weights_N": np.float32, "rows_N": np.int64,
}  # fmt: skip


def plain_step(
    rollouts: Sequence[Rollout], *, masked: Sequence[bool], budget: int, pack: bool, share: bool, rank: int, size: int
) -> list[dict[str, Any]]:
    """The micro-batches of one rank, rollout_mean: tensors as arrays (None where there is none), and rollout_ids."""
    fed = [r for r in range(len(rollouts)) if not masked[r]]
    if size > 1 and fed:
        budget = min(budget, math.ceil(sum(len(rollouts[r]) for r in fed) / size))
    plan = plain_shared(rollouts, fed, budget) if share else plain_plan(rollouts, fed, budget, pack=pack)
    mine = [plain_micro_batch(rollouts, rows, pack=pack, share=share) for rows in plan[rank::size]]
    if len(plan[::size]) > len(mine):
        mine.append(plain_micro_batch(rollouts, fed[:1], pack=pack, share=False, empty=True))
    return mine


def plain_plan(rollouts: Sequence[Rollout], rows: list[int], budget: int, *, pack: bool) -> list[list[int]]:
    """Packed: the first bin with room, longest first. Padded: rows of like length while the widest times their number
    fits.
    """
    longest_first = sorted(rows, key=lambda r: -len(rollouts[r]))
    bins: list[list[int]] = []
    for r in longest_first:
        for chosen in bins if pack else bins[-1:]:
            used = sum(len(rollouts[c]) for c in chosen) + len(rollouts[r])
            if (used if pack else len(rollouts[chosen[0]]) * (len(chosen) + 1)) <= budget:
                chosen.append(r)
                break
        else:
            bins.append([r])
    return bins


def plain_shared(rollouts: Sequence[Rollout], rows: list[int], budget: int) -> list[list[int]]:
    """Padded, the rollouts of one prompt together: first those whose prompt is theirs alone, then prompt by prompt."""
    members: dict[tuple[int, ...], list[int]] = {}
    for r in rows:
        members.setdefault(tuple(rollouts[r].prompt_ids.tolist()), []).append(r)
    plan = plain_plan(rollouts, [group[0] for group in members.values() if len(group) == 1], budget, pack=False)
    for group in (group for group in members.values() if len(group) > 1):
        room = max(budget - len(rollouts[group[0]].prompt_ids), 1)
        chosen: list[int] = []
        for r in sorted(group, key=lambda r: -len(rollouts[r].token_ids_T)):
            if chosen and (len(rollouts[chosen[0]].token_ids_T) + 1) * (len(chosen) + 1) > room:
                plan.append(chosen)
                chosen = []
            chosen.append(r)
        plan.append(chosen)
    return plan


def plain_micro_batch(
    rollouts: Sequence[Rollout], rows: list[int], *, pack: bool, share: bool, empty: bool = False
) -> dict[str, Any]:
    """One forward pass. empty: no token of it has a loss."""
    prompts = [rollouts[r].prompt_ids.tolist() for r in rows]
    shares = share and len(rows) > 1 and len(prompts[0]) > 1 and all(prompt == prompts[0] for prompt in prompts)
    prefix = prompts[0][:-1] if shares else None
    prompts = [prompt[-1:] for prompt in prompts] if shares else prompts
    sequences = [p + rollouts[r].token_ids_T.tolist() for p, r in zip(prompts, rows, strict=True)]
    width = sum(map(len, sequences)) if pack else max(map(len, sequences))
    names = ("select_N", "targets_N", "advantages_N", "behavior_N", "old_N", "reference_N", "weights_N", "rows_N")
    made: dict[str, Any] = {name: [] for name in names}
    start = 0
    for row, (r, prompt) in enumerate(zip(rows, prompts, strict=True)):
        one = rollouts[r]
        start = sum(map(len, sequences[:row])) if pack else row * width
        weight = 1.0 / (len(rollouts) * int(one.mask_T.sum()))
        for t in range(0 if empty else len(one.token_ids_T)):
            stored = [one.behavior_T[t], *(x[t] for x in (one.old_T, one.reference_T) if x is not None)]
            if not one.mask_T[t] or not all(map(math.isfinite, stored)):
                continue
            values = (start + len(prompt) + t - 1, one.token_ids_T[t], one.advantages_T[t], one.behavior_T[t])
            values += tuple(None if x is None else x[t] for x in (one.old_T, one.reference_T))
            for name, value in zip(names, (*values, weight, row), strict=True):
                made[name].append(value)
    for name in ("old_N", "reference_N"):
        if getattr(rollouts[0], name.replace("_N", "_T")) is None:
            made[name] = None
    padded = [sequence + [0] * (width - len(sequence)) for sequence in sequences]
    made["input_ids_BS"] = [[t for sequence in sequences for t in sequence]] if pack else padded
    made["position_ids_BS"] = [[t for sequence in sequences for t in range(len(sequence))]] if pack else None
    made["prefix_1P"] = None if prefix is None else [prefix]
    arrays = {name: None if values is None else np.array(values, DTYPES[name]) for name, values in made.items()}
    return {**arrays, "rollout_ids": tuple(rollouts[r].rollout_id for r in rows)}
