"""The page about rollouts of one's own runs as it stands, and from a file of each format that import reads."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from pass_ops import shards
from pipelines.cli import main
from pipelines.imports.formats import FORMATS
from tests.docs.foreign_files import FILES, prime_tokens
from tests.docs.pages import DOCS, ROOT, blocks

PAGE = DOCS / "tutorials" / "own-rollouts.md"
RUN = "runs/mine"
#: neither rewards nor step labels are in these: a signal has to be scored before there is something to shape
NOTHING_TO_SHAPE = {"prime_tokens", "openai_batch", "tinker"}


def files_of_the_page(folder: Path) -> None:
    shutil.copytree(ROOT / "pipelines/demo/assets/policy", folder / "pipelines/demo/assets/policy")
    for language in ("json", "toml"):
        for title, body in blocks(PAGE, language):
            (folder / title).parent.mkdir(exist_ok=True)
            (folder / title).write_text(body)


def commands() -> list[list[str]]:
    bodies = [body.replace("\\\n", " ") for _, body in blocks(PAGE, "sh")]
    found = [shlex.split(line) for body in bodies for line in body.splitlines()]
    assert [words[0] for words in found] == [".venv/bin/passrl"] * len(found)
    return [words[1:] for words in found]


def run(words: list[str], *, may_find: bool = False) -> None:
    """A command of the page; `lint` ends with 1 where it finds an error, which noise may have."""
    code = main(words)
    assert code == 0 or (may_find and code == 1 and words[0] == "lint"), words


@pytest.fixture
def reader(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files_of_the_page(tmp_path)
    return tmp_path


def exported() -> list[dict]:
    names: dict[str, list[dict]] = {}
    ((_, reading),) = blocks(PAGE, "python")
    exec(reading, names)
    return names["rows"]


def test_the_page_runs_and_prints_what_it_says(reader, capsys):
    for words in commands():
        run(words)
    printed = capsys.readouterr().out
    for _, body in blocks(PAGE, "text"):
        for line in body.splitlines():
            assert " ".join(line.split()) in " ".join(printed.split()), line
    assert "nothing found" in printed
    assert "Pay for one more token is unknown" in printed  # rollouts of one verdict are of one length there
    assert "p1" in (reader / "mine/credit.html").read_text()
    rows = exported()
    assert [len(set(row["advantages"])) for row in rows] == [len(row["chunk_ends"]) for row in rows]
    assert len(rows) == 8


def test_each_format_has_a_file_here():
    assert FORMATS.keys() - NOTHING_TO_SHAPE <= FILES.keys()


def test_rollouts_without_a_signal_are_imported_to_be_looked_at(reader, tiny_model, capsys):
    run(["import", "prime_tokens", str(prime_tokens(reader)), "--tokenizer", tiny_model, "--out", RUN])
    run(["inspect", f"{RUN}/round-000/rollouts"])
    assert main(["shape", "mine/shape.toml", "--out", RUN]) != 0
    assert "signals/steps" in "".join(capsys.readouterr())


@pytest.mark.parametrize("name", sorted(FILES.keys() & FORMATS.keys()))
def test_the_page_runs_from_a_file_of_each_format(name, reader, tiny_model):
    """Only the line that imports, the signals' names and the rollout to explain are others."""
    write, signals = FILES[name]
    source = write(reader)
    imported, *rest = commands()
    assert imported[:2] == ["import", "rows"]
    run(["import", name, str(source), "--tokenizer", tiny_model, "--out", RUN])
    shaping = (reader / "mine/shape.toml").read_text()
    (reader / "mine/shape.toml").write_text(re.sub(r"(?s)(\[shape\]\n).*", rf"\1{signals}", shaping))
    rollouts = shards.open_dataset(f"{RUN}/round-000/rollouts")
    ids = [one for part in range(rollouts.spec.parts) for one in rollouts.read_part(part)["rollout_id"].to_pylist()]
    assert len(ids) == 8
    for words in rest:
        run([ids[1] if word == "p1/1" else word for word in words], may_find=True)
    rows = exported()
    assert sorted(row["rollout_id"] for row in rows) == sorted(ids)
    groups = {row["group_id"] for row in rows}
    several = len(groups) < 8  # evaluations have one answer a task, and a group of one teaches nothing
    assert any(any(row["advantages"]) for row in rows) == several
