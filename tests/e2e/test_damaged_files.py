"""Small files that are damaged: whoever reads one names it and says what to do; `verify` finds every one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pass_ops.errors import PassError
from pass_ops.shards import Store
from pass_ops.shards.finalize import read_run_record
from pipelines.cli.parser import main
from pipelines.runs.evaluate import read_results
from pipelines.runs.lineage import read_lineage
from tests.e2e.project import Project, make_project
from trainer.records import complete_checkpoints, read_done, read_identity, read_metrics

ROUND = "round-000"
READERS = {
    "lineage.json": lambda run: read_lineage(str(run)),
    f"{ROUND}/eval/small/results.json": lambda run: read_results(str(run / ROUND / "eval/small")),
    f"{ROUND}/rollouts/_run.json": lambda run: read_run_record(Store(str(run / ROUND / "rollouts"))),
    f"{ROUND}/train/_train.json": lambda run: read_identity(run / ROUND / "train"),
    f"{ROUND}/train/_done.json": lambda run: read_done(run / ROUND / "train"),
    f"{ROUND}/train/metrics.jsonl": lambda run: read_metrics(run / ROUND / "train"),
    f"{ROUND}/train/state/step-*.json": lambda run: complete_checkpoints(run / ROUND / "train/state"),
}
OF_DATASETS = [f"{ROUND}/rollouts/{name}" for name in ("_dataset.json", "_manifest-*.json", "_done/000001-*.json")]
WRONG = (b"", b"{}", b"[]", b"null", b"1", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"format_version": 7}')


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_model) -> Project:
    project = make_project(tmp_path_factory.mktemp("damaged"), tiny_model)
    assert main(["rounds", project.config, "--out", project.out, "--rounds", "1"]) == 0
    return project


@pytest.fixture
def project(made, tmp_path) -> Project:
    """A finished round in a folder of its own."""
    shutil.copytree(made.folder, tmp_path, dirs_exist_ok=True)
    return Project(tmp_path)


def found(run: Path, pattern: str) -> Path:
    return next(iter(sorted(run.glob(pattern))))


def damages(content: bytes) -> Iterator[bytes]:
    """Every truncation of a small file, two hundred of a larger one; other documents; each value of another type."""
    yield from (content[:length] for length in range(0, len(content), max(1, len(content) // 200)))
    yield from WRONG
    yield from (wrong + b"\n" for wrong in WRONG)
    for document in (line for line in content.split(b"\n}\n") if line.startswith(b"{")):
        try:
            values = json.loads(document)
        except ValueError:
            continue
        for key in values:
            yield from (
                json.dumps({**values, key: other}).encode() for other in (None, [], {}, "x", [None], {"x": None})
            )
            yield json.dumps({name: value for name, value in values.items() if name != key}).encode()


def refusal(pattern: str, run: Path) -> str | None:
    try:
        READERS[pattern](run)
    except PassError as error:
        return str(error)
    return None


@pytest.mark.parametrize("pattern", READERS)
def test_a_reader_takes_a_damaged_file_or_names_it(made, tmp_path, pattern):
    run = tmp_path / "run"
    shutil.copytree(made.out, run)
    file = found(run, pattern)
    whole, refused = file.read_bytes(), 0
    for content in damages(whole):
        file.write_bytes(content)
        if (message := refusal(pattern, run)) is not None:
            refused += 1
            assert file.name in message
            assert len(message) < 600
    assert refused >= 6
    file.write_bytes(whole)
    READERS[pattern](run)


@pytest.mark.parametrize("damage", [b"", b"[]\n"], ids=["empty", "list"])
@pytest.mark.parametrize("pattern", [*READERS, *OF_DATASETS])
def test_verify_finds_it_and_no_question_ends_in_a_traceback(project, capsys, pattern, damage):
    file = found(Path(project.out), pattern)
    file.write_bytes(damage)
    assert main(["verify", project.out]) == 1
    assert file.name in capsys.readouterr().out
    rollouts = f"{project.out}/{ROUND}/rollouts"
    for question in (["status", project.out], ["inspect", project.out], ["inspect", rollouts], ["verify", rollouts],
                     ["lint", f"{project.out}/{ROUND}/shaped"], ["finalize", rollouts]):  # fmt: skip
        code = main(question)
        shown = capsys.readouterr().err
        assert code in (0, 1, 2)
        assert code != 2 or file.name in shown or "no training with a finished step" in shown, (question, shown)


@pytest.mark.parametrize("pattern", [*READERS, *OF_DATASETS])
def test_a_rerun_mends_it_or_names_it(project, capsys, pattern):
    file = found(Path(project.out), pattern)
    file.write_bytes(b"{")
    code = main(["run", project.config, "--out", project.out])
    assert code in (0, 2)
    if code == 2:
        assert file.name in capsys.readouterr().err
    else:
        assert file.read_bytes() != b"{" or main(["verify", project.out]) == 1
