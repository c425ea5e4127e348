"""`passrl verify RUN` holds what a run says of itself against what is there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipelines.cli.parser import main
from tests.e2e.project import Project, make_project


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_model) -> Project:
    project = make_project(tmp_path_factory.mktemp("verified"), tiny_model)
    assert main(["rounds", project.config, "--out", project.out]) == 0
    return project


@pytest.fixture
def run(made, tmp_path) -> Path:
    shutil.copytree(made.out, tmp_path / "run")
    return tmp_path / "run"


def findings(run: Path, capsys) -> list[dict]:
    capsys.readouterr()
    code = main(["verify", str(run), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert code == any(finding["severity"] == "error" for finding in found)
    return found


def errors(run: Path, capsys) -> list[tuple[str, str]]:
    """Code and place of each error."""
    found = findings(run, capsys)
    return [(f["code"], str(Path(f["where"]).relative_to(run))) for f in found if f["severity"] == "error"]


def test_a_run_is_clean(run, capsys):
    assert [finding for finding in findings(run, capsys) if finding["code"] != "input_absent"] == []


DATASETS = ("prompts", "rollouts", "signals/outcome", "shaped")


@pytest.mark.parametrize("name", DATASETS)
def test_a_dataset_that_was_deleted_is_an_error(run, capsys, name):
    shutil.rmtree(run / "round-000" / name)
    assert ("lineage", f"round-000/{name}") in errors(run, capsys)


def test_a_whole_round_that_was_deleted_is_an_error(run, capsys):
    shutil.rmtree(run / "round-001")
    found = errors(run, capsys)
    assert {("lineage", f"round-001/{name}") for name in DATASETS} < set(found)
    assert ("train", "round-001/train") in found
    assert ("results", "round-001") in found


def test_every_dataset_of_a_run_deleted_is_an_error(run, capsys):
    for folder in ("start", "round-000", "round-001"):
        shutil.rmtree(run / folder)
    assert len(errors(run, capsys)) > 10


def test_a_dataset_with_another_content_than_recorded_is_an_error_and_one_not_named_is_told(run, capsys):
    lineage = json.loads((run / "lineage.json").read_text())
    datasets = lineage["rounds"][1]["datasets"]
    datasets["rollouts"] = "0" * 64
    del datasets["shaped"]
    (run / "lineage.json").write_text(json.dumps(lineage))
    assert errors(run, capsys) == [("lineage", "round-001/rollouts")]
    assert [f["where"] for f in findings(run, capsys) if f["severity"] == "info" and f["code"] == "lineage"] == [
        str(run / "round-001/shaped")
    ]


def test_a_lineage_that_was_deleted_is_an_error(run, capsys):
    (run / "lineage.json").unlink()
    assert errors(run, capsys) == [("lineage", ".")]


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 16
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("pattern", "code"),
    [
        ("round-000/policy/model.safetensors", "policy"),
        ("round-001/policy/model.safetensors", "policy"),
        ("round-000/policy/config.json", "policy"),
        ("round-001/policy/tokenizer.json", "policy"),
        ("round-001/policy/config.json", "policy"),
        ("round-001/train/metrics.jsonl", "train"),
        ("round-001/train/state/step-*/__0_0.distcp", "train"),
        ("round-001/train/state/step-*/.metadata", "train"),
        ("round-001/eval/small/rollouts/part-000000-*.parquet", "sha256"),
        ("start/eval/small/signals/outcome/part-000000-*.parquet", "sha256"),
    ],
)
def test_a_flipped_bit_is_found(run, capsys, pattern, code):
    (file,) = run.glob(pattern)
    flip(file)
    assert code in {found for found, _ in errors(run, capsys)}


@pytest.mark.parametrize(
    ("place", "code"),
    [
        ("round-000/policy", "policy"),
        ("round-001/policy", "policy"),
        ("round-001/policy/tokenizer_config.json", "policy"),
        ("round-001/train/state", "train"),
        ("round-001/train/_done.json", "train"),
        ("round-001/train/_train.json", "train"),
        ("round-001/train/metrics.jsonl", "train"),
        ("round-001/train", "train"),
        ("start/eval/small/results.json", "results"),
        ("round-000/eval/small/results.json", "results"),
        ("round-001/eval", "results"),
        ("round-001/eval/small/rollouts", "results"),
        ("start", "results"),
    ],
)
def test_a_deletion_is_found(run, capsys, place, code):
    if (run / place).is_dir():
        shutil.rmtree(run / place)
    else:
        (run / place).unlink()
    assert code in {found for found, _ in errors(run, capsys)}


def test_a_changed_file_of_a_policy_is_named_before_anything_runs_and_exported_again(made, run, capsys):
    file = run / "round-001/policy/tokenizer.json"
    exported = file.read_bytes()
    flip(file)
    command = ["rounds", made.config, "--out", str(run)]
    assert main(command) == 2
    assert f"{file} is changed: it is not what the training exported. Remove" in capsys.readouterr().err
    shutil.rmtree(file.parent)
    assert main(command) == 0
    assert file.read_bytes() == exported
    assert [finding for finding in findings(run, capsys) if finding["severity"] == "error"] == []


def test_results_that_are_not_what_was_sampled_are_an_error(run, capsys):
    file = run / "round-001/eval/small/results.json"
    results = json.loads(file.read_text())
    results["correct_P"][0] += 1
    file.write_text(json.dumps(results))
    assert errors(run, capsys) == [("results", "round-001/eval/small")]


def test_a_training_on_other_data_than_the_round_holds_is_an_error(run, capsys):
    file = run / "round-001/train/_train.json"
    identity = json.loads(file.read_text())
    file.write_text(json.dumps({**identity, "datasets": ["0" * 64]}))
    assert errors(run, capsys) == [("train", "round-001/train")]


def test_a_run_under_way_has_no_errors_but_says_what_is_missing(run, capsys):
    shutil.rmtree(run / "round-001/train")
    shutil.rmtree(run / "round-001/policy")
    shutil.rmtree(run / "round-001/eval")
    lineage = json.loads((run / "lineage.json").read_text())
    del lineage["rounds"][1]["metrics"]
    (run / "lineage.json").write_text(json.dumps(lineage))
    assert errors(run, capsys) == []


def test_old_checkpoints_may_be_removed(run, capsys):
    shutil.rmtree(run / "round-000/train/state")
    assert errors(run, capsys) == []
