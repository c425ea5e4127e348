"""Under --json every command prints one value that its published schema describes, also where it fails."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.cli import build_parser, main
from pipelines.cli.results import RESULTS
from tests.e2e.project import Project, make_project

SCHEMAS = Path(__file__).parents[3] / "docs" / "reference" / "json"
COMMANDS = next(action.choices for action in build_parser()._actions if action.dest == "command")


def printed(arguments: list[str]) -> tuple[int, Any]:
    """Exit code and the one value on standard output; NaN is no JSON."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            code = main([*arguments, "--json"])
        except SystemExit as ended:
            code = int(ended.code or 0)
    return code, json.loads(out.getvalue(), parse_constant=refuse)


def validator(command: str) -> jsonschema.Draft202012Validator:
    schema = json.loads((SCHEMAS / f"{command}.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_model: str) -> Project:
    """Where the commands of `made` are run, in their order."""
    made = make_project(tmp_path_factory.mktemp("project"), tiny_model)
    pairs = pa.table({"prompt": ["1+1?", "2+2?"] * 4, "completion": ["2", "4"] * 4})
    pq.write_table(pairs, made.folder / "pairs.parquet")
    made.write("foreign.jsonl", '{"prompt": "1 + 1 =", "completion": " 2"}\n' * 2)
    return made


def asked(project: Project) -> dict[str, list[str]]:
    """Title -> a command that succeeds, in an order in which each finds what it needs."""
    run, folder = [project.config, "--out", project.out], str(project.folder)
    shaped, foreign = f"{project.out}/round-000/shaped", f"{folder}/foreign.jsonl"
    once, small = ["--set", "run.rounds=1"], ["--set", "batch_size=4", "--set", "device='cpu'"]
    return {
        "init": ["init", f"{folder}/started.toml"],
        "options": ["options", "engine"],
        "schema": ["schema", "status"],
        "schema of a configuration": ["schema"],
        "dry run": ["run", *run, "--dry-run"],
        "generate": ["generate", *run],
        "score": ["score", *run],
        "reverify": ["score", *run, "--signal", "outcome", "--reverify"],
        "shape": ["shape", *run],
        "train": ["train", *run],
        "eval": ["eval", *run],
        "run": ["run", *run],
        "rounds": ["rounds", *run, *once],
        "sft": ["sft", f"{folder}/pairs.parquet", "--policy", f"{folder}/model", "--out", f"{folder}/sft", *small],
        "import": ["import", "rows", foreign, "--out", f"{folder}/foreign",
                   "--map", "prompt=prompt", "--map", "response=completion"],
        "rescore": ["rescore", f"{folder}/foreign", "--out", f"{folder}/rescored", "--tokenizer", f"{folder}/model"],
        "guess": ["import", "--guess", foreign],
        "inspect a group": ["inspect", shaped],
        "inspect a rollout": ["inspect", shaped, "--rollout", "0"],
        "inspect prompts": ["inspect", f"{project.out}/round-000/prompts"],
        "inspect a run": ["inspect", project.out],
        "status": ["status", project.out],
        "top": ["top", project.out],
        "doctor": ["doctor"],
        "completion": ["completion", "zsh"],
        "verify": ["verify", project.out],
        "clean": ["clean", project.out],
        "export": ["export", "trl", shaped, "--out", f"{folder}/trl"],
        "finalize": ["finalize", shaped],
        "sweep": ["sweep", *run, "--grid", "k=0,1", "--truth", "steps", "--groups", "2"],
        "explain": ["explain", shaped, _rollout(shaped)],
        "diff": ["diff", project.out, project.out],
        "lint": ["lint", shaped],
        "view": ["view", shaped, "--out", f"{folder}/credit.html"],
        "prm-check": ["prm-check", project.out, "--signal", "steps", "--truth", "steps"],
        "gpu-check": ["gpu-check", "--out", f"{folder}/gpu-check", "--device", "cpu", "--only", "driver"],
    }  # fmt: skip


def _rollout(shaped: str) -> str:
    from pass_ops.shards import open_dataset

    with contextlib.suppress(FileNotFoundError):  # not made yet
        return str(open_dataset(shaped).read_part(0)["rollout_id"][0])
    return ""


TITLES = list(asked(Project(Path("/nowhere"))))


@pytest.fixture(scope="module")
def made(project: Project) -> dict[str, tuple[str, int, Any]]:
    """Title -> command, exit code and what was printed."""
    found = {}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("pipelines.runs.doctor.LEAST_DISK", 0)  # a full disk is not what is asked about
        for title in TITLES:
            command = asked(project)[title]
            found[title] = (command[0], *printed(command))
    return found


@pytest.mark.parametrize("title", TITLES)
def test_a_result_is_as_its_schema_says(made, title):
    command, code, value = made[title]
    assert "error" not in value, value
    assert code in (0, 1) if command == "lint" else code == 0
    validator(command).validate(value)


def test_a_schema_is_no_open_door(made):
    _, _, status = made["status"]
    assert not validator("status").is_valid({**status, "more": 1})
    assert not validator("status").is_valid({"url": status["url"]})
    _, _, explained = made["explain"]
    assert not validator("explain").is_valid({**explained, "part": "first"})


FAILING = {
    "run": ["missing.toml", "--out", "run"],
    "rounds": ["missing.toml", "--out", "run"],
    "init": ["/missing/passrl.toml"],
    "options": ["engin"],
    "schema": ["runn"],
    "generate": ["missing.toml", "--out", "run"],
    "score": ["missing.toml", "--out", "run"],
    "shape": ["missing.toml", "--out", "run"],
    "train": ["missing.toml", "--out", "run"],
    "eval": ["missing.toml", "--out", "run"],
    "sft": ["missing.parquet", "--policy", "model", "--out", "sft", "--set", "lrr=1"],
    "import": ["rows"],
    "rescore": ["missing", "--out", "new", "--tokenizer", "missing"],
    "inspect": ["missing"],
    "diff": ["missing", "missing"],
    "status": ["missing"],
    "top": ["missing"],
    "doctor": ["--needs", "gpuu"],
    "completion": ["powershell"],
    "verify": ["missing"],
    "clean": ["missing"],
    "export": ["trl", "missing", "--out", "trl"],
    "finalize": ["missing"],
    "sweep": ["missing.toml", "--out", "run"],
    "explain": ["missing", "a/0"],
    "lint": ["missing"],
    "prm-check": ["missing"],
    "view": ["missing", "--out", "credit.html"],
    "demo": ["--set", "engine.kindd=1"],
    "gpu-check": ["--only", "trian"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_failure_is_one_object_with_its_exit_code(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, value = printed([command, *FAILING[command]])
    validator(command).validate(value)
    error = value["error"]
    assert (code, error["exit_code"]) == (2, 2)
    assert error["message"] in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_command_line_is_an_object_too(command):
    code, value = printed([command, "--no-such-flag"])
    validator(command).validate(value)
    assert (code, value["error"]["kind"]) == (2, "UsageError")
    assert value["error"]["fix"] in (f"see passrl {command} --help", "see passrl --help")


def test_every_command_has_results_that_are_checked_here():
    assert RESULTS.keys() == set(COMMANDS)
    assert {asked(Project(Path("/nowhere")))[title][0] for title in TITLES} == set(COMMANDS) - {"demo"}
