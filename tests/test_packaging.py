"""The promises of the packaging: light imports, a wheel that runs, lists without addresses, targets that do nothing
twice."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("apache_beam", "torch", "vllm", "transformers", "polars")


def run(*command: str, **kwargs) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=kwargs.pop("cwd", ROOT), **kwargs)


def modules_after(statement: str) -> set[str]:
    code = f"import json, sys; {statement}; print(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("package", ["pass_ops", "pass_ops.shards", "pass_ops.padded"])
def test_importing_pass_ops_pulls_no_heavy_library(package):
    assert not modules_after(f"import {package}") & {*HEAVY, "pipelines", "trainer"}


def test_the_command_line_starts_without_heavy_libraries():
    assert not modules_after("from pipelines import cli; cli.build_parser().format_help()") & set(HEAVY)


def test_reading_a_configuration_starts_no_heavy_library():
    assert not modules_after("import pipelines.runs.config") & {"apache_beam", "torch", "vllm", "transformers"}


@pytest.mark.parametrize("name", ["cpu", "gpu", "gcp", "gpu-gcp", "peers"])
def test_requirement_lists_pin_every_version_and_hold_no_url(name):
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    assert len(lines) > 100
    assert all(re.match(r"^[A-Za-z0-9._-]+(\[[a-z0-9,_-]+\])?==[^ ;]+( ;.*)?$", line) for line in lines)
    assert not any("://" in line or "--" in line for line in lines)


def test_the_lists_agree_with_the_direct_dependencies():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {re.split(r"[=\[]", line)[0] for line in (ROOT / "requirements/cpu.txt").read_text().splitlines()}
    wanted = [
        *project["dependencies"],
        *(d for e in ("cpu", "models", "dev", "s3") for d in project["optional-dependencies"][e]),
    ]
    names = {re.split(r"[=<>\[; ]", requirement)[0] for requirement in wanted} - {"passrl"}
    assert names <= pinned


def test_a_wheel_builds_and_its_command_runs_elsewhere(tmp_path):
    built = run(
        "uv",
        "build",
        "--wheel",
        "--out-dir",
        str(tmp_path),
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    (entry,) = (tmp_path / "site").glob("*.dist-info/entry_points.txt")
    assert "passrl = pipelines.cli:main" in entry.read_text()
    modules = {path.name for path in (tmp_path / "site" / "passrl_integrations").glob("*.py")}
    assert modules == {path.name for path in (ROOT / "passrl_integrations").glob("*.py")}
    helped = run(
        sys.executable,
        "-c",
        "import sys, pipelines; print(pipelines.__file__); from pipelines.cli.parser import main; main(['--help'])",
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
    )
    assert str(tmp_path / "site") in helped.stdout
    assert helped.returncode == 0
    assert "COMMAND" in helped.stdout


def test_make_install_does_nothing_twice():
    if not (ROOT / ".venv" / ".installed").exists():
        pytest.skip("this checkout was not installed by make")
    planned = run("make", "--dry-run", "install")
    assert planned.returncode == 0
    assert "venv" not in planned.stdout
