"""`passrl gpu-check` on a CPU: every check runs for real, with tiny models; and without vLLM the trainer's do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.cli import main
from pipelines.gpu_check.base import CheckOptions
from pipelines.gpu_check.checks import CHECKS
from pipelines.gpu_check.run import gpu_check

SKIPPED = {"trl": "TRL is not installed", "tensor-parallel": "needs two GPUs"}
WITHOUT_VLLM = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "vllm":
            raise ModuleNotFoundError("No module named 'vllm'", name="vllm")

sys.meta_path.insert(0, Hidden())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where all checks of this file leave their models."""
    return tmp_path_factory.mktemp("gpu-check")


@pytest.mark.timeout(1900)  # six engines start in the longest one
@pytest.mark.parametrize("name", [check.name for check in CHECKS])
def test_every_check_runs_on_a_cpu(name, folder):
    options = CheckOptions(out=str(folder), only=(name,), device="cpu", minutes=30)
    (line,) = gpu_check(options, show=lambda _: None)
    told = json.loads(line.as_json())
    assert told["device"].startswith("cpu: tiny models")
    if name in SKIPPED:
        assert (told["status"], SKIPPED[name] in told["why"]) == ("skipped", True)
    else:
        assert (told["status"], told["why"]) == ("ok", "")
        assert told["figures"]


def test_a_line_each_and_a_page_are_left(tmp_path, capsys):
    page = tmp_path / "pages" / "gpu.md"
    command = ["gpu-check", "--out", str(tmp_path), "--device", "cpu", "--only", "driver", "--report", str(page)]
    assert main(command) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["check"] == "driver"
    assert "| driver | ok |" in page.read_text()


def test_a_failed_check_is_the_exit_code(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pipelines.gpu_check.run.CHILD", "pipelines.gpu_check.no_such_module")
    assert main(["gpu-check", "--out", str(tmp_path), "--device", "cpu", "--only", "driver"]) == 1
    assert "No module named pipelines.gpu_check.no_such_module" in json.loads(capsys.readouterr().out)["why"]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (["--only", "trian"], "--only 'trian' is no check"),
        (["--out", "/dev/null/here"], "cannot be written"),
        (["--minutes", "nan"], "--minutes is nan"),
        (["--minutes", "0"], "--minutes is 0"),
    ],
)
def test_what_cannot_be_checked_is_refused(wrong, told, tmp_path, capsys):
    assert main(["gpu-check", "--out", str(tmp_path), "--device", "cpu", *wrong]) == 2
    assert told in capsys.readouterr().err


def test_the_trainers_checks_run_where_vllm_is_not_installed(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_VLLM)
    command = [sys.executable, "-m", "pipelines.cli.parser", "gpu-check", "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [*command, "--device", "cpu", "--only", "train", "engine"],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{tmp_path}:{Path.cwd()}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = {line["check"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert (told["train"]["status"], told["train"]["why"]) == ("ok", "")
    assert (told["engine"]["status"], told["engine"]["why"]) == ("skipped", "not installed: vllm")
