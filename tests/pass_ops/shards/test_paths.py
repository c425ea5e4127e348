"""A dataset names its inputs from its own folder where both lie in one store, so that they can move together."""

from __future__ import annotations

import pytest

from pass_ops.shards import relative_folder, resolve_folder


@pytest.mark.parametrize(
    ("dataset", "target", "folder"),
    [
        ("/run/round-000/signals/prm", "/run/round-000/rollouts", "../../rollouts"),
        ("/run/shaped", "s3://b/rollouts", "s3://b/rollouts"),
        ("gs://b/run/shaped", "gs://b/run/rollouts", "../rollouts"),
        ("gs://b/X", "gs://b/rollouts/X", "../rollouts/X"),
        ("gs://b/run/shaped", "gs://b", "../.."),
        ("gs://b/run/shaped", "gs://other/rollouts", "gs://other/rollouts"),
        ("gs://b/run/shaped", "/run/rollouts", "/run/rollouts"),
        ("memory://run/shaped", "memory://run/rollouts", "../rollouts"),
        ("memory://X", "memory://Y/X", "../Y/X"),
        ("memory://Y/shaped", "memory://X/rollouts", "../../X/rollouts"),
    ],
)
def test_an_input_in_the_same_store_is_named_from_the_dataset(dataset, target, folder):
    assert relative_folder(dataset, target) == folder
    assert resolve_folder(dataset, folder).rstrip("/") == target


@pytest.mark.parametrize(
    ("dataset", "target", "folder"),
    [
        ("file:///run/shaped", "/run/rollouts", "../rollouts"),
        ("/run/shaped/", "local:///run/rollouts/", "../rollouts"),
        ("gs://b/run/shaped/", "gs://b/run/rollouts/", "../rollouts"),
        ("memory:///run/shaped/", "memory://run/rollouts/", "../rollouts"),
    ],
)
def test_one_folder_may_be_written_in_several_ways(dataset, target, folder):
    assert relative_folder(dataset, target) == folder


def test_a_path_is_of_the_folder_that_the_program_runs_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert relative_folder("run/shaped", str(tmp_path / "run/rollouts")) == "../rollouts"
    assert resolve_folder("run/shaped", "../rollouts") == str(tmp_path / "run/rollouts")
