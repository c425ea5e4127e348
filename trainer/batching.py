"""From the rollouts of a step to micro-batches of tensors.

Dimensions: _B rows of a forward pass, _S its width, _N the tokens with a loss (unmasked completion tokens) of the
micro-batch, concatenated, _T the completion tokens of one rollout. Only these N positions reach the vocabulary and the
loss, so padded and packed layouts share every line after the hidden states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.distributed import ALONE, World
from trainer.errors import TrainDataError
from trainer.losses.aggregation import loss_weights
from trainer.options import Aggregation
from trainer.rollouts import Kept, Rollout, Rollouts, kept_tokens

PAD_ID = 0  # any id: padding is to the right of every real token, so causal attention never sees it


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """One forward pass. select_N: position in [B * S] of the hidden state that predicts each token with a loss.

    prefix_1P: the prompt shared by all rows except its last token, which is not in the rows; None where none is shared.
    """

    input_ids_BS: Tensor  # int64
    position_ids_BS: Tensor | None  # int64, restarting at every rollout; None where rollouts are padded
    prefix_1P: Tensor | None  # int64
    select_N: Tensor  # int64
    targets_N: Tensor  # int64
    advantages_N: Tensor  # float32
    behavior_N: Tensor  # float32
    old_N: Tensor | None  # float32
    reference_N: Tensor | None  # float32
    weights_N: Tensor  # float32: factor of each token's loss in the step's sum
    rows_N: Tensor  # int64: index into rollout_ids
    rollout_ids: tuple[str, ...]
    temperature: float  # that the rollouts were sampled at
    real_tokens: int  # without padding

    @property
    def fed_tokens(self) -> int:
        """Tokens of the forward pass, padding included."""
        return int(self.input_ids_BS.numel() + (0 if self.prefix_1P is None else self.prefix_1P.numel()))

    def to(self, device: torch.device) -> MicroBatch:
        """A copy on a device."""
        moved = {k: v.to(device, non_blocking=True) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return MicroBatch(**{**vars(self), **moved})


@dataclass(frozen=True, kw_only=True)
class StepBatch:
    """Everything one optimizer step needs. Denominators are those of the whole step, known before any forward pass."""

    micro_batches: tuple[MicroBatch, ...]
    rollouts: int  # denominators: rollouts of the step
    tokens: int  # their unmasked completion tokens
    dropped_tokens: int  # tokens among them whose stored log-probability is not finite
    masked_rollouts: int  # rollouts among them that are too long and add nothing
    rollout_ids: tuple[str, ...]


def plan_micro_batches(lengths_R: NDArray[np.int64], *, budget: int, pack: bool) -> list[NDArray[np.int64]]:
    """Which rollouts share a forward pass: at most `budget` tokens each, padding included; a longer one goes alone.

    Padded: neighbours in order of length, to keep padding small. Packed: first fit, longest first.
    """
    order = np.argsort(-lengths_R, kind="stable")
    if pack:
        return _first_fit(order, lengths_R, budget=budget)
    batches, start = [], 0
    while start < len(order):
        count = max(1, budget // int(lengths_R[order[start]]))
        batches.append(order[start : start + count])
        start += count
    return batches


def _first_fit(order: NDArray[np.int64], lengths_R: NDArray[np.int64], *, budget: int) -> list[NDArray[np.int64]]:
    """Each rollout in turn into the first bin with room for it, found in a tree over bins in O(log rollouts).

    Node n has the children 2n and 2n + 1 and holds the larger of their rooms; leaf `leaves + b` is the room of bin b.
    """
    bins: list[list[int]] = []
    leaves = 1 << max(len(order) - 1, 0).bit_length()
    room = [budget] * (2 * leaves)
    for r, length in zip(order.tolist(), lengths_R[order].tolist(), strict=True):
        node = 1
        while node < leaves:
            node *= 2
            node += room[node] < length
        if length > budget:
            node = leaves + len(bins)
        if node == leaves + len(bins):
            bins.append([])
        bins[node - leaves].append(r)
        room[node] -= length
        while node > 1 and room[node // 2] != (largest := max(room[node], room[node ^ 1])):
            node //= 2
            room[node] = largest
    return [np.array(chosen) for chosen in bins]


def plan_by_prompt(rollouts: Sequence[Rollout], *, budget: int) -> list[NDArray[np.int64]]:
    """As `plan_micro_batches`, padded, with the rollouts of one prompt together so that they share its computation."""
    members: dict[bytes, list[int]] = {}
    for r, rollout in enumerate(rollouts):
        members.setdefault(rollout.prompt_ids.tobytes(), []).append(r)
    alone = np.array([group[0] for group in members.values() if len(group) == 1], np.int64)
    lengths = np.array([len(rollouts[r]) for r in alone], np.int64)
    batches = [alone[chosen] for chosen in plan_micro_batches(lengths, budget=budget, pack=False)]
    for group in members.values():
        if len(group) > 1:
            width_R = np.array([len(rollouts[r].token_ids_T) + 1 for r in group], np.int64)
            room = max(budget - len(rollouts[group[0]].prompt_ids), 1)
            batches += [np.array(group)[chosen] for chosen in plan_micro_batches(width_R, budget=room, pack=False)]
    return batches


def build_step(
    rollouts: Sequence[Rollout],
    *,
    masked: Sequence[bool],
    aggregation: Aggregation,
    constant: float | None,
    budget: int,
    pack: bool,
    vocabulary_size: int,
    temperature: float = 1.0,
    share_prompts: bool = False,
    world: World = ALONE,
) -> StepBatch:
    """The micro-batches of one step for this rank. `masked` rollouts count in the denominators and are not fed.

    share_prompts: rollouts of one prompt share a forward pass, which computes the prompt once. Every rank gets the same
    number of micro-batches, the last one possibly without a token that counts; the other fields are the whole step's.

    Raises TrainDataError for a token id outside the vocabulary or an empty prompt.
    """
    columns = rollouts if isinstance(rollouts, Rollouts) else Rollouts.of(rollouts)
    unmasked_R = Kept.where(columns.mask_C, columns).counts_R
    weights_R = loss_weights(unmasked_R, aggregation=aggregation, constant=constant)
    fed_F = np.flatnonzero(~np.asarray(masked, np.bool_))
    check_ids(columns, fed_F, vocabulary_size)
    lengths_F = (columns.prompt_lengths_R + columns.token_lengths_R)[fed_F]
    kept = kept_tokens(columns)
    if world.size > 1 and len(fed_F):  # enough micro-batches for every rank
        budget = min(budget, -(-int(lengths_F.sum()) // world.size))
    if share_prompts:
        plan = plan_by_prompt([columns[r] for r in fed_F.tolist()], budget=budget)
    else:
        plan = plan_micro_batches(lengths_F, budget=budget, pack=pack)
    batches = [
        build_micro_batch(
            columns, fed_F[chosen], kept, weights_R=weights_R, pack=pack, temperature=temperature,
            share_prompt=share_prompts,
        )
        for chosen in plan[world.rank :: world.size]
    ]  # fmt: skip
    if len(plan[:: world.size]) > len(batches):
        batches.append(
            build_micro_batch(
                columns, fed_F[:1], kept.none(), weights_R=weights_R, pack=pack, temperature=temperature
            )
        )  # fmt: skip
    return StepBatch(
        micro_batches=tuple(batches),
        rollouts=len(columns),
        tokens=int(unmasked_R.sum()),
        dropped_tokens=int(unmasked_R[fed_F].sum() - kept.counts_R[fed_F].sum()),
        masked_rollouts=len(columns) - len(fed_F),
        rollout_ids=columns.rollout_ids,
    )


def check_ids(rollouts: Rollouts, rows: NDArray[np.int64], vocabulary_size: int) -> None:
    """Raises TrainDataError for an empty prompt or an id outside the policy's vocabulary in one of these rows."""
    whole = (rollouts.prompt_lengths_R > 0).all()
    if whole and all(_within(ids, vocabulary_size) for ids in (rollouts.prompt_Q, rollouts.tokens_C)):
        return
    for rollout in (rollouts[row] for row in rows.tolist()):
        if not len(rollout.prompt_ids):
            raise TrainDataError(
                f"Rollout {rollout.rollout_id} has an empty prompt: nothing predicts its first token. Generate with a "
                "prompt of at least one token."
            )
        for name, ids in (("prompt_token_ids", rollout.prompt_ids), ("token_ids", rollout.token_ids_T)):
            if not _within(ids, vocabulary_size):
                raise TrainDataError(
                    f"Rollout {rollout.rollout_id}: {name} go from {ids.min()} to {ids.max()}, but the policy's "
                    f"vocabulary from 0 to {vocabulary_size - 1}. Train the policy that sampled these rollouts."
                )


