"""From the rollouts of a step to micro-batches of tensors.

Dimensions: _B rows of a forward pass, _S its width, _N the tokens with a loss (unmasked completion tokens) of the
micro-batch, concatenated, _T the completion tokens of one rollout. Only these N positions reach the vocabulary and the
loss, so padded and packed layouts share every line after the hidden states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.distributed import ALONE, World
from trainer.errors import TrainDataError
from trainer.losses.aggregation import loss_weights
from trainer.options import Aggregation
from trainer.stream import Rollout

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
    bins: list[list[int]] = []
    room: list[int] = []
    for r in order:
        length = int(lengths_R[r])
        fitting = next((b for b, left in enumerate(room) if left >= length), None)
        if fitting is None:
            bins.append([])
            room.append(budget)
            fitting = len(bins) - 1
        bins[fitting].append(int(r))
        room[fitting] -= length
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
    unmasked_R = np.array([int(rollout.mask_T.sum()) for rollout in rollouts])
    weights_R = loss_weights(unmasked_R, aggregation=aggregation, constant=constant)
    fed = [(rollout, w) for rollout, w, skip in zip(rollouts, weights_R, masked, strict=True) if not skip]
    for rollout, _ in fed:
        check_ids(rollout, vocabulary_size)
    lengths_R = np.array([len(rollout) for rollout, _ in fed], np.int64)
    kept_R = [kept_tokens(rollout) for rollout, _ in fed]
    if world.size > 1 and fed:  # enough micro-batches for every rank
        budget = min(budget, -(-int(lengths_R.sum()) // world.size))
    if share_prompts:
        plan = plan_by_prompt([rollout for rollout, _ in fed], budget=budget)
    else:
        plan = plan_micro_batches(lengths_R, budget=budget, pack=pack)
    batches = [
        build_micro_batch(
            [fed[r][0] for r in chosen],
            [fed[r][1] for r in chosen],
            [kept_R[r] for r in chosen],
            pack=pack,
            temperature=temperature,
            share_prompt=share_prompts,
        )
        for chosen in plan[world.rank :: world.size]
    ]
    if len(plan[:: world.size]) > len(batches):
        batches.append(build_micro_batch([fed[0][0]], [0.0], [kept_R[0][:0]], pack=pack, temperature=temperature))
    fed_tokens = sum(int(rollout.mask_T.sum()) for rollout, _ in fed)
    return StepBatch(
        micro_batches=tuple(batches),
        rollouts=len(rollouts),
        tokens=int(unmasked_R.sum()),
        dropped_tokens=fed_tokens - sum(len(kept) for kept in kept_R),
        masked_rollouts=len(rollouts) - len(fed),
        rollout_ids=tuple(rollout.rollout_id for rollout in rollouts),
    )


def kept_tokens(rollout: Rollout) -> NDArray[np.int64]:
    """Unmasked completion positions whose stored log-probabilities are finite: the tokens that have a loss."""
    kept_T = rollout.mask_T & np.isfinite(rollout.behavior_T)
    for stored_T in (rollout.old_T, rollout.reference_T):
        if stored_T is not None:
            kept_T = kept_T & np.isfinite(stored_T)
    return np.flatnonzero(kept_T)


def check_ids(rollout: Rollout, vocabulary_size: int) -> None:
    """Raises TrainDataError for an empty prompt or an id outside the policy's vocabulary."""
    if not len(rollout.prompt_ids):
        raise TrainDataError(
            f"Rollout {rollout.rollout_id} has an empty prompt: nothing predicts its first token. Generate with a "
            "prompt of at least one token."
        )
    for name, ids in (("prompt_token_ids", rollout.prompt_ids), ("token_ids", rollout.token_ids_T)):
        if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= vocabulary_size):
            raise TrainDataError(
                f"Rollout {rollout.rollout_id}: {name} go from {ids.min()} to {ids.max()}, but the policy's "
                f"vocabulary from 0 to {vocabulary_size - 1}. Train the policy that sampled these rollouts."
            )


def build_micro_batch(
    rollouts: Sequence[Rollout],
    weights: Sequence[float],
    kept: Sequence[NDArray[np.int64]],
    *,
    pack: bool,
    temperature: float,
    share_prompt: bool = False,
) -> MicroBatch:
    """One forward pass over these rollouts: a row each, or packed one after another. kept: `kept_tokens` of each.

    share_prompt: a prompt common to all of them is moved from the rows to prefix_1P, except its last token.
    """
    prefix = _shared_prefix(rollouts) if share_prompt else None
    if prefix is not None:
        rollouts = [replace(rollout, prompt_ids=rollout.prompt_ids[-1:]) for rollout in rollouts]
    lengths_R = np.array([len(rollout) for rollout in rollouts])
    width = int(lengths_R.sum()) if pack else int(lengths_R.max())
    starts_R = np.cumsum(lengths_R) - lengths_R if pack else np.arange(len(rollouts)) * width
    ids = np.full(width if pack else len(rollouts) * width, PAD_ID, np.int64)
    for rollout, start, length in zip(rollouts, starts_R, lengths_R, strict=True):
        prompt = start + len(rollout.prompt_ids)
        ids[start:prompt] = rollout.prompt_ids
        ids[prompt : start + length] = rollout.token_ids_T
    # A token is predicted by the hidden state one position earlier.
    before_R = [start + len(rollout.prompt_ids) - 1 for rollout, start in zip(rollouts, starts_R, strict=True)]
    positions = np.concatenate([np.arange(length) for length in lengths_R]) if pack else None
    old = [rollout.old_T for rollout in rollouts if rollout.old_T is not None]
    reference = [rollout.reference_T for rollout in rollouts if rollout.reference_T is not None]
    counts_R = [len(k) for k in kept]
    return MicroBatch(
        input_ids_BS=torch.from_numpy(ids.reshape(-1, width)),
        position_ids_BS=None if positions is None else torch.from_numpy(positions.reshape(1, -1)),
        select_N=torch.from_numpy(np.concatenate([b + k for b, k in zip(before_R, kept, strict=True)])),
        targets_N=_gather([rollout.token_ids_T for rollout in rollouts], kept, np.int64),
        advantages_N=_gather([rollout.advantages_T for rollout in rollouts], kept, np.float32),
        behavior_N=_gather([rollout.behavior_T for rollout in rollouts], kept, np.float32),
        old_N=_gather(old, kept, np.float32) if old else None,
        reference_N=_gather(reference, kept, np.float32) if reference else None,
        weights_N=torch.from_numpy(np.repeat(np.asarray(weights, np.float32), counts_R)),
        rows_N=torch.from_numpy(np.repeat(np.arange(len(rollouts)), counts_R)),
        rollout_ids=tuple(rollout.rollout_id for rollout in rollouts),
        temperature=temperature,
        real_tokens=int(lengths_R.sum()) + (0 if prefix is None else len(prefix)),
        prefix_1P=None if prefix is None else torch.from_numpy(prefix.astype(np.int64).reshape(1, -1)),
    )


def _shared_prefix(rollouts: Sequence[Rollout]) -> NDArray[np.int32] | None:
    """The prompt common to all rollouts without its last token; None where nothing can be shared."""
    first = rollouts[0].prompt_ids
    if len(rollouts) == 1 or len(first) == 1 or any(not np.array_equal(r.prompt_ids, first) for r in rollouts):
        return None
    return first[:-1]


def _gather(arrays: Sequence[NDArray], kept: Sequence[NDArray[np.int64]], dtype: type) -> Tensor:
    taken = [array[k] for array, k in zip(arrays, kept, strict=True)]
    return torch.from_numpy(np.concatenate(taken).astype(dtype))
