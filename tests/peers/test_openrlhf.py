"""The patch on docs/how-to/keep-your-trainer.md on OpenRLHF's own experience maker: `make test-peers`.

OpenRLHF is installed without its dependencies (DeepSpeed, flash-attn and vLLM need a GPU): its packages are entered
without their `__init__`; DeepSpeed and the launcher of Ray workers are left out.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pages
import pyarrow as pa
import pytest
import torch

from pass_ops import ShapingConfig, Weights, shape, token_advantages

(PATCH,) = [body for title, body in pages.blocks(pages.DOCS / "how-to/keep-your-trainer.md", "python")
            if title == "openrlhf_patch.py"]  # fmt: skip
LENGTHS, GROUPS = [5, 3, 4, 2], ["0", "0", "1", "1"]
TEACHER = [[-0.1 * (row + 1) * (t + 1) for t in range(length)] for row, length in enumerate(LENGTHS)]
POLICY = [[-0.5 + 0.07 * t * (row - 1) for t in range(length)] for row, length in enumerate(LENGTHS)]
OUTCOME = [1.0, 0.0, 0.0, 1.0]


@pytest.fixture
def maker(monkeypatch):
    """OpenRLHF's module, patched as the page says."""
    root = Path(importlib.util.find_spec("openrlhf").submodule_search_locations[0])
    for name in ("models", "trainer", "trainer.ppo_utils", "trainer.ray", "utils"):
        package = ModuleType(f"openrlhf.{name}")
        package.__path__ = [str(root / name.replace(".", "/"))]
        monkeypatch.setitem(sys.modules, package.__name__, package)
    launcher = ModuleType("openrlhf.trainer.ray.launcher")
    launcher.RayActorGroup = object
    for absent in (launcher, ModuleType("deepspeed")):
        monkeypatch.setitem(sys.modules, absent.__name__, absent)
    module = importlib.import_module("openrlhf.trainer.ppo_utils.experience_maker")
    exec(PATCH, {})
    return module


def padded(rows, width):
    return torch.tensor([[*row, *[0.0] * (width - len(row))] for row in rows])


def experience(module, which):
    """A micro-batch as `make_experience` leaves it, in the width of its longest."""
    width = max(LENGTHS[row] for row in which)
    mask = padded([[1.0] * LENGTHS[row] for row in which], width)
    return module.Experience(
        index=which, rewards=torch.tensor([OUTCOME[row] for row in which]), action_mask=mask,
        base_action_log_probs=padded([TEACHER[row] for row in which], width), kl=torch.zeros_like(mask),
        action_log_probs=padded([POLICY[row] for row in which], width), info={},
    )  # fmt: skip


def test_openrlhfs_experience_maker_has_our_advantages_and_its_own_logs(maker):
    made = maker.RemoteExperienceMaker.__new__(maker.RemoteExperienceMaker)
    made.advantage_estimator, made.kl_ctl = "group_norm", SimpleNamespace(value=0.0)
    algorithm = SimpleNamespace(advantage=SimpleNamespace(estimator="group_norm", gamma=1.0, lambd=1.0))
    rollout = SimpleNamespace(n_samples_per_prompt=2, max_new_tokens=8)
    made.strategy = SimpleNamespace(
        args=SimpleNamespace(rollout=rollout, reward=SimpleNamespace(clip_range=None), algo=algorithm)
    )
    table = pa.table(
        {
            "group_id": GROUPS, "loss_mask": [[True] * length for length in LENGTHS],
            "process_scores": pa.array(
                [[t - p for t, p in zip(*rows, strict=True)] for rows in zip(TEACHER, POLICY, strict=True)],
                pa.list_(pa.float32()),
            ),
            "outcome_reward": pa.array(OUTCOME, pa.float32()),
        }
    )  # fmt: skip
    config = ShapingConfig(signal="kl", weights=Weights(format=0.0))
    wanted = token_advantages(shape(table, config)).to_pylist()
    for done in made.compute_advantages_and_returns([experience(maker, which) for which in ([2, 0, 1], [3])]):
        assert {"return", "group_reward_std"} <= done.info.keys()
        for row, found in zip(done.index, done.advantages, strict=True):
            assert found[: LENGTHS[row]].tolist() == pytest.approx(wanted[row], abs=1e-6)
            assert not found[LENGTHS[row] :].any()
