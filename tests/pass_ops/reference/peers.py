"""Numbers from other projects' own code, for tests/pass_ops/test_published_methods.py. Run in a throwaway environment:

    python -m venv peers
    peers/bin/pip install verl==0.9.1 torch ray tensordict omegaconf
    peers/bin/python tests/pass_ops/reference/peers.py verl > tests/pass_ops/reference/verl.json
    git clone https://github.com/PRIME-RL/PRIME && git -C PRIME checkout 18ad596f08d487bb546d80d738d99ec697bd2e75
    peers/bin/python tests/pass_ops/reference/peers.py PRIME/training > tests/pass_ops/reference/prime.json

PRIME's folder brings its own old `verl`, so the two are never imported together.
"""

from __future__ import annotations

import json
import random
import sys
from types import SimpleNamespace

import torch

ROLLOUTS_A_PROMPT = 4
RM_COEF = 5.0  # as in PRIME's run_prime_main.sh: the scores are multiplied with it before they get here


def make_rollouts() -> list[dict]:
    """Two prompts with four rollouts each; one score a token; rewards and a format that do not agree."""
    rng = random.Random(0)
    return [
        {
            "group_id": f"prompt-{i // ROLLOUTS_A_PROMPT}",
            "scores": [round(rng.gauss(0.1 * (i % 3), 1.0), 3) for _ in range(rng.randint(1, 6))],
            "outcome": float(rng.random() < 0.4 + 0.2 * (i // ROLLOUTS_A_PROMPT)),
            "format": round(rng.random(), 3),
        }
        for i in range(2 * ROLLOUTS_A_PROMPT)
    ]


def padded(rows: list[list[float]], dtype: torch.dtype) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [0.0] * (longest - len(row)) for row in rows], dtype=dtype)


def at_the_end(rollouts: list[dict], values: list[float], dtype: torch.dtype) -> torch.Tensor:
    return padded([[0.0] * (len(r["scores"]) - 1) + [x] for r, x in zip(rollouts, values, strict=True)], dtype)


def batch(rollouts: list[dict]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    mask = padded([[1.0] * len(r["scores"]) for r in rollouts], torch.float64).long()
    prompts = torch.zeros((len(rollouts), 2), dtype=torch.long)
    attention = torch.cat([torch.ones_like(prompts), mask], dim=1)
    return mask, {"prompts": prompts, "attention_mask": attention, "responses": torch.zeros_like(mask)}


def unpadded(values: torch.Tensor, rollouts: list[dict]) -> list[list[float]]:
    return [row[: len(r["scores"])] for row, r in zip(values.tolist(), rollouts, strict=True)]


def by_verl(rollouts: list[dict]) -> dict[str, list[list[float]]]:
    import numpy as np
    from verl.trainer.ppo import core_algos

    mask, extra = batch(rollouts)
    groups = np.array([r["group_id"] for r in rollouts])
    summed = at_the_end(rollouts, [r["outcome"] + r["format"] for r in rollouts], torch.float64)
    given = {"token_level_rewards": summed, "response_mask": mask, "index": groups}
    rewards = {name: np.array([r[name] for r in rollouts]) for name in ("outcome", "format")}
    found = {
        "grpo": core_algos.compute_grpo_outcome_advantage(**given),
        "grpo without std": core_algos.compute_grpo_outcome_advantage(**given, norm_adv_by_std_in_grpo=False),
        "rloo": core_algos.compute_rloo_outcome_advantage(**(given | {"token_level_rewards": summed.clone()})),
        "gdpo": core_algos.compute_gdpo_outcome_advantage(
            **given,
            config={"gdpo_reward_keys": ["outcome", "format"], "gdpo_reward_weights": [1.0, 0.5]},
            non_tensor_batch=rewards,
            batch=extra,
        ),
    }
    return {name: unpadded(advantages, rollouts) for name, (advantages, _) in found.items()}


def by_prime(rollouts: list[dict]) -> dict[str, list[list[float]]]:
    """A batch of one prompt at a time, since PRIME's code whitens over the batch; the last is that of both prompts."""
    from verl.trainer.ppo import core_algos

    ones = SimpleNamespace(reward_model_gamma=1.0, verifier_gamma=1.0)
    config = SimpleNamespace(algorithm=SimpleNamespace(adv_params=ones))

    def run(some: list[dict]) -> list[list[float]]:
        mask, extra = batch(some)
        sources = {
            "rm_scores": padded([[RM_COEF * s for s in r["scores"]] for r in some], torch.float64),
            "gt_scores": at_the_end(some, [r["outcome"] for r in some], torch.float64),
        }
        data = SimpleNamespace(batch=extra | sources)
        advantages, _ = core_algos.compute_rloo_returns(data, mask, ROLLOUTS_A_PROMPT, config)
        return unpadded(advantages, some)

    first, second = rollouts[:ROLLOUTS_A_PROMPT], rollouts[ROLLOUTS_A_PROMPT:]
    return {"prime": run(first) + run(second), "prime over the batch": run(rollouts)}


def main() -> None:
    source = sys.argv[1]
    if source != "verl":
        sys.path.insert(0, source)
    rollouts = make_rollouts()
    found = by_verl(rollouts) if source == "verl" else by_prime(rollouts)
    digits = {name: [[round(x, 9) for x in row] for row in rows] for name, rows in found.items()}
    lines = [f"{json.dumps(name)}: {json.dumps(rows)}" for name, rows in {"rollouts": rollouts, **digits}.items()]
    print("{\n" + ",\n".join(lines) + "\n}")


if __name__ == "__main__":
    main()
