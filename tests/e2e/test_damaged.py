"""Whoever reads a damaged part names it, with a command that makes it again, and that command does."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from pass_ops.shards import open_dataset
from pipelines.cli.parser import main

READERS = {
    "score": ("rollouts", "score CONFIG --out RUN --signal late"),
    "generate": ("prompts", "generate CONFIG --out RUN --set run.seed=1"),
    "shape, of rollouts": ("rollouts", "shape CONFIG --out RUN --name again"),
    "shape, of a signal": ("signals/steps", "shape CONFIG --out RUN --name again"),
    "train": ("shaped", "train CONFIG --out RUN"),
    "inspect": ("shaped", "inspect RUN/round-000/shaped"),
    "inspect, of prompts": ("prompts", "inspect RUN/round-000/prompts"),
    "lint": ("shaped", "lint RUN/round-000/shaped"),
    "explain": ("shaped", "explain RUN nobody/0"),
    "sweep": ("signals/outcome", "sweep CONFIG --out RUN --grid k=0,1"),
    "reverify": ("rollouts", "score CONFIG --out RUN --reverify --signal outcome"),
    "prm-check": ("signals/steps", "prm-check RUN --signal steps --truth steps"),
    "verify": ("signals/outcome", "verify RUN"),
}  # fmt: skip


@pytest.fixture
def made(project):
    """A project whose stages are done."""
    for stage in ("generate", "score", "shape"):
        assert main([stage, project.config, "--out", project.out]) == 0
    late = '[signals.late]\nsignal = "format"\npattern = "1"\n'
    project.write("run.toml", f"{Path(project.config).read_text()}\n{late}")
    return project


def damaged_part(project, name: str) -> tuple[Path, str]:
    """Flips a bit in the middle of a dataset's first part; the file, and the dataset's content digest."""
    dataset = open_dataset(f"{project.out}/round-000/{name}")
    file = Path(dataset.store.path(dataset.parts[0].data))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    return file, dataset.content_digest


def spelled(project, command: str) -> list[str]:
    words = {"CONFIG": project.config, "RUN": project.out}
    return [re.sub("CONFIG|RUN", lambda found: words[found[0]], word) for word in shlex.split(command)]


@pytest.mark.parametrize("reader", READERS)
def test_a_reader_names_the_damaged_part_and_how_it_is_made_again(made, reader, capsys):
    name, command = READERS[reader]
    file, digest = damaged_part(made, name)
    capsys.readouterr()
    assert main(spelled(made, command)) in (1, 2)
    said = "".join(capsys.readouterr())
    assert str(file) in said
    assert "Traceback" not in said
    [again] = {*re.findall(r"Remove it, then `passrl ([^`]+)`", said)}
    file.unlink()
    assert main(spelled(made, again)) == 0
    assert open_dataset(f"{made.out}/round-000/{name}").content_digest == digest
    assert main(["verify", f"{made.out}/round-000/{name}"]) == 0
