"""The wheel without extras: what needs no model works, everything else names the extra to install."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.project import Project, make_project

ROOT = Path(__file__).resolve().parent.parent
UV = Path(sys.executable).parent / "uv"
# All commands in one process: each import is paid for once. Prints exit code and standard error of each.
DRIVER = """
import contextlib, io, json, sys
from pipelines.cli import main

told = []
for arguments in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(arguments)
        except SystemExit as ended:
            code = ended.code
        except BaseException as error:
            code = repr(error)
    told.append([arguments, code, out.getvalue(), err.getvalue()])
print(json.dumps(told))
"""


def uv(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([UV, *arguments], capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The interpreter of a fresh environment that holds the wheel and its base dependencies, as they are pinned."""
    folder = tmp_path_factory.mktemp("bare")
    built = uv("build", "--quiet", "--wheel", "--out-dir", str(folder))
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    assert uv("venv", "--quiet", "--python", sys.executable, str(folder / "venv")).returncode == 0
    python = str(folder / "venv" / "bin" / "python")
    install = ("pip", "install", "--quiet", "--python", python, "-c", "requirements/cpu.txt", str(wheel))
    installed = uv(*install, "--offline")  # `make install` has left everything in uv's cache
    if installed.returncode:
        installed = uv(*install)
    assert installed.returncode == 0, installed.stderr
    return python


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_model: str) -> Project:
    """A project with one round generated, scored and shaped by the full environment."""
    from pipelines.cli import main

    made = make_project(tmp_path_factory.mktemp("project"), tiny_model)
    for stage in ("generate", "score", "shape"):
        assert main([stage, made.config, "--out", made.out]) == 0
    return made


def told(python: str, commands: list[list[str]]) -> Iterator[tuple[str, object, str, str]]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [python, "-c", DRIVER], input=json.dumps(commands), capture_output=True, text=True, check=False,
        cwd=Path(python).parent, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for arguments, code, out, err in json.loads(done.stdout.splitlines()[-1]):
        yield " ".join(arguments), code, out, err


def test_the_environment_has_none_of_the_extras(bare: str) -> None:
    from pass_ops.support.extras import EXTRAS

    code = f"import importlib.util as u; print([n for n in {sorted(EXTRAS)} if u.find_spec(n)])"
    done = subprocess.run([bare, "-c", code], capture_output=True, text=True, check=True, cwd=Path(bare).parent)
    assert done.stdout.strip() == "[]"


def test_what_needs_no_model_works(bare: str, project: Project) -> None:
    from pass_ops.shards import open_dataset

    shaped, run = f"{project.out}/round-000/shaped", [project.config, "--out", project.out]
    rollout = open_dataset(shaped).read_part(0)["rollout_id"][0].as_py()
    foreign = project.write("foreign.jsonl", '{"prompt": "1 + 1 =", "completion": " 2"}\n' * 2)
    commands = [
        ["--version"],
        ["--help"],
        ["inspect", shaped],
        ["inspect", f"{project.out}/round-000/rollouts", "--json"],
        ["lint", f"{project.out}/round-000/signals/outcome"],
        ["status", project.out],
        ["verify", project.out],
        ["clean", project.out],
        ["explain", project.out, rollout],
        ["diff", project.out, project.out],
        ["finalize", shaped],
        ["shape", *run, "--name", "again", "--set", "shape.k=0"],
        ["sweep", *run, "--grid", "k=0,1"],
        ["view", project.out, "--out", f"{project.out}.html", "--grid", "k=0", "--truth", "steps"],
        ["prm-check", project.out, "--signal", "steps", "--truth", "steps"],
        ["score", *run, "--signal", "outcome", "--signal", "format"],
        ["score", *run, "--signal", "outcome", "--reverify"],
        ["import", "rows", foreign, "--out", f"{project.out}-foreign",
         "--map", "prompt=prompt", "--map", "response=completion"],
        ["export", "trl", shaped, "--out", f"{project.out}-trl"],
        ["options"],
        ["options", "train", "--json"],
        ["schema"],
        ["init", str(project.folder / "started.toml")],
        ["run", *run, "--dry-run"],
        ["run", *run, "--dry-run", "--set", "engine.kind=vllm"],
    ]  # fmt: skip
    for command, code, out, err in told(bare, commands):
        assert code == 0, (command, code, err)
        if "--dry-run" in command:
            extra = "cpu" if "vllm" in command else "models"
            assert any(f"passrl[{extra}]" in line for line in json.loads(out)["unchecked"]), out


def test_everything_else_names_the_extra_to_install(bare: str, project: Project) -> None:
    run = [project.config, "--out", f"{project.out}-new"]
    pairs = project.write("pairs.parquet", "")
    commands = [
        ["run", *run],
        ["rounds", *run],
        ["generate", *run],
        ["generate", *run, "--set", "engine.kind=vllm"],
        ["score", project.config, "--out", project.out],
        ["train", project.config, "--out", project.out],
        ["train", project.config, "--out", project.out, "--set", "train.lora_rank=4"],
        ["eval", *run],
        ["sft", pairs, "--policy", str(project.folder / "model"), "--out", f"{project.out}-sft"],
        ["demo", "--out", f"{project.out}-demo"],
        ["gpu-check", "--out", f"{project.out}-gpu-check"],
        ["status", "s3://bucket/run"],
        ["status", "gs://bucket/run"],
        ["score", project.config, "--out", project.out, "--signal", "math",
         "--set", "signals.math={signal='outcome', verifier='math'}"],
        ["rescore", project.out, "--out", f"{project.out}-rescored", "--model", str(project.folder / "model")],
    ]  # fmt: skip
    named = ["models", "models", "models", "cpu", "models", "models", "lora", "models", "models", "cpu", "models", "s3",
             "gcp", "verifiers", "models"]  # fmt: skip
    for extra, (command, code, _, err) in zip(named, told(bare, commands), strict=True):
        assert code == 2, (command, code, err)
        assert f"pip install 'passrl[{extra}]'" in err, (command, err)
        assert "Traceback" not in err
    assert not Path(f"{project.out}-new").exists()


def test_every_command_is_run_by_these_tests() -> None:
    """A new command belongs into one of the two lists."""
    from pipelines.cli import build_parser

    text = Path(__file__).read_text()
    (commands,) = [action.choices for action in build_parser()._actions if action.dest == "command"]
    assert [name for name in commands if f'["{name}"' not in text] == []
