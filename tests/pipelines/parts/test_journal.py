"""The journal on its own: what is read back is what was added, whatever happens to its files."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pass_ops import shards
from pass_ops.errors import StoreError
from pass_ops.shards import Dataset, Store, names
from pipelines.parts.journal import Journal, Journals, left_journals, make_entry, read_entries

PIECES = {"a/0": b"first", "a/1": b"", "b/0": b"\x00" * 100}


@pytest.fixture(params=["local", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "out") if request.param == "local" else f"memory://{tmp_path.name}/out"


def dataset(url: str, *, seed: int = 0, before: Callable[[str, str], None] | None = None) -> Dataset:
    spec = shards.DatasetSpec(stage="prompts", stage_version=1, options={}, parts=2, seed=seed)
    return shards.create_dataset(url, spec, store=Store(url, before))


def journal(made: Dataset, part: int = 0, *, inputs: str = "x", left: bool = True) -> Journal:
    return Journal(made, part, inputs=inputs, left=left_journals(made).get(part, ()) if left else ())


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the journal said: a client of an earlier test may be collected, and say so, at any time."""
    return [one.getMessage() for one in caplog.records if one.name == "pipelines.parts.journal"]


def write(made: Dataset, pieces: dict[str, bytes] = PIECES, part: int = 0) -> None:
    """As an attempt that is lost afterwards."""
    writer = journal(made, part)
    for name, content in pieces.items():
        writer.add(name, content)
    writer.flush()
    writer.close()


def test_the_next_attempt_reads_what_every_attempt_before_it_added(url: str) -> None:
    made = dataset(url)
    assert journal(made).read() == {}
    write(made)
    write(made, {"b/1": b"later"})
    assert journal(made).read() == PIECES | {"b/1": b"later"}
    assert journal(made, part=1).read() == {}


@pytest.mark.parametrize("other", ["inputs", "part", "fingerprint"])
def test_what_was_made_of_something_else_is_not_read(url: str, other: str) -> None:
    made = dataset(url)
    write(made)
    (files,) = left_journals(made).values()
    if other == "fingerprint":
        made = dataset(f"{url}-other", seed=1)
        made.store.create(files[0], Store(url).read(files[0]))
    reader = Journal(made, int(other == "part"), inputs="y" if other == "inputs" else "x", left=files)
    assert reader.read() == {}


def test_discarding_removes_everything_and_ends_the_journal(url: str) -> None:
    made = dataset(url)
    write(made)
    last = journal(made)
    last.add("c/0", b"more")
    last.flush()
    last.discard()
    last.add("c/1", b"too late")
    last.flush()
    assert left_journals(made) == {}


def test_a_torn_or_damaged_entry_ends_the_file_and_costs_nothing_before_it() -> None:
    entries = [make_entry(b"key", name, content) for name, content in PIECES.items()]
    whole = b"".join(entries)
    assert dict(read_entries(whole, b"key")) == PIECES
    ends = [0, *(len(b"".join(entries[: count + 1])) for count in range(3))]
    for cut in range(len(whole)):
        assert len(list(read_entries(whole[:cut], b"key"))) == sum(end <= cut for end in ends[1:])
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        intact = sum(end <= bit // 8 for end in ends[1:])
        assert list(read_entries(bytes(flipped), b"key")) == list(PIECES.items())[:intact]


def test_two_attempts_at_once_neither_see_nor_disturb_each_other(url: str) -> None:
    made = dataset(url)
    one, two = journal(made), journal(made)
    one.add("a/0", b"of one")
    two.add("a/0", b"of two")
    one.flush()
    one.discard()
    two.add("a/1", b"still there")
    two.flush()
    two.close()
    assert journal(made).read() == {"a/0": b"of two", "a/1": b"still there"}


def test_two_flushes_at_once_write_two_segments(tmp_path: Path) -> None:
    """The part fails, and is flushed for the last time, while the thread that flushes regularly is at work."""

    class Lock:
        """When the first flush gives it back, the second one comes."""

        def __enter__(self) -> None:
            pass

        def __exit__(self, *error: object) -> None:
            if later:
                writer.add(*later.pop())
                writer.flush()

    made = dataset(f"memory://{tmp_path.name}/out")
    writer = journal(made)
    writer.add("a/0", b"first")
    later = [("a/1", b"second")]
    writer._lock = Lock()  # type: ignore[assignment]
    writer.flush()
    writer.close()
    assert journal(made).read() == {"a/0": b"first", "a/1": b"second"}


def test_nothing_is_written_where_nothing_is_added(url: str) -> None:
    made = dataset(url)
    idle = journal(made)
    idle.flush()
    idle.discard()
    assert made.store.entries(names.JOURNAL) == []


def test_on_a_full_disk_the_part_goes_on_and_the_journals_room_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = dataset(str(tmp_path / "out"))
    full = journal(made)
    full.add("a/0", b"fits")
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: real(descriptor, content[:10]))
    with caplog.at_level(logging.WARNING):
        full.add("a/1", b"does not fit")
        full.add("a/2", b"is not tried")
    full.flush()
    assert len(told(caplog)) == 1
    assert "No space left" in caplog.text
    assert "goes on without it" in caplog.text
    assert made.store.entries(names.JOURNAL) == []


@pytest.mark.parametrize("error", [StoreError(errno.ENOSPC, "quota"), RuntimeError("endpoint gone")])
def test_a_store_that_refuses_costs_the_journal_alone(
    tmp_path: Path, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(operation: str, name: str) -> None:
        if operation == "create" and name.startswith(names.JOURNAL):
            raise error

    made = dataset(f"memory://{tmp_path.name}/refusing", before=refuse)
    refused = journal(made)
    refused.add("a/0", b"1")
    refused.flush()
    refused.add("a/1", b"2")
    refused.flush()
    refused.discard()
    assert [str(error) in message for message in told(caplog)] == [True]


def test_an_unreadable_journal_is_told_of_and_counts_for_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = dataset(str(tmp_path / "out"))
    write(made)
    (files,) = left_journals(made).values()
    reader = Journal(made, 0, inputs="x", left=(*files, "_journal/000000-gone.bin"))
    assert reader.read() == PIECES
    assert "what it kept is made again" in caplog.text


def test_a_journal_that_was_discarded_is_not_looked_for_again(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A part that is refused is begun again, with nothing kept."""
    made = dataset(url)
    write(made)
    journals = Journals(made)
    journals.look()
    first = journals.begin(0, inputs=lambda: "x")
    assert first is not None
    assert first.read() == PIECES
    journals.forget(0)
    again = journals.begin(0, inputs=lambda: "x")
    assert again is not None
    assert again.read() == {}
    assert told(caplog) == []


def test_journals_of_committed_parts_are_swept(tmp_path: Path) -> None:
    made = dataset(str(tmp_path / "out"))
    write(made, part=0)
    write(made, part=1)
    made.store.create(names.done(0, made.fp8), b"{}")
    assert set(left_journals(made)) == {1}
    assert len(made.store.entries(names.JOURNAL)) == 1
