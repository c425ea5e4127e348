"""What was made in format version 1 is shaped and trained on as before."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from pass_ops.shards import open_dataset
from pipelines.cli.parser import main
from pipelines.runs.config import load_config
from trainer import train

STORED = Path(__file__).resolve().parents[1] / "data" / "version1.zip"


def test_rollouts_and_signals_of_version_1_are_shaped_to_the_same_values_and_trained_on(project, tmp_path):
    shutil.unpack_archive(STORED, project.out)
    assert main(["shape", project.config, "--out", project.out, "--name", "again"]) == 0
    old, new = (open_dataset(f"{project.out}/round-000/{name}") for name in ("shaped", "again"))
    assert (old.spec.format_version, new.spec.format_version) == (1, 2)
    assert [new.read_part(part) for part in range(2)] == [old.read_part(part) for part in range(2)]
    assert main(["verify", project.out]) == 0
    options = replace(load_config(project.config).train, off_policy="accept")
    for name in ("shaped", "again"):
        trained = train(
            [f"{project.out}/round-000/{name}"],
            policy=str(project.folder / "model"),
            out=str(tmp_path / name),
            options=options,
        )
        assert trained.steps == options.updates
