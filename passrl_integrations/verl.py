"""verl: the advantage estimator "pass", and the trainers and rewards that bring it what one reward channel cannot hold.

verl hands an advantage estimator one number for each token, `rm_scores`. The process signal therefore travels beside
it: a reward function returns `reward(...)`, verl stores the dictionary with the completion, and the trainers here (the
trainers of verl, "sync", "colocate_async" and "separate_async", with "pass_" before their names) read it back for the
estimator. Everything else stays verl's. In its configuration:

    algorithm.adv_estimator=pass  +algorithm.pass_shaping.weights.format=0.0  trainer.v1.trainer_mode=pass_sync

and VERL_USE_EXTERNAL_MODULES=passrl_integrations.verl in the environment, so that every process of verl imports this.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import torch

from pass_ops.errors import MissingColumnError
from passrl_integrations.carried import Carried, advantages_of, streams
from passrl_integrations.steps import Steps, shaping_config
from passrl_integrations.versions import require

VERSION = require("verl")

import transfer_queue as tq  # noqa: E402 - only where the release is known
from verl.trainer.ppo.core_algos import register_adv_est  # noqa: E402
from verl.trainer.ppo.v1.trainer_base import get_trainer_cls, register_trainer  # noqa: E402

NAME = "pass"
#: under this key a reward function's dictionary carries the streams; a string, which verl's metrics leave alone
CARRIED = "pass_streams"
MODES = ("sync", "colocate_async", "separate_async")


def reward(
    outcome: float | None,
    process: Steps | Sequence[float] | None = None,
    *,
    format: float | None = None,  # noqa: A002 - the method's word
    format_ok: bool | None = None,
    **extra: Any,
) -> dict[str, Any]:
    """What a reward function of verl (`reward.custom_reward_function`) returns, so that "pass" sees all streams.

    Args:
        outcome: the outcome reward; None where it could not be computed.
        process: (scores, ends) of the completion's steps, exclusive token ends; with signal "kl" one score a token;
            None where it could not be computed.
        format: the format reward, where the options use it.
        format_ok: whether the format is right, for the gate.
        extra: further entries for verl's metrics.
    """
    carried = json.dumps(streams(outcome, process, format=format, format_ok=format_ok))
    return {"score": 0.0 if outcome is None else float(outcome), CARRIED: carried, **extra}


_BESIDE: ContextVar[Carried | None] = ContextVar("passrl_beside_the_rewards", default=None)


@register_adv_est(NAME)
def pass_advantages(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    config: Any = None,
    index: Sequence[Any] | None = None,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(advantages, advantages), each [B, T]: the estimator that `algorithm.pass_shaping` describes.

    The outcome is the sum of a row's rewards, so that a KL penalty in the reward counts. With signal "kl" and no score
    from the reward function, the process signal is that of OPD with verl's reference model as the teacher.

    Raises:
        MissingColumnError: the options read a stream, and the trainer is none of those of this module.
    """
    options = None if config is None else config.get("pass_shaping", None)
    shaping = shaping_config({} if options is None else _plain(options))
    carried = _BESIDE.get()
    if carried is None and (shaping.reads_process or shaping.weights.format != 0.0):
        raise MissingColumnError(
            "the estimator 'pass' sees the rewards alone: verl keeps the process signal beside them for the trainers "
            f"{', '.join(f'pass_{mode}' for mode in MODES)}; set trainer.v1.trainer_mode to one of them"
        )
    advantages = advantages_of(
        token_level_rewards.float().sum(dim=-1), carried, mask=response_mask, group_index=index, shaping=shaping
    )
    return advantages, advantages


def _plain(options: Any) -> Mapping[str, Any]:
    """A table of verl's configuration as dictionaries."""
    from omegaconf import DictConfig, OmegaConf

    if isinstance(options, DictConfig):
        options = OmegaConf.to_container(options, resolve=True)
    found: Mapping[str, Any] = options
    return found


def streams_of(stored: Any) -> Mapping[str, Any] | None:
    """The streams that `reward` gave: in verl's `extra_fields` of a completion, or as the string alone."""
    kept = stored.get("reward_extra_info", {}).get(CARRIED) if isinstance(stored, Mapping) else stored
    found: Mapping[str, Any] | None = None if kept is None else json.loads(kept)
    return found


def finals(keys: Sequence[str]) -> list[bool]:
    """Which rows are the last output of their session, whose steps the reward function saw: key UID_SESSION_OUTPUT."""
    last: dict[str, int] = {}
    parts = [key.rsplit("_", 1) for key in keys]
    for session, output in parts:
        last[session] = max(last.get(session, 0), int(output))
    return [int(output) == last[session] for session, output in parts]


class CarriesStreams:
    """Mixed into a trainer of verl: while advantages are computed, the streams lie where the estimator finds them."""

    def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
        before = _BESIDE.set(beside(batch))
        try:
            return super()._compute_advantage(batch, metrics)  # type: ignore[misc]
        finally:
            _BESIDE.reset(before)


def beside(batch: Any) -> Carried:
    """What verl's store holds beside the rewards of `batch`."""
    fields = ["extra_fields", CARRIED, "response_mask", "old_log_probs", "ref_log_prob"]
    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
    stored = data[CARRIED] if CARRIED in data.keys() else data.get("extra_fields", None)  # noqa: SIM118 - a TensorDict
    entries = [None] * len(batch.keys) if stored is None else [getattr(entry, "data", entry) for entry in stored]
    teacher = None
    if "ref_log_prob" in data.keys():  # noqa: SIM118
        teacher = (data["ref_log_prob"] - data["old_log_probs"]).to_padded_tensor(0.0)
    return Carried(
        streams=[
            streams_of(entry) if final else None for entry, final in zip(entries, finals(batch.keys), strict=True)
        ],
        lengths=data["response_mask"].offsets().diff().tolist(),
        teacher_minus_policy=teacher,
    )


for _mode in MODES:
    register_trainer(f"{NAME}_{_mode}")(type(f"Pass_{_mode}", (CarriesStreams, get_trainer_cls(_mode)), {}))
