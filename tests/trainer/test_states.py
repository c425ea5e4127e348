"""Optimizer states of earlier rounds go by rule, without a trace of damage, and never what a round still needs."""

from __future__ import annotations

import json
import shutil

import pytest

from pipelines.demo.assets import asset_folder
from pipelines.options import build
from pipelines.runs.budget import remove_old_states
from pipelines.runs.config import RunConfig
from pipelines.runs.progress import Reporter
from pipelines.runs.run import Run
from tests.trainer.rows import random_rows
from trainer import TrainOptions, train
from trainer.checkpoint import remove_older
from trainer.errors import StateError
from trainer.records import check_files, complete_checkpoints, marker_of, remove_state

OPTIONS = TrainOptions(
    lr=1e-3, warmup_steps=0, batch_size=3, micro_batch_tokens=64, device="cpu", tensorboard=False,
    off_policy="accept",
)  # fmt: skip


@pytest.fixture
def rounds(make_shaped, policy_folder, tmp_path):
    """train() of one round after another: rounds(number, state=...)."""
    data = [make_shaped([random_rows(groups=3, size=2, seed=seed)], name=f"shaped-{seed}") for seed in range(3)]
    policies = {0: policy_folder}

    def call(number: int, *, before: int | None):
        out = tmp_path / f"round-{number:03d}" / "train"
        state = None if before is None else str(tmp_path / f"round-{before:03d}" / "train")
        done = train([data[number]], policy=policies[number], out=str(out), state=state, options=OPTIONS)
        policies[number + 1] = done.policy_dir
        return done

    return call


def test_a_state_that_is_gone_costs_no_result_and_says_why_where_it_is_needed(rounds, tmp_path):
    first = rounds(0, before=None)
    second = rounds(1, before=0)
    state = tmp_path / "round-000" / "train" / "state"
    names = complete_checkpoints(state)[-1].files
    remove_state(state)
    assert [path.suffix for path in state.iterdir()] == [".json"]
    (left,) = complete_checkpoints(state)
    assert left.removed
    assert left.files == names
    check_files(left)
    assert rounds(0, before=None) == first
    assert rounds(1, before=0) == second  # its identity names the files of the state it went on from
    shutil.rmtree(tmp_path / "round-001")
    with pytest.raises(StateError, match=r"was removed, as run\.keep_states says"):
        rounds(1, before=0)


def test_a_folder_whose_marker_went_first_is_removed_the_next_time(rounds, tmp_path, monkeypatch):
    rounds(0, before=None)
    state = tmp_path / "round-000" / "train" / "state"
    (newest,) = complete_checkpoints(state)
    older, half_written = state / "step-00000000", state / "step-00000009"
    shutil.copytree(newest.folder, older)
    shutil.copy(marker_of(newest.folder), marker_of(older))
    shutil.copytree(newest.folder, half_written)

    def killed(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("trainer.checkpoint.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            remove_older(state, keep=1)
    assert older.exists()
    assert not marker_of(older).exists()
    remove_older(state, keep=1)
    assert set(state.iterdir()) == {newest.folder, marker_of(newest.folder)}


def test_a_removal_cut_off_is_finished_the_next_time(rounds, tmp_path):
    rounds(0, before=None)
    state = tmp_path / "round-000" / "train" / "state"
    (marker,) = state.glob("step-*.json")
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"removed": True}))
    check_files(complete_checkpoints(state)[0])
    remove_state(state)
    assert list(state.iterdir()) == [marker]


@pytest.mark.parametrize(("keep", "left"), [(None, [0, 1, 2]), (1, [2]), (2, [1, 2]), (9, [0, 1, 2])])
def test_the_newest_rounds_keep_their_state(tmp_path, keep, left):
    for number in range(3):
        state = tmp_path / f"round-{number:03d}" / "train" / "state"
        (state / "step-00000001").mkdir(parents=True)
        marker = {"format": 2, "step": 1, "updates": 1, "architecture": {}, "files": {}}
        (state / "step-00000001.json").write_text(json.dumps(marker))
    section = {} if keep is None else {"keep_states": keep}
    given = {"prompts": {"source": "none"}, "policy": {"model": str(asset_folder("policy"))}, "run": section}
    config = build(RunConfig, given, where="test")
    remove_old_states(Run(config=config, url=str(tmp_path), reporter=Reporter(quiet=True)), 2)
    kept = [number for number in range(3) if (tmp_path / f"round-{number:03d}/train/state/step-00000001").exists()]
    assert kept == left
    assert all((tmp_path / f"round-{n:03d}/train/state/step-00000001.json").exists() for n in range(3))
