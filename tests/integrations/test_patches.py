"""The patches on docs/how-to/keep-your-trainer.md work on objects with the fields of the trainers' sources."""

from __future__ import annotations

import ast
import sys
from types import ModuleType, SimpleNamespace

import pyarrow as pa
import pytest
import torch

from pass_ops import ShapingConfig, Weights, shape, token_advantages
from passrl_integrations import versions
from tests.docs.pages import DOCS, blocks

PAGE = DOCS / "how-to" / "keep-your-trainer.md"
BLOCKS = {title: body for title, body in blocks(PAGE, "python") if title}
SHAPING = ShapingConfig(signal="kl", weights=Weights(format=0.0))
LENGTHS = [5, 3, 4, 2]
TEACHER = [[-0.1 * (row + 1) * (t + 1) for t in range(length)] for row, length in enumerate(LENGTHS)]
POLICY = [[-0.5 + 0.07 * t * (row - 1) for t in range(length)] for row, length in enumerate(LENGTHS)]
OUTCOME = [1.0, 0.0, 0.0, 1.0]


def expected(groups: list[int]) -> list[list[float]]:
    order = sorted(range(4), key=groups.__getitem__)
    scores = [[t - p for t, p in zip(TEACHER[row], POLICY[row], strict=True)] for row in order]
    table = pa.table(
        {
            "group_id": [str(groups[row]) for row in order],
            "loss_mask": [[True] * LENGTHS[row] for row in order],
            "process_scores": pa.array(scores, pa.list_(pa.float32())),
            "outcome_reward": pa.array([OUTCOME[row] for row in order], pa.float32()),
        }
    )
    found = dict(zip(order, token_advantages(shape(table, SHAPING)).to_pylist(), strict=True))
    return [found[row] for row in range(4)]


def padded(rows, *, left=0, width=5) -> torch.Tensor:
    return torch.tensor([[0.0] * left + [*row, *[0.0] * (width - len(row))] for row in rows])


@pytest.fixture(autouse=True)
def _named_versions(monkeypatch):
    monkeypatch.setattr(versions, "version", {"nemo-rl": "0.7.0", "openrlhf": "0.11.2"}.__getitem__)


def module(monkeypatch, name, **members):
    """A module that can be imported, with those above it."""
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        at = ".".join(parts[:depth])
        made = sys.modules.get(at) or ModuleType(at)
        monkeypatch.setitem(sys.modules, at, made)
        if depth > 1:
            monkeypatch.setattr(sys.modules[".".join(parts[: depth - 1])], parts[depth - 1], made, raising=False)
    for key, value in members.items():
        setattr(sys.modules[name], key, value)
    return sys.modules[name]


def test_every_python_block_of_the_page_is_python():
    assert {"train_trl.py", "my_reward.py", "main_pass.py", "nemo_rl_patch.py", "openrlhf_patch.py"} <= BLOCKS.keys()
    for title, body in BLOCKS.items():
        ast.parse(body, title)


def test_the_patch_of_nemo_rl(monkeypatch):
    """Called as nemo_rl/algorithms/grpo.py (0.6, 0.7) calls it: whole sequences, here after a prompt of two tokens."""
    grpo = module(monkeypatch, "nemo_rl.algorithms.grpo", _create_advantage_estimator=None)
    exec(BLOCKS["nemo_rl_patch.py"], {})
    found = grpo._create_advantage_estimator(SimpleNamespace()).compute_advantage(
        prompt_ids=torch.tensor([[5, 6], [7, 8], [5, 6], [7, 8]]), rewards=torch.tensor(OUTCOME),
        mask=padded([[1.0] * length for length in LENGTHS], left=2), repeated_batch={},
        logprobs_policy=padded(POLICY, left=2), logprobs_reference=padded(TEACHER, left=2),
    )  # fmt: skip
    for row, wanted in enumerate(expected([0, 1, 0, 1])):
        assert found[row].tolist() == pytest.approx([0.0, 0.0, *wanted, *[0.0] * (5 - len(wanted))], abs=1e-5)


def test_the_patch_of_openrlhf(monkeypatch):
    """On two micro-batches of other widths and in another order, as its experience maker (0.11) holds them."""

    class RemoteExperienceMaker:
        strategy = SimpleNamespace(args=SimpleNamespace(rollout=SimpleNamespace(n_samples_per_prompt=2)))

        def compute_advantages_and_returns(self, experiences):
            for experience in experiences:
                experience.advantages, experience.info = torch.zeros_like(experience.action_mask), {"return": 1}
            return experiences

    module(
        monkeypatch, "openrlhf.trainer.ppo_utils.experience_maker", RemoteExperienceMaker=RemoteExperienceMaker
    )  # fmt: skip
    exec(BLOCKS["openrlhf_patch.py"], {})
    rollouts, experiences = [[2, 0, 1], [3]], []
    for index in rollouts:
        width = max(LENGTHS[row] for row in index)
        experiences.append(
            SimpleNamespace(
                index=index, rewards=torch.tensor([OUTCOME[row] for row in index]),
                action_mask=padded([[1.0] * LENGTHS[row] for row in index], width=width),
                base_action_log_probs=padded([TEACHER[row] for row in index], width=width),
                action_log_probs=padded([POLICY[row] for row in index], width=width),
            )
        )  # fmt: skip
    wanted = expected([0, 0, 1, 1])
    for experience in RemoteExperienceMaker().compute_advantages_and_returns(experiences):
        assert experience.info == {"return": 1}
        for row, found in zip(experience.index, experience.advantages, strict=True):
            assert found.tolist() == pytest.approx([*wanted[row], *[0.0] * (len(found) - len(wanted[row]))], abs=1e-5)
        assert experience.returns is experience.advantages