def _within(ids: NDArray[np.int32], vocabulary_size: int) -> bool:
    return not len(ids) or (int(ids.min()) >= 0 and int(ids.max()) < vocabulary_size)


def build_micro_batch(
    rollouts: Rollouts,
    rows: NDArray[np.int64],
    kept: Kept,
    *,
    weights_R: NDArray[np.float64],
    pack: bool,
    temperature: float,
    share_prompt: bool = False,
) -> MicroBatch:
    """One forward pass over these rows of the rollouts: a row each, or packed one after another.

    kept: the tokens with a loss; weights_R: the weight of each, by rollout. share_prompt: a prompt common to all of
    them is moved from the rows to prefix_1P, except its last token.
    """
    prompts = _prompts(rollouts, rows)
    prefix = _shared_prefix(prompts) if share_prompt else None
    if prefix is not None:
        prompts = [prompt[-1:] for prompt in prompts]
    prompts_B = np.array([len(prompt) for prompt in prompts])
    lengths_B = prompts_B + rollouts.token_lengths_R[rows]
    width = int(lengths_B.sum()) if pack else int(lengths_B.max())
    starts_B = np.cumsum(lengths_B) - lengths_B if pack else np.arange(len(rows)) * width
    ids = np.full(width if pack else len(rows) * width, PAD_ID, np.int32)
    tokens = zip(rollouts.token_offsets_R1[rows].tolist(), rollouts.token_offsets_R1[rows + 1].tolist(), strict=True)
    for prompt, start, (first, last) in zip(prompts, starts_B.tolist(), tokens, strict=True):
        begin = start + len(prompt)
        ids[start:begin] = prompt
        ids[begin : begin + last - first] = rollouts.tokens_C[first:last]
    positions = np.arange(width) - np.repeat(starts_B, lengths_B) if pack else None
    counts_B = kept.counts_R[rows]
    taken_N = kept.of(rows)
    # A token is predicted by the hidden state one position earlier.
    before_B = starts_B + prompts_B - 1 - rollouts.token_offsets_R1[rows]

    def gathered(column_C: NDArray[Any] | None, dtype: type) -> Any:
        return None if column_C is None else torch.from_numpy(column_C[taken_N].astype(dtype, copy=False))

    return MicroBatch(
        input_ids_BS=torch.from_numpy(ids.reshape(-1, width).astype(np.int64)),
        position_ids_BS=None if positions is None else torch.from_numpy(positions.reshape(1, -1)),
        select_N=torch.from_numpy(taken_N + np.repeat(before_B, counts_B)),
        targets_N=gathered(rollouts.tokens_C, np.int64),
        advantages_N=gathered(rollouts.advantages_C, np.float32),
        behavior_N=gathered(rollouts.behavior_C, np.float32),
        old_N=gathered(rollouts.old_C, np.float32),
        reference_N=gathered(rollouts.reference_C, np.float32),
        weights_N=torch.from_numpy(np.repeat(weights_R[rows].astype(np.float32), counts_B)),
        rows_N=torch.from_numpy(np.repeat(np.arange(len(rows)), counts_B)),
        rollout_ids=tuple(rollouts.ids_R.take(pa.array(rows)).to_pylist()),
        temperature=temperature,
        real_tokens=int(lengths_B.sum()) + (0 if prefix is None else len(prefix)),
        prefix_1P=None if prefix is None else torch.from_numpy(prefix.astype(np.int64).reshape(1, -1)),
    )


def _prompts(rollouts: Rollouts, rows: NDArray[np.int64]) -> list[NDArray[np.int32]]:
    """The prompt of each row."""
    bounds = zip(rollouts.prompt_offsets_R1[rows].tolist(), rollouts.prompt_offsets_R1[rows + 1].tolist(), strict=True)
    return [rollouts.prompt_Q[first:last] for first, last in bounds]


def _shared_prefix(prompts: Sequence[NDArray[np.int32]]) -> NDArray[np.int32] | None:
    """The prompt common to all without its last token; None where nothing can be shared."""
    first = prompts[0]
    if len(prompts) == 1 or len(first) == 1 or any(not np.array_equal(prompt, first) for prompt in prompts):
        return None
    return first[:-1]
