"""What a run shows: TensorBoard, a tracker, one line a step, the share of the device's peak."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch

from pass_ops.support.extras import MissingExtraError
from tests.trainer.rows import random_rows, split_groups
from trainer import TrainOptions, train
from trainer.flops import flops_per_token, token_share
from trainer.metrics import describe_step, read_metrics
from trainer.policy import load_policy

ROWS = random_rows(groups=6, size=3)
OPTIONS = TrainOptions(
    lr=1e-3, warmup_steps=0, batch_size=2, kl_coef=0.01, micro_batch_tokens=40, save_every=2, device="cpu",
    tensorboard=False, epochs=2,
)  # fmt: skip
# A run that is interrupted after three steps and goes on from the checkpoint after the second.
TRACKED = """
import json, sys
from trainer import TrainOptions, train
arguments = json.loads(sys.argv[1])
def stop(done, total, note):
    if done == 3:
        raise KeyboardInterrupt
for progress in (stop, None):
    try:
        train([arguments["shaped"]], policy=arguments["policy"], out=arguments["out"],
              options=TrainOptions(**arguments["options"]), progress=progress)
    except KeyboardInterrupt:
        pass
"""


@pytest.fixture
def shaped(make_shaped) -> str:
    return make_shaped(split_groups(ROWS, 2))


def test_events_hold_the_same_numbers(shaped, policy_folder, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train([shaped], policy=policy_folder, out=str(tmp_path / "out"), options=replace(OPTIONS, tensorboard=True))
    events = EventAccumulator(str(tmp_path / "out" / "tensorboard")).Reload()
    found = [(event.step, event.value) for event in events.Scalars("train/loss")]
    expected = [(line["update"], line["loss"]) for line in read_metrics(tmp_path / "out")]
    assert found == [(step, pytest.approx(value)) for step, value in expected]


def test_a_tracker_gets_every_step_once_though_the_run_was_resumed(shaped, policy_folder, tmp_path):
    arguments = {
        "shaped": shaped, "policy": policy_folder, "out": str(tmp_path / "out"),
        "options": asdict(OPTIONS) | {"save_every": 2, "tensorboard": False, "tracker": "trackio"},
    }  # fmt: skip
    subprocess.run(
        [sys.executable, "-c", TRACKED, json.dumps(arguments)],
        check=True,
        timeout=500,
        env=os.environ | {"TRACKIO_DIR": str(tmp_path / "store")},
    )
    rows = sqlite3.connect(tmp_path / "store" / "passrl.db").execute("select run_name, step, metrics from metrics")
    runs, steps, values = zip(*rows.fetchall(), strict=True)
    assert len(set(runs)) == 1
    assert steps == (1, 2, 3, 4, 5, 6)
    expected = [line["loss"] for line in read_metrics(tmp_path / "out")]
    assert [json.loads(value)["train/loss"] for value in values] == pytest.approx(expected)


def test_a_tracker_that_is_not_installed_is_named_with_its_extra(shaped, policy_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtraError, match=r"passrl\[wandb\]"):
        train([shaped], policy=policy_folder, out=str(tmp_path / "out"), options=replace(OPTIONS, tracker="wandb"))


def test_the_line_for_people_tells_what_matters_and_leaves_out_what_is_not_there(shaped, policy_folder, tmp_path):
    notes = []
    train(
        [shaped], policy=policy_folder, out=str(tmp_path / "out"), options=OPTIONS,
        progress=lambda done, total, note: notes.append(note),
    )  # fmt: skip
    assert len(notes) == 6
    assert notes[0].startswith("step 1/6  loss ")
    assert "tokens/s" in notes[0]
    line = read_metrics(tmp_path / "out")[0] | {"kl": None, "rejected": 0.25, "mfu": 0.4, "data_wait": 1, "seconds": 4}
    shown = describe_step(line, 6)
    assert "kl" not in shown
    assert shown.endswith("MFU 40%  waited 25% for data")
    assert "rejected 25.0%" in shown


def test_the_share_of_the_peak_counts_six_flops_a_parameter(policy_folder, tied_policy_folder):
    untied, tied = (load_policy(folder, OPTIONS).model for folder in (policy_folder, tied_policy_folder))
    parameters = sum(p.numel() for p in tied.parameters())  # one embedding, which is the head too
    assert flops_per_token(untied) == flops_per_token(tied) == 6 * parameters
    cpu = torch.device("cpu")
    assert token_share(tied, cpu, torch.float32, None) is None
    assert token_share(tied, cpu, torch.float32, 2.0) == pytest.approx(6 * parameters / 2e12)


def test_the_peak_of_a_known_gpu_is_taken_from_its_name(policy_folder, monkeypatch):
    model = load_policy(policy_folder, OPTIONS).model
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    gpu = SimpleNamespace(type="cuda")
    assert token_share(model, gpu, torch.bfloat16, None) == pytest.approx(flops_per_token(model) / 989e12)
    assert token_share(model, gpu, torch.float32, None) is None
