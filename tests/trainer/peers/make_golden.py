"""Losses and gradients of TRL and verl on one stored batch, for `tests/trainer/test_peers.py`.

Each peer runs in a throwaway environment of its own, next to nothing of this project:

    python -m venv /somewhere/trl && /somewhere/trl/bin/pip install trl==1.16.0
    /somewhere/trl/bin/python tests/trainer/peers/make_golden.py trl
    python -m venv /somewhere/verl && /somewhere/verl/bin/pip install verl==0.9.1
    /somewhere/verl/bin/python tests/trainer/peers/make_golden.py verl

Writes trl.json and verl.json beside this file: versions, and for each case of ours its loss and d loss / d logprobs.
The batch (batch.json) is made by `make_golden.py batch`. TRL's trainer runs its own `_compute_loss`; only its forward
pass is replaced, by the stored log-probabilities.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

HERE = Path(__file__).parent
ROLLOUTS, WIDTH = 6, 11
# A case: our TrainOptions that differ from the defaults -> how the peer says the same.
CLIP = {"clip_low": 0.2, "clip_high": 0.28}
TRL_CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "grpo": ({**CLIP}, {"loss_type": "grpo"}),
    "grpo, KL": ({**CLIP, "kl_coef": 0.04}, {"loss_type": "grpo", "beta": 0.04}),
    "grpo, delta": ({**CLIP, "dual_clip": 1.5}, {"loss_type": "grpo", "delta": 1.5}),
    "bnpo": ({**CLIP, "aggregation": "token_mean"}, {"loss_type": "bnpo"}),
    "dapo": ({**CLIP, "aggregation": "token_mean"}, {"loss_type": "dapo"}),
    "dr_grpo": (
        {**CLIP, "aggregation": "constant", "aggregation_constant": float(WIDTH)}, {"loss_type": "dr_grpo"},
    ),
    "cispo": (
        {"loss": "cispo", "clip_low": 1.0, "clip_high": 0.28, "aggregation": "token_mean"},
        {"loss_type": "cispo", "epsilon_high": 1.28},
    ),
    "gspo": ({**CLIP, "loss": "gspo"}, {"loss_type": "grpo", "importance_sampling_level": "sequence"}),
}  # fmt: skip
TOKEN_MEAN = {"old_policy": "recompute", "aggregation": "token_mean", **CLIP}
VERL_CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "vanilla, token-mean": ({**CLIP, "dual_clip": 3.0, "aggregation": "token_mean"}, {"agg": "token-mean"}),
    "vanilla, seq-mean-token-mean": ({**CLIP, "dual_clip": 3.0}, {"agg": "seq-mean-token-mean"}),
    "vanilla, seq-mean-token-sum-norm": (
        {**CLIP, "dual_clip": 3.0, "aggregation": "constant", "aggregation_constant": 7.0},
        {"agg": "seq-mean-token-sum-norm"},
    ),
    "gspo": ({**CLIP, "loss": "gspo"}, {"loss": "gspo", "agg": "seq-mean-token-mean"}),
    "cispo": ({**CLIP, "loss": "cispo", "aggregation": "token_mean"}, {"loss": "cispo", "agg": "token-mean"}),
    **{
        f"KL {name}": (
            {**CLIP, "dual_clip": 3.0, "kl_coef": 0.05, "kl_estimator": name},
            {"agg": "seq-mean-token-mean", "kl": name},
        )
        for name in ("k1", "k2", "k3", "abs")
    },
    "decoupled, TIS by token": (
        {**TOKEN_MEAN, "dual_clip": 3.0, "importance": "token", "importance_cap": 1.5},
        {"agg": "token-mean", "decoupled": True, "rollout_is": "token", "rollout_is_threshold": 1.5},
    ),
    "decoupled, TIS by sequence": (
        {**TOKEN_MEAN, "dual_clip": 3.0, "importance": "sequence", "importance_cap": 1.5},
        {"agg": "token-mean", "decoupled": True, "rollout_is": "sequence", "rollout_is_threshold": 1.5},
    ),
    "decoupled, IcePop": (
        {**TOKEN_MEAN, "dual_clip": 3.0, "importance": "token", "importance_cap": 1e9, "reject": "token",
         "reject_low": 0.8, "reject_high": 1.5},
        {"agg": "token-mean", "decoupled": True, "rollout_is": "token", "rollout_is_threshold": "0.8_1.5"},
    ),
    # verl's k1 is -log ratio, so that its bounds are those of the inverse ratio.
    "decoupled, token mask": (
        {**TOKEN_MEAN, "dual_clip": 3.0, "reject": "token", "reject_low": 0.8, "reject_high": 1.5},
        {"agg": "token-mean", "decoupled": True, "rollout_rs": "token_k1",
         "rollout_rs_threshold": f"{1 / 1.5}_{1 / 0.8}"},
    ),
    "decoupled, sequence mask": (
        {**TOKEN_MEAN, "dual_clip": 3.0, "reject": "sequence", "reject_low": 0.7, "reject_high": 1.8},
        {"agg": "token-mean", "decoupled": True, "rollout_rs": "seq_sum_k1",
         "rollout_rs_threshold": f"{1 / 1.8}_{1 / 0.7}"},
    ),
    "decoupled, geometric mask": (
        {**TOKEN_MEAN, "dual_clip": 3.0, "reject": "geometric", "reject_low": 0.97, "reject_high": 1.05},
        {"agg": "token-mean", "decoupled": True, "rollout_rs": "seq_mean_k1",
         "rollout_rs_threshold": f"{1 / 1.05}_{1 / 0.97}"},
    ),
    "bypass, REINFORCE, TIS by token": (
        {"loss": "policy_gradient", "importance": "token", "importance_cap": 1.2, "aggregation": "token_mean"},
        {"loss": "bypass_mode", "agg": "token-mean", "loss_type": "reinforce", "rollout_is": "token",
         "rollout_is_threshold": 1.2},
    ),
}  # fmt: skip


def make_batch() -> dict[str, Any]:
    """Random rollouts of unequal length; every list is [ROLLOUTS][tokens] but `mask`, which covers WIDTH."""
    generator = torch.Generator().manual_seed(0)

    def normal(scale: float) -> torch.Tensor:
        return torch.randn(ROLLOUTS, WIDTH, generator=generator) * scale

    lengths = torch.tensor([11, 4, 7, 2, 9, 6])
    mask = torch.arange(WIDTH) < lengths.unsqueeze(1)
    mask[0, 5] = False  # a token the policy did not choose
    logprobs = -(torch.rand(ROLLOUTS, WIDTH, generator=generator) * 3 + 0.1)
    old = logprobs + normal(0.25)
    behavior, advantages = old + normal(0.2), normal(1.0)
    behavior[0, 0], advantages[0, 0] = logprobs[0, 0] - 1.4, -0.7  # a bad token that rose beyond a dual clip of 3
    values = {
        "logprobs": logprobs, "old": old, "behavior": behavior, "reference": logprobs + normal(0.3),
        "advantages": advantages, "rollout_advantages": normal(1.0)[:, :1].expand(-1, WIDTH),
    }  # fmt: skip
    return {"mask": mask.int().tolist(), **{name: value.tolist() for name, value in values.items()}}


def read_batch() -> dict[str, torch.Tensor]:
    """The stored batch, [ROLLOUTS, WIDTH]."""
    stored = json.loads((HERE / "batch.json").read_text(encoding="utf-8"))
    return {name: torch.tensor(value, dtype=torch.float32) for name, value in stored.items()}


def of_trl(ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and gradient of TRL's GRPOTrainer, old log-probabilities being the sampler's."""
    from trl.trainer.grpo_trainer import GRPOTrainer

    batch = read_batch()
    logprobs = batch["logprobs"].requires_grad_()
    trainer = GRPOTrainer.__new__(GRPOTrainer)
    settings = {
        "loss_type": "grpo", "beta": 0.0, "importance_sampling_level": "token", "epsilon_low": 0.2,
        "epsilon_high": 0.28, "off_policy_mask_threshold": None, "top_entropy_quantile": 1.0, "use_vllm": False,
        "aux_loss_enabled": False, "_entropy_bonus_enabled": False, "max_completion_length": WIDTH,
        "current_gradient_accumulation_steps": 1, "model": SimpleNamespace(training=True),
        "args": SimpleNamespace(delta=theirs.get("delta"), use_bias_correction_kl=False, steps_per_generation=1),
        "accelerator": SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x,
                                       gather_for_metrics=lambda x: x, sync_gradients=True),
        "_metrics": {"train": defaultdict(list)},
    }  # fmt: skip
    for name, value in (settings | {k: v for k, v in theirs.items() if k != "delta"}).items():
        trainer.__dict__[name] = value
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (logprobs, torch.zeros_like(logprobs), None)
    mask = batch["mask"].int()
    gspo = ours.get("loss") == "gspo"
    inputs = {
        "prompt_ids": mask[:, :1], "prompt_mask": mask[:, :1], "completion_ids": mask, "completion_mask": mask,
        "advantages": batch["rollout_advantages"][:, 0] if gspo else batch["advantages"],
        "old_per_token_logps": batch["behavior"], "ref_per_token_logps": batch["reference"],
        "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    loss = trainer._compute_loss(trainer.model, inputs)
    return loss, torch.autograd.grad(loss, logprobs)[0]


def of_verl(ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and gradient of verl's policy losses, corrections and KL penalties."""
    from verl.trainer.config.algorithm import RolloutCorrectionConfig
    from verl.trainer.ppo.core_algos import agg_loss, get_policy_loss_fn, kl_penalty
    from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_and_rejection_mask
    from verl.workers.config.actor import ActorConfig, PolicyLossConfig

    batch = read_batch()
    logprobs, mask = batch["logprobs"].requires_grad_(), batch["mask"]
    old = batch["old"] if theirs.get("decoupled") else batch["behavior"]
    correction = {k: v for k, v in theirs.items() if k.startswith("rollout_") or k == "loss_type"}
    weights = None
    config = ActorConfig(
        strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, clip_ratio=0.2, clip_ratio_low=0.2,
        clip_ratio_high=0.28, clip_ratio_c=3.0,
        policy_loss=PolicyLossConfig(rollout_correction=RolloutCorrectionConfig(**correction)),
    )  # fmt: skip
    info = {"dp_size": 1, "batch_num_tokens": mask.sum(), "global_batch_size": ROLLOUTS}
    config.global_batch_info.update(info | ({"loss_scale_factor": 7} if "norm" in theirs["agg"] else {}))
    if correction and theirs.get("loss") != "bypass_mode":
        proto, mask, _ = compute_rollout_correction_and_rejection_mask(old, batch["behavior"], mask, **correction)
        weights = None if proto is None else proto.batch["rollout_is_weights"]
    advantages = batch["rollout_advantages"] if theirs.get("loss") == "gspo" else batch["advantages"]
    loss, _ = get_policy_loss_fn(theirs.get("loss", "vanilla"))(
        old_log_prob=old, log_prob=logprobs, advantages=advantages, response_mask=mask,
        loss_agg_mode=theirs["agg"], config=config, rollout_is_weights=weights,
    )  # fmt: skip
    if "kl" in theirs:
        values = kl_penalty(logprobs, batch["reference"], theirs["kl"])
        loss = loss + ours["kl_coef"] * agg_loss(values, mask, theirs["agg"], **config.global_batch_info)
    return loss, torch.autograd.grad(loss, logprobs)[0]


PEERS = {"trl": (TRL_CASES, of_trl), "verl": (VERL_CASES, of_verl)}


def main(what: str) -> None:
    """Writes batch.json, trl.json or verl.json."""
    if what == "batch":
        content: dict[str, Any] = make_batch()
    else:
        cases, run = PEERS[what]
        content = {"versions": {name: version(name) for name in (what, "torch")}, "cases": {}}
        for name, (ours, theirs) in cases.items():
            loss, gradient = run(ours, theirs)
            content["cases"][name] = {"options": ours, "loss": loss.item(), "gradient": gradient.tolist()}
    (HERE / f"{what}.json").write_text(json.dumps(content) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
