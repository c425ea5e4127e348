"""What the checks measure is the trainer's own update, and the rollouts they count are those it took."""

from __future__ import annotations

import itertools
import json

import pytest

from pass_ops.shards import open_dataset
from pipelines.gpu_check.base import CheckOptions, Machine
from pipelines.gpu_check.models import model_folder
from pipelines.gpu_check.training import measure_update, train_options, write_rollouts
from pipelines.gpu_check.workload import write_order
from trainer import load_policy, make_optimizer, train
from trainer.metrics import read_metrics

CPU = Machine(device="cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Model, shaped dataset and options of the CPU checks."""
    options = CheckOptions(out=str(tmp_path_factory.mktemp("gpu-check")))
    return model_folder(CPU, options, "tiny"), write_rollouts(CPU, options, "tiny"), train_options(CPU)


def test_the_measured_steps_are_those_of_a_training(data, tmp_path):
    folder, shaped, options = data
    policy = load_policy(folder, options)
    measured = measure_update(policy, make_optimizer(policy.model, options), shaped, options)
    train([shaped], policy=folder, out=str(tmp_path / "train"), options=options)
    lines = read_metrics(tmp_path / "train")
    assert measured.norms[0] == pytest.approx(lines[0]["grad_norm"], rel=1e-6)
    assert len(measured.norms) == len(lines) == options.updates
    rows = open_dataset(shaped)
    tables = [rows.read_part(part) for part in range(1, rows.spec.parts)]
    lengths = [len(ids) for table in tables for name in ("prompt_token_ids", "token_ids") for ids in table[name]]
    taken = measured.tokens_per_second * sum(measured.seconds[1:])
    assert taken == pytest.approx(sum(lengths), rel=0.2)  # which rollouts the first step has is up to the seed


def test_the_order_for_another_trainer_holds_every_rollout_once(data, tmp_path):
    _, shaped, options = data
    write_order(shaped, tmp_path / "order.json", options)
    order = list(itertools.chain(*json.loads((tmp_path / "order.json").read_text())))
    dataset = open_dataset(shaped)
    stored = [row for part in range(dataset.spec.parts) for row in dataset.read_part(part)["rollout_id"].to_pylist()]
    assert sorted(order) == sorted(stored)
