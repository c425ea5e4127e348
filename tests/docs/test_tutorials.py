"""The tutorials run as they stand, from their own files, in one folder; only the engine is a recorded one."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys

from pipelines.cli import main
from tests.docs.pages import DOCS, ROOT, blocks

TAKING_A_CONFIGURATION = {"run", "rounds", "generate", "score", "shape", "sweep"}
ENGINE = ["--set", "engine.kind=recorded", "--set", "engine.recording=synthetic:3"]


def follow(page, folder):
    """Write the page's files, then run its commands, as a reader would."""
    for language in ("json", "toml", "python"):
        for title, body in blocks(page, language):
            if title:
                (folder / title).parent.mkdir(exist_ok=True)
                (folder / title).write_text(body)
    for _, body in blocks(page, "sh"):
        for line in body.splitlines():
            run(line, folder)


def run(line, folder):
    words = shlex.split(line)
    if words[0] != ".venv/bin/passrl":
        done = subprocess.run(["bash", "-c", line], cwd=folder, check=False)
        assert done.returncode == 0, line
        return
    command = words[1]
    more = ENGINE if command in TAKING_A_CONFIGURATION else []
    expected = 1 if command == "lint" else 0  # recorded rollouts are noise, and lint says so
    assert main([*words[1:], *more]) == expected, line


def test_the_tutorials_on_data_and_signals_run(tmp_path, monkeypatch, capsys):
    policy = "pipelines/demo/assets/policy"
    shutil.copytree(ROOT / policy, tmp_path / policy)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "mine"), str(ROOT)]))
    monkeypatch.syspath_prepend(tmp_path / "mine")
    follow(DOCS / "tutorials" / "own-data.md", tmp_path)
    follow(DOCS / "tutorials" / "own-signal.md", tmp_path)
    assert "runs/mine: clean" in capsys.readouterr().out
    assert {"shaped", "shaped-k1", "shaped-padding", "shaped-confidence"} <= {
        folder.name for folder in (tmp_path / "runs" / "mine" / "round-000").iterdir()
    }
    assert (tmp_path / "runs" / "mine-rounds" / "round-001" / "policy").is_dir()
    sys.modules.pop("confidence", None)
