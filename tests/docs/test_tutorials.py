"""The tutorials run as they stand, from their own files, in one folder; only the engine is a recorded one."""

from __future__ import annotations

import io
import shlex
import shutil
import subprocess
from contextlib import redirect_stdout

import pytest

from pipelines.cli import main
from tests.docs.pages import DOCS, PAGES, ROOT, blocks, name

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


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """The folder after both tutorials, and what their commands printed."""
    folder = tmp_path_factory.mktemp("reader")
    policy = "pipelines/demo/assets/policy"
    shutil.copytree(ROOT / policy, folder / policy)
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.chdir(folder)
        patch.setenv("PYTHONPATH", str(ROOT))
        follow(DOCS / "tutorials" / "own-data.md", folder)
        follow(DOCS / "tutorials" / "own-signal.md", folder)
    return folder, printed.getvalue()


def test_the_tutorials_on_data_and_signals_run(followed):
    folder, printed = followed
    assert "runs/mine: clean" in printed
    made = {path.name for path in (folder / "runs" / "mine" / "round-000").iterdir()}
    assert {"shaped", "shaped-k1", "shaped-padding", "shaped-confidence"} <= made
    assert (folder / "runs" / "mine-rounds" / "round-001" / "policy").is_dir()


def test_the_training_loop_on_its_page_runs(followed, monkeypatch):
    ((_, loop),) = blocks(DOCS / "how-to" / "train.md", "python")
    monkeypatch.chdir(followed[0])
    names: dict[str, object] = {}
    exec(loop.replace("models/mine", "pipelines/demo/assets/policy").replace("updates=16", "updates=2"), names)
    assert isinstance(names["metrics"], dict)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_python_block_is_python(page):
    for title, body in blocks(page, "python"):
        compile(body, title or str(page), "exec")
