from __future__ import annotations

import os
import pickle
import re
import stat
import threading

import pytest
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

from pass_ops.shards import names
from pass_ops.shards import store as store_module
from pass_ops.shards.store import _MEMORY_CREATE, Store


def test_create_publishes_once_and_put_replaces(root):
    store = Store(root)
    assert store.create("_done/a.json", b"first")
    assert not store.create("_done/a.json", b"second")
    assert store.read("_done/a.json") == b"first"
    store.put("_done/a.json", b"third")
    assert store.read("_done/a.json") == b"third"


def test_a_listing_is_of_one_folder_by_name_with_sizes_and_times(root):
    store = Store(root)
    for name in ("b", "a", "below/c"):
        store.create(name, b"12345")
    listed = store.entries()
    assert [(entry.name, entry.size) for entry in listed] == [("a", 5), ("b", 5)]
    assert all(entry.modified is not None for entry in listed)
    assert [entry.name for entry in store.entries("below")] == ["c"]
    assert store.folders() == ["below"]
    assert store.entries("absent") == []


def test_a_removed_file_is_gone_and_removing_it_again_is_fine(root):
    store = Store(root)
    store.create("a", b"x")
    assert store.exists("a")
    store.remove("a")
    store.remove("a")
    assert not store.exists("a")
    with pytest.raises(FileNotFoundError):
        store.read("a")


def test_many_files_are_read_together_and_a_missing_one_is_none(root):
    store = Store(root)
    store.create("a", b"1")
    store.create("b", b"2")
    assert store.read_many(["a", "gone", "b"]) == {"a": b"1", "gone": None, "b": b"2"}
    assert store.read_many([]) == {}


def test_a_store_finds_its_folder_again_after_pickling(root):
    Store(root).create("a", b"x")
    assert pickle.loads(pickle.dumps(Store(root))).read("a") == b"x"


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_of_many_threads_exactly_one_creates(kind, tmp_path):
    store = Store(str(tmp_path) if kind == "local" else f"memory://race-{tmp_path.name}")
    barrier = threading.Barrier(8)
    won = []

    def create(number: int) -> None:
        barrier.wait()
        if store.create("marker", b"%d" % number):
            won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.read("marker") == b"%d" % won[0]
    store.remove("marker")


def test_a_store_in_memory_tests_and_sets_under_one_lock(monkeypatch, tmp_path):
    store = Store(f"memory://locked-{tmp_path.name}")
    held: list[bool] = []
    monkeypatch.setattr(type(store.fs), "pipe_file", lambda *what, **how: held.append(_MEMORY_CREATE.locked()))
    assert store.create("a", b"x")
    assert (held, _MEMORY_CREATE.locked()) == ([True], False)


def test_an_object_store_is_asked_for_a_file_once(monkeypatch, tmp_path):
    plain = Store(f"memory://once-{tmp_path.name}")
    plain.create("a", b"x")
    overlapping, asked = AsyncFileSystemWrapper(plain.fs, asynchronous=False), []
    for files, how in ((plain.fs, {}), (overlapping, {"start": 0})):
        read = files.cat_file
        monkeypatch.setattr(files, "cat_file", lambda path, read=read, **how: asked.append(how) or read(path, **how))
        monkeypatch.setattr(store_module, "_filesystem", lambda root, files=files: files)
        assert plain.read("a") == b"x"
        assert asked.pop() == how
        monkeypatch.undo()


def test_every_operation_is_announced_before_it_begins(tmp_path):
    announced: list[tuple[str, str]] = []
    store = Store(str(tmp_path), lambda *what: announced.append(what))
    store.create("_done/a", b"1")
    store.put("b", b"1")
    store.exists("b")
    store.read("b")
    store.open("b").close()
    store.entries("_done")
    store.folders()
    store.at(f"{tmp_path}/_done").remove("a")
    assert announced == [
        ("create", "_done/a"),
        ("create:temporary", "_done/a"),
        ("create:link", "_done/a"),
        ("put", "b"),
        ("create:temporary", "b"),
        ("put:rename", "b"),
        ("exists", "b"),
        ("read", "b"),
        ("read", "b"),
        ("list", "_done"),
        ("list", ""),
        ("remove", "a"),
    ]


@pytest.mark.parametrize("write", [Store.create, Store.put])
def test_a_writer_killed_before_it_publishes_leaves_a_hidden_file_that_tells_its_fingerprint(tmp_path, write):
    seen: list[str] = []

    def look(operation: str, name: str) -> None:
        if operation in ("create:link", "put:rename"):
            seen.extend(os.listdir(tmp_path))

    name = names.data(0, "0123abcd", "f" * 64)
    write(Store(str(tmp_path), look), name, b"x")
    assert re.fullmatch(rf"\.{re.escape(name)}\.[0-9a-f]{{12}}\.tmp", *seen)
    assert names.fingerprint_of("", *seen) == "0123abcd"
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("write", ["create", "put"])
def test_content_is_synced_before_it_has_its_name_and_the_name_after(monkeypatch, tmp_path, write):
    """What only a power cut would show."""
    synced = []

    def fsync(descriptor: int) -> None:
        found = os.fstat(descriptor)
        what = "folder" if stat.S_ISDIR(found.st_mode) else f"{found.st_size} bytes"
        synced.append((what, (tmp_path / "name").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    getattr(Store(str(tmp_path)), write)("name", b"content")
    assert synced == [("7 bytes", False), ("folder", True)]


def test_a_temporary_file_that_somebody_else_removes_is_written_again(tmp_path):
    removed: list[str] = []

    def remove(operation: str, _: str) -> None:
        if operation == "create:link" and len(removed) < 2:
            removed.extend(os.listdir(tmp_path))
            os.unlink(tmp_path / removed[-1])

    assert Store(str(tmp_path), remove).create("a", b"x")
    assert len(set(removed)) == 2
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"a": b"x"}


@pytest.mark.parametrize("scheme", ["", "file://", "local://"])
def test_a_local_folder_may_be_named_by_a_url(tmp_path, scheme):
    store = Store(f"{scheme}{tmp_path}/")
    assert (store.is_local, store.path(""), store.path("a/b")) == (True, str(tmp_path), f"{tmp_path}/a/b")
    assert not Store("memory://run/").is_local
    assert [Store("memory://run/").path(name) for name in ("", "a")] == ["/run", "/run/a"]
