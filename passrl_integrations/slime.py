"""slime: advantages formed where all rollouts of a step are together, and handed to its training ranks.

slime deals a group's samples out to data-parallel ranks before advantages are computed, so a function on a rank may
see half a group. `reward_post_process` therefore shapes in the rollout manager, which has all samples, and gives each
sample its list of advantages as its reward; `advantages` puts it in its place on the rank that trains the sample.

    --custom-reward-post-process-path passrl_integrations.slime.reward_post_process
    --custom-advantage-function-path passrl_integrations.slime.advantages
    --custom-config-path pass.yaml     # pass_shaping: {k: 0.7, weights: {format: 0.0}}

A sample's streams lie in its metadata, under "pass_streams", as `passrl_integrations.carried.streams` makes them; its
outcome is its reward. With signal "kl" and no carried scores they are teacher_log_probs - rollout_log_probs (OPD).
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import torch

from pass_ops.errors import MissingColumnError
from passrl_integrations.carried import Carried, advantages_of
from passrl_integrations.steps import shaping_config
from passrl_integrations.versions import require

VERSION = require("slime")
CARRIED = "pass_streams"


def reward_post_process(args: Namespace, samples: Sequence[Any]) -> tuple[list[Any], list[list[float]]]:
    """(raw rewards, advantages): for each of slime's samples one advantage for each token of its response.

    Args:
        args: slime's arguments, with the table `pass_shaping`.
        samples: all samples of a step, in any order; group_index says which belong together. A sample that is to be
            removed counts no token.

    Raises:
        MissingColumnError: a sample has no group_index.
    """
    shaping = shaping_config(getattr(args, "pass_shaping", None) or {})
    for number, sample in enumerate(samples):
        if sample.group_index is None:
            raise MissingColumnError(f"sample {number}: group_index is None, so it belongs to no group; set it")
    raw = [sample.get_reward_value(args) for sample in samples]
    lengths = [sample.response_length for sample in samples]
    mask = torch.zeros(len(samples), max(lengths, default=0), dtype=torch.bool)
    for row, sample in enumerate(samples):
        if not sample.remove_sample:
            counted = [1] * lengths[row] if sample.loss_mask is None else sample.loss_mask
            mask[row, : lengths[row]] = torch.as_tensor(counted, dtype=torch.bool)
    carried = Carried(
        streams=[(sample.metadata or {}).get(CARRIED) for sample in samples],
        lengths=lengths,
        teacher_minus_policy=_teacher_minus_policy(samples, mask),
    )
    outcome = torch.tensor([torch.nan if value is None else float(value) for value in raw])
    found = advantages_of(
        outcome, carried, mask=mask, group_index=[sample.group_index for sample in samples], shaping=shaping
    )
    return raw, [row[:length].tolist() for row, length in zip(found, lengths, strict=True)]


def advantages(args: Namespace, rollout_data: dict[str, Any]) -> None:  # noqa: ARG001 - slime's signature
    """Set rollout_data["advantages"] and ["returns"] of this rank's samples from what `reward_post_process` gave.

    With context parallelism each rank takes its part of the tokens, as slime cuts log-probabilities. What stood there
    as rewards becomes one number a sample, the mean, for slime's logs.
    """
    from slime.backends.megatron_utils.cp_utils import slice_log_prob_with_cp

    columns = (rollout_data[name] for name in ("rewards", "loss_masks", "total_lengths", "response_lengths"))
    found = [
        slice_log_prob_with_cp(torch.as_tensor(values, dtype=torch.float32, device=mask.device), total, response)
        for values, mask, total, response in zip(*columns, strict=True)
    ]
    rollout_data["advantages"] = rollout_data["returns"] = found
    rollout_data["rewards"] = [sum(values) / max(len(values), 1) for values in rollout_data["rewards"]]


def _teacher_minus_policy(samples: Sequence[Any], mask: torch.Tensor) -> torch.Tensor | None:
    if any(sample.teacher_log_probs is None or sample.rollout_log_probs is None for sample in samples):
        return None
    found = torch.zeros(mask.shape)
    for row, sample in enumerate(samples):
        teacher, policy = (
            torch.as_tensor(values, dtype=torch.float32)
            for values in (sample.teacher_log_probs, sample.rollout_log_probs)
        )
        found[row, : len(teacher)] = teacher - policy
    return found
