"""`passrl inspect RUN`: the rounds' trainings as a table and a picture."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from pipelines.cli.parser import main
from pipelines.inspect.views.training import (
    NoTrainingError,
    is_training,
    read_trainings,
    training_picture,
    training_rows,
)
from pipelines.runs.lineage import record_round


def step(number: int, **changes) -> dict:
    """A line of metrics.jsonl."""
    shares = {"clip_low": 0.01, "clip_high": 0.02, "rejected": 0.0}
    ratios = {
        "ratio_mean": 1.0,
        "ratio_min": 0.5,
        "ratio_p01": 0.9,
        "ratio_p50": 1.0,
        "ratio_p99": 1.1,
        "ratio_max": 2.0,
    }
    advantages = {f"advantage_{name}": value for name, value in
                  {"mean": 0.0, "min": -2.0, "p05": -1.0, "p50": 0.0, "p95": 1.0, "max": 2.0}.items()}  # fmt: skip
    counts = {"rollouts": 8, "tokens": 80, "dropped_tokens": 0, "masked_rollouts": 0, "fed_tokens": 100, "padding": 0.0}
    line = {
        "step": number, "update": number, "epoch": 0, "loss": -0.5, "policy_loss": -0.5, "kl": None, **shares, **ratios,
        **advantages, **counts, "mismatch": None, "importance_mean": None, "importance_max": None, "behavior_kl": 0.001,
        "entropy": 0.4, "grad_norm": 1.5, "lr": 1e-3, "seconds": 2.0, "data_wait": 0.01, "tokens_per_second": 50.0,
        "mfu": None,
    }  # fmt: skip
    return line | changes


@pytest.fixture
def run(tmp_path):
    """A RUN of two rounds with three steps each."""
    for index in range(2):
        folder = tmp_path / f"round-{index:03d}" / "train"
        folder.mkdir(parents=True)
        lines = [step(s, update=3 * index + s, loss=-0.1 * index) for s in (1, 2, 3)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        record_round(str(tmp_path), index, {"metrics": {"eval": {"held-out": {"pass@1": 0.5 + index / 10}}}})
    return tmp_path


def test_each_round_is_a_row_with_its_means_and_its_evaluation(run):
    rows = training_rows(read_trainings(str(run)))
    assert [row["round"] for row in rows] == ["round-000", "round-001"]
    assert [row["steps"] for row in rows] == [3, 3]
    assert [row["loss"] for row in rows] == [pytest.approx(0.0), pytest.approx(-0.1)]
    assert [row["pass@1 held-out"] for row in rows] == [0.5, 0.6]


def test_rounds_stand_in_order_of_their_numbers(run):
    for index in (101, 1000):
        shutil.copytree(run / "round-001", run / f"round-{index}")
    record_round(str(run), 1000, {"metrics": {"eval": {"held-out": {"pass@1": 0.9}}}})
    found = read_trainings(str(run))
    assert [training.name for training in found] == ["round-000", "round-001", "round-101", "round-1000"]
    assert found[-1].pass_at_1 == {"held-out": 0.9}


def test_the_picture_has_a_panel_a_kind_of_number_and_is_the_same_each_time(run):
    picture = training_picture(read_trainings(str(run)))
    assert picture == training_picture(read_trainings(str(run)))
    texts = re.findall(r">([^<>\n]+)</text>", picture.decode())
    for title in ("loss", "KL", "ratio", "share of tokens", "entropy, nats", "advantage", "gradient norm"):
        assert title in texts
    assert "rejected" not in texts  # nothing was
    assert "to the reference" not in texts


def test_the_command_draws_beside_the_run_and_prints_the_rounds(run, capsys):
    assert main(["inspect", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "round-001" in shown
    assert "60.0" in shown.split()
    assert (run / "training.svg").read_bytes().startswith(b"<?xml")
    assert main(["inspect", str(run), "--json", "--plot", str(run / "other.svg")]) == 0
    assert json.loads(capsys.readouterr().out)["rounds"][1]["steps"] == 3
    assert (run / "other.svg").exists()


def test_a_train_folder_alone_will_do(run):
    folder = str(run / "round-001" / "train")
    assert is_training(folder)
    (training,) = read_trainings(folder)
    assert [line["update"] for line in training.steps] == [4, 5, 6]


def test_a_training_without_a_step_is_said_to_be_none(run):
    for index in range(2):
        (run / f"round-{index:03d}" / "train" / "metrics.jsonl").write_text('{"step": 1')
    with pytest.raises(NoTrainingError, match="finished step"):
        read_trainings(str(run))
    assert main(["inspect", str(run)]) == 2


def test_the_picture_shows_pass_at_1_from_the_start_on_reward_and_length(run):
    alone = re.findall(r">([^<>\n]+)</text>", training_picture(read_trainings(str(run))).decode())
    assert {"pass@1, %", "mean outcome reward", "length, tokens", "start"} <= set(alone)
    with_start = training_picture(read_trainings(str(run)), start={"held-out": 0.3})
    assert with_start != training_picture(read_trainings(str(run)))


@pytest.mark.parametrize(
    ("suffix", "begins"), [(".svg", b"<?xml"), (".png", b"\x89PNG"), (".pdf", b"%PDF"), (".PNG", b"\x89PNG")]
)
def test_a_picture_has_the_format_that_its_name_says(run, suffix, begins, capsys):
    assert main(["inspect", str(run), "--plot", str(run / f"picture{suffix}")]) == 0
    assert (run / f"picture{suffix}").read_bytes().startswith(begins)


@pytest.mark.parametrize("name", ["picture.jpg", "picture"])
def test_an_unknown_format_is_refused_by_name(run, name, capsys):
    assert main(["inspect", str(run), "--plot", str(run / name)]) == 2
    said = capsys.readouterr().err
    assert name in said
    assert ".svg, .png, .pdf" in said
    assert not (run / name).exists()
