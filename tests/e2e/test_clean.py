"""What killed processes leave behind goes with the next run or with `passrl clean`; what somebody uses stays."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from pathlib import Path

import pytest

from pass_ops.shards import Store, names
from pass_ops.support.temporary import is_abandoned, temporary_prefix
from pipelines.cli.parser import main
from pipelines.runs.leftovers import leftovers, remove_leftovers
from trainer.folder_lock import LOCK, locked


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def dead() -> int:
    """The pid of a process that has ended."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return child


def killed_while_writing(folder: Path) -> Path:
    """A temporary file of a process that was killed in the middle of a put."""

    def stop(operation: str, name: str) -> None:
        if operation == "put:rename":
            os._exit(9)

    child = os.fork()
    if child == 0:
        Store(str(folder), stop).put("results.json", b"{}")
    os.waitpid(child, 0)
    (found,) = folder.glob(".results.json.*.tmp")
    return found


@pytest.fixture
def run(tmp_path) -> Path:
    folder = tmp_path / "run"
    (folder / "round-000/train/state").mkdir(parents=True)
    return folder


def test_the_journal_of_an_open_part_stays_and_that_of_a_committed_one_goes(run):
    store = Store(str(run / "round-000/rollouts"))
    committed, still_open = (names.journal(part, "0123abcd", "0123456789ab", 0) for part in (0, 1))
    for name in (committed, still_open, names.done(0, "0123abcd")):
        store.create(name, b"rollouts")
    (found,) = remove_leftovers(leftovers(str(run)))
    assert (found.path, found.bytes) == (store.path(committed), 8)
    assert store.exists(still_open)


def test_a_killed_writers_file_is_listed_and_removed_only_when_asked(run, capsys):
    file = killed_while_writing(run / "round-000/eval/b")
    assert main(["clean", str(run)]) == 0
    assert f"{file}: a file whose writer was killed, 2 bytes" in capsys.readouterr().out
    assert file.exists()
    assert main(["clean", str(run), "--yes", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["path"], told["removed"]) == (str(file), True)
    assert not file.exists()
    assert main(["clean", str(run)]) == 0
    assert capsys.readouterr().out == "nothing is left behind\n"


def test_a_file_that_is_being_written_stays(run):
    def look(operation: str, name: str) -> None:
        if operation == "put:rename":
            assert list(run.glob(".a.*.tmp"))
            assert leftovers(str(run)) == []

    Store(str(run), look).put("a", b"content")
    assert (run / "a").read_bytes() == b"content"


def test_a_writer_whose_file_was_taken_all_the_same_writes_it_again(run):
    taken = []

    def take(operation: str, name: str) -> None:
        if operation in ("put:rename", "create:link") and not taken:
            (file,) = run.glob(".*.tmp")
            taken.append(file.unlink())

    Store(str(run), take).put("a", b"content")
    taken.clear()
    assert Store(str(run), take).create("b", b"content")
    assert (run / "a").read_bytes() == (run / "b").read_bytes() == b"content"


@pytest.mark.parametrize("look", ["is_dir", "lstat"])
def test_a_temporary_folder_that_vanishes_while_it_is_looked_at_is_nobodys_leftover(
    run, own_temporary_folder, monkeypatch, look
):
    folder = own_temporary_folder / f"{temporary_prefix()}x"
    folder.mkdir()
    answer = getattr(Path, look)

    def answered_and_gone(path: Path) -> object:
        found = answer(path)
        if path == folder:
            folder.rmdir()
        return found

    monkeypatch.setattr(Path, look, answered_and_gone)
    assert leftovers(str(run)) == []


def test_a_checkpoint_whose_marker_is_written_before_it_is_removed_stays(run):
    checkpoint = run / "round-000/train/state/step-00000004"
    checkpoint.mkdir()
    found = leftovers(str(run))
    checkpoint.with_name("step-00000004.json").write_text("{}")
    assert [one.path for one in found] == [str(checkpoint)]
    assert remove_leftovers(found) == []
    assert checkpoint.exists()


def test_of_a_training_goes_what_was_half_saved_unless_a_trainer_is_at_it(run):
    train = run / "round-000/train"
    for half in (train / "state/step-00000004", train.parent / ".policy.writing"):
        half.mkdir()
        (half / "weights").write_bytes(b"half")
    whole = train / "state/step-00000002"
    whole.mkdir()
    whole.with_name("step-00000002.json").write_text("{}")
    with locked(train / LOCK):
        assert leftovers(str(run)) == []
    found = leftovers(str(run))
    assert [Path(leftover.path).name for leftover in found] == ["step-00000004", ".policy.writing"]
    with locked(train / LOCK):
        assert remove_leftovers(found) == []
    assert remove_leftovers(found) == found
    assert sorted(path.name for path in train.rglob("*")) == ["state", "step-00000002", "step-00000002.json"]


def test_folders_for_temporary_files_are_told_by_their_process(run, own_temporary_folder):
    namespace, pid, started, _ = temporary_prefix().removeprefix("passrl-").split("-")
    assert int(pid) == os.getpid()
    ours, other, reused, gone, strangers = (
        own_temporary_folder / name
        for name in (
            f"passrl-{namespace}-{pid}-{started}-abc",
            f"passrl-{int(namespace) + 1}-{dead()}-5-abc",
            f"passrl-{namespace}-{pid}-{int(started) + 1}-abc",
            f"passrl-{namespace}-{dead()}-{started}-abc",
            "passrl-x7f3",
        )
    )
    for folder in (ours, other, reused, gone, strangers):
        folder.mkdir()
        (folder / "file").write_bytes(b"1234")
    assert [is_abandoned(folder.name) for folder in (ours, other, reused, gone, strangers)] == [
        False, False, True, True, False,
    ]  # fmt: skip
    removed = remove_leftovers(leftovers(str(run)))
    assert {(leftover.path, leftover.bytes) for leftover in removed} == {(str(reused), 4), (str(gone), 4)}
    assert sorted(own_temporary_folder.iterdir()) == sorted([ours, other, strangers])


def test_the_next_run_removes_them(project, own_temporary_folder):
    file = killed_while_writing(Path(project.out) / "round-000/eval/small")
    namespace = temporary_prefix().split("-")[1]
    scratch = own_temporary_folder / f"passrl-{namespace}-{dead()}-1-abc"
    scratch.mkdir()
    assert main(["generate", project.config, "--out", project.out]) == 0
    assert not file.exists()
    assert not scratch.exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path, capsys):
    assert main(["clean", str(tmp_path / "tmp"), "--yes"]) == 2
    assert "is no RUN folder" in capsys.readouterr().err


def test_a_lock_by_hand_keeps_a_file(run):
    file = killed_while_writing(run)
    with file.open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert leftovers(str(run)) == []
    assert [leftover.path for leftover in leftovers(str(run))] == [str(file)]
