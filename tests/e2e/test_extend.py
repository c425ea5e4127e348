"""A finished run goes on: more rounds, one again, another `eval.between`; no dataset knows how far a command went."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.cli.parser import main

BETWEEN = {"none": (), "two": ("--set", "eval.between=2"), "more than there are": ("--set", "eval.between=9")}


def digests(out: str) -> dict[str, str]:
    """Folder -> content digest of every dataset of a run."""
    manifests = Path(out).rglob("_manifest-*.json")
    return {str(m.parent.relative_to(out)): json.loads(m.read_text())["content_digest"] for m in manifests}


def scores(out: str) -> list[dict]:
    """What the lineage says of each round's evaluation."""
    return [entry["metrics"]["eval"] for entry in json.loads((Path(out) / "lineage.json").read_text())["rounds"]]


@pytest.mark.parametrize("between", BETWEEN.values(), ids=BETWEEN)
def test_a_run_that_is_extended_holds_what_a_longer_one_holds(project, between):
    longer = project.out + "-longer"
    assert main(["rounds", project.config, "--out", longer, "--rounds", "3", *between]) == 0
    for count in ("2", "3"):
        assert main(["rounds", project.config, "--out", project.out, "--rounds", count, *between]) == 0
    extended, expected = digests(project.out), digests(longer)
    assert {folder: extended[folder] for folder in expected} == expected
    assert all(folder.startswith("round-001/eval/") for folder in extended.keys() - expected.keys())
    assert scores(project.out) == scores(longer)
    policies = [Path(out, "round-002/policy/model.safetensors").read_bytes() for out in (project.out, longer)]
    assert policies[0] == policies[1]

    for index in range(3):
        assert main(["run", project.config, "--out", longer, "--round", str(index), *between]) == 0
    rerun = digests(longer)
    assert {folder: rerun[folder] for folder in expected} == expected
    assert main(["verify", longer]) == 0


def test_evaluations_of_other_sizes_lie_side_by_side(project):
    for between in ("2", "3"):
        extended = ["rounds", project.config, "--out", project.out, "--set", f"eval.between={between}"]
        assert main(extended) == 0
    sizes = {
        str(file.parent.relative_to(project.out)): json.loads(file.read_text())["prompts"]
        for file in Path(project.out).rglob("results.json")
    }
    assert sizes == {
        "start/eval/small": 4, "round-000/eval-2/small": 2, "round-000/eval-3/small": 3, "round-001/eval/small": 4,
    }  # fmt: skip
