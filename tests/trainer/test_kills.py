"""SIGKILL at named points and at random times: what goes on from there ends bit for bit as if nothing had happened."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.rows import random_rows, split_groups, without_times, write_shaped
from trainer import TrainOptions, train
from trainer.checkpoint import complete_checkpoints, load_checkpoint
from trainer.distributed import ALONE
from trainer.model_folder import weights_digest
from trainer.policy import load_policy
from trainer.update import make_optimizer

ROWS = random_rows(groups=6, size=3)
OPTIONS = TrainOptions(
    lr=1e-3, warmup_steps=4, decay_share=0.5, batch_size=1, kl_coef=0.01, micro_batch_tokens=40, save_every=1,
    old_policy="recompute", device="cpu", tensorboard=False,
)  # fmt: skip
# Module, function, at which call, before or after it.
POINTS = {
    "before the run is claimed": ("trainer.run_folder", "write_json", 1, "before"),
    "after the run is claimed": ("trainer.run_folder", "write_json", 1, "after"),
    "while the old policy is recomputed": ("trainer.old_logprobs", "_write", 1, "after"),
    "after a step, before its checkpoint": ("trainer.metrics_log", "MetricsLog.write", 3, "after"),
    "with a checkpoint's folder made": ("trainer.checkpoint", "_make_anew", 2, "after"),
    "with its shards but no metadata": ("torch.distributed.checkpoint", "FileSystemWriter.finish", 2, "before"),
    "with all its files but no marker": ("trainer.checkpoint", "write_json", 2, "before"),
    "with its marker, the old ones not removed": ("trainer.checkpoint", "write_json", 3, "after"),
    "with an old marker removed, its files not": ("trainer.checkpoint", "shutil.rmtree", 4, "before"),
    "before the export": ("trainer.run", "export_policy", 1, "before"),
    "with the export not yet in its place": ("trainer.run", "export_policy", 1, "after"),
    "with the export in its place": ("trainer.run", "weights_digest", 1, "before"),
    "after the end": ("trainer.run", "write_json", 1, "after"),
}

Kill = Callable[..., int]


@pytest.fixture(scope="module")
def nursery() -> Iterator[Callable[[dict[str, Any]], int]]:
    """Runs one training in a process of its own; returns the signal that ended it."""
    command = [sys.executable, str(Path(__file__).with_name("nursery.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def run(given: dict[str, Any]) -> int:
            process.stdin.write(json.dumps(given) + "\n")
            return int(process.stdout.readline())

        yield run
        process.stdin.close()


@pytest.fixture(scope="module")
def shaped(tmp_path_factory) -> str:
    return write_shaped(str(tmp_path_factory.mktemp("data") / "shaped"), split_groups(ROWS, 2))


@pytest.fixture
def killed(nursery, shaped, policy_folder) -> Kill:
    """Trains into a folder until killed."""
    return lambda out, **how: nursery(
        {"shaped": shaped, "policy": policy_folder, "out": str(out), "options": asdict(OPTIONS), **how}
    )


def contents(folder: Path, policy: str) -> dict[str, Any]:
    """What a finished run leaves: export, metrics without times, weights and optimizer state of the last checkpoint."""
    model = load_policy(policy, OPTIONS).model
    optimizer = make_optimizer(model, OPTIONS)
    load_checkpoint(complete_checkpoints(folder / "state")[-1], model=model, optimizer=optimizer, world=ALONE)
    tensors = {f"{i}.{k}": v for i, state in optimizer.state_dict()["state"].items() for k, v in state.items()}
    return {
        "export": weights_digest(folder / "policy"),
        "metrics": without_times(folder),
        "checkpoints": [checkpoint.step for checkpoint in complete_checkpoints(folder / "state")],
        "tensors": {name: tensor.numpy().tobytes() for name, tensor in {**model.state_dict(), **tensors}.items()},
    }


def finished(folder: Path, shaped: str, policy: str) -> dict[str, Any]:
    train([shaped], policy=policy, out=str(folder), options=OPTIONS)
    return contents(folder, policy)


@pytest.fixture(scope="module")
def uninterrupted(shaped, policy_folder, tmp_path_factory) -> dict[str, Any]:
    return finished(tmp_path_factory.mktemp("whole"), shaped, policy_folder)


@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS)
def test_a_run_killed_at_a_point_goes_on_unchanged(killed, shaped, policy_folder, tmp_path, uninterrupted, point):
    assert killed(tmp_path / "killed", point=point) == signal.SIGKILL
    for checkpoint in complete_checkpoints(tmp_path / "killed" / "state"):  # whatever counts is whole
        model = load_policy(policy_folder, OPTIONS).model
        load_checkpoint(checkpoint, model=model, optimizer=make_optimizer(model, OPTIONS), world=ALONE)
    assert finished(tmp_path / "killed", shaped, policy_folder) == uninterrupted


def test_a_run_killed_again_and_again_ends_the_same(killed, shaped, policy_folder, tmp_path, uninterrupted):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    signals = [killed(tmp_path / "killed", after=rng.uniform(0.05, 1.5)) for _ in range(8)]
    assert set(signals) <= {0, signal.SIGKILL}
    assert finished(tmp_path / "killed", shaped, policy_folder) == uninterrupted


def test_the_random_state_of_the_process_plays_no_part(shaped, policy_folder, tmp_path, uninterrupted):
    torch.manual_seed(2)
    assert finished(tmp_path / "out", shaped, policy_folder) == uninterrupted
