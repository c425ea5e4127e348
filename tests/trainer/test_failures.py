"""What goes wrong from outside: a clear error, nothing lost, and the same command goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from pass_ops.errors import CorruptDatasetError, IncompleteDatasetError, PassError, StaleInputError
from pass_ops.shards import DatasetSpec, InputRef, commit_part, create_dataset, finalize
from tests.trainer.rows import SAMPLING, random_rows, shaped_table, split_groups
from trainer import TrainOptions, train
from trainer.checkpoint import complete_checkpoints
from trainer.errors import DeviceMemoryError, RunFolderError
from trainer.metrics import read_metrics
from trainer.model_folder import weights_digest
from trainer.policy import Policy
from trainer.run_folder import claim

ROWS = random_rows(groups=6, size=3)
OPTIONS = TrainOptions(
    lr=1e-3, warmup_steps=0, batch_size=1, epochs=1, micro_batch_tokens=40, save_every=0, device="cpu",
    tensorboard=False, shuffle_tokens=1, prefetch_steps=1,
)  # fmt: skip
# A run under a limit on the size of files, as a full disk would be: what is written beyond fails.
LIMITED = """
import json, resource, sys
sys.dont_write_bytecode = True  # a .pyc cut off by the limit would break every later import of its module
from trainer import TrainOptions, train
from trainer.errors import NotSavedError
arguments = json.loads(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (arguments["limit"], arguments["limit"]))
try:
    train([arguments["shaped"]], policy=arguments["policy"], out=arguments["out"],
          options=TrainOptions(**arguments["options"]))
except NotSavedError as error:
    print(error)
    sys.exit(7)
"""


@pytest.fixture
def shaped(make_shaped) -> str:
    return make_shaped(split_groups(ROWS, 6))


@pytest.fixture
def run(shaped, policy_folder, tmp_path):
    """train() with this file's data and options, into the named folder."""

    def call(out: str, *, options=OPTIONS, data=None, **arguments):
        return train([data or shaped], policy=policy_folder, out=str(tmp_path / out), options=options, **arguments)

    return call


def unfinished(url: str, *, inputs=None):
    """A shaped dataset of one part whose manifest is not written yet."""
    spec = DatasetSpec(
        stage="shape", stage_version=1, options={}, parts=1, carried={"sampling": SAMPLING}, inputs=inputs or {}
    )
    dataset = create_dataset(url, spec)
    commit_part(dataset, 0, shaped_table(ROWS))
    return dataset


def test_a_dataset_that_is_not_complete_is_refused(run, tmp_path):
    unfinished(str(tmp_path / "half"))
    with pytest.raises(IncompleteDatasetError, match="half is not finalized"):
        run("out", data=str(tmp_path / "half"))
    assert not (tmp_path / "out").exists()


def test_a_stale_dataset_is_refused_by_the_name_of_its_input(run, tmp_path, shaped):
    finalize(unfinished(str(tmp_path / "stale"), inputs={"rollouts": InputRef("../shaped", "0" * 64)}))
    with pytest.raises(StaleInputError, match="stale: its input rollouts"):
        run("out", data=str(tmp_path / "stale"))
    assert not (tmp_path / "out").exists()


def test_a_part_that_breaks_midway_stops_the_run_and_costs_no_step(run, shaped, tmp_path):
    parts = {path: path.read_bytes() for path in Path(shaped).glob("part-*.parquet")}

    def break_the_rest(done, total, note):
        if done == 1:
            for path in parts:
                path.write_bytes(b"not a part")

    with pytest.raises(CorruptDatasetError, match="part-"):
        run("out", progress=break_the_rest)
    steps = len(read_metrics(tmp_path / "out"))
    assert 1 <= steps < 6
    assert [c.step for c in complete_checkpoints(tmp_path / "out" / "state")] == [steps]
    for path, content in parts.items():
        path.write_bytes(content)
    assert weights_digest(Path(run("out").policy_dir)) == weights_digest(Path(run("whole").policy_dir))


@pytest.mark.parametrize("failing", ["token_outputs", "step"])
def test_out_of_device_memory_names_the_options_and_the_run_goes_on(run, tmp_path, monkeypatch, failing):
    calls = 0

    def exhausted(function):
        def call(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls == 4:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return function(*arguments, **options)

        return call

    with monkeypatch.context() as patched:
        owner = Policy if failing == "token_outputs" else torch.optim.AdamW
        patched.setattr(owner, failing, exhausted(getattr(owner, failing)))
        with pytest.raises(DeviceMemoryError, match=r"micro_batch_tokens \(40\).*gradient_checkpointing"):
            run("out")
    steps = len(read_metrics(tmp_path / "out"))
    kept = [c.step for c in complete_checkpoints(tmp_path / "out" / "state")]
    assert kept == ([steps] if failing == "token_outputs" else [])  # weights half updated are never saved
    resumed = run("out")
    assert weights_digest(Path(resumed.policy_dir)) == weights_digest(Path(run("whole").policy_dir))


def test_what_only_saves_memory_may_change_when_a_run_goes_on(run, tmp_path):
    def interrupt(done, total, note):
        if done == 4:
            raise KeyboardInterrupt

    options = replace(OPTIONS, save_every=2)
    with pytest.raises(KeyboardInterrupt):
        run("out", options=options, progress=interrupt)
    less = replace(options, micro_batch_tokens=20, logits_elements=64, gradient_checkpointing=True, layout="pack")
    run("out", options=less)
    run("whole", options=options)
    for ours, whole in zip(read_metrics(tmp_path / "out"), read_metrics(tmp_path / "whole"), strict=True):
        assert ours["loss"] == pytest.approx(whole["loss"], abs=1e-5)


def test_a_full_disk_keeps_the_last_checkpoint_and_the_run_goes_on(run, shaped, policy_folder, tmp_path):
    def interrupt(done, total, note):
        if done == 3:
            raise KeyboardInterrupt

    options = replace(OPTIONS, save_every=2)
    with pytest.raises(KeyboardInterrupt):
        run("out", options=options, progress=interrupt)
    arguments = {
        "shaped": shaped, "policy": policy_folder, "out": str(tmp_path / "out"), "options": asdict(options),
        "limit": 50_000,
    }  # fmt: skip
    limited = subprocess.run(
        [sys.executable, "-c", LIMITED, json.dumps(arguments)], check=False, timeout=500, capture_output=True, text=True
    )
    assert limited.returncode == 7, limited.stderr
    assert "MiB are free" in limited.stdout
    assert [c.step for c in complete_checkpoints(tmp_path / "out" / "state")] == [2]
    resumed = run("out", options=options)
    assert weights_digest(Path(resumed.policy_dir)) == weights_digest(Path(run("whole", options=options).policy_dir))


def test_every_error_of_this_file_is_one_of_the_projects_own():
    for error in (CorruptDatasetError, DeviceMemoryError, IncompleteDatasetError, StaleInputError):
        assert issubclass(error, PassError)


def test_a_policy_whose_training_is_gone_is_not_written_over(tmp_path):
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "config.json").write_text("{}")
    with pytest.raises(RunFolderError, match=r"policy is not empty.*Remove it and train again"):
        claim(tmp_path / "train", tmp_path / "policy", {})
    assert not (tmp_path / "train").exists()
