from __future__ import annotations

import errno
import os
import pickle
import resource
import threading
import uuid

import fsspec
import pyarrow.fs as pafs
import pytest
from fsspec.implementations.arrow import ArrowFSWrapper

from pass_ops.errors import StoreError
from pass_ops.shards import store as store_module
from pass_ops.shards.store import Store


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


def test_a_disk_that_fills_up_in_the_middle_of_a_file_publishes_nothing(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(StoreError, match=r"nothing half-written was published.*free space") as raised:
            Store(str(tmp_path)).create("part", b"x" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert raised.value.errno == errno.EFBIG
    assert isinstance(raised.value, OSError)
    assert os.listdir(tmp_path) == []


def test_a_file_system_without_hard_links_is_refused_with_the_way_out(tmp_path, monkeypatch):
    def no_links(*args):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(StoreError, match=r"no hard links.*s3://"):
        Store(str(tmp_path)).create("a", b"x")
    assert os.listdir(tmp_path) == []


class _Refusal(Exception):
    def __init__(self, code: str) -> None:
        self.response = {"Error": {"Code": code}}


@pytest.mark.parametrize("code", ["ConditionalRequestConflict", "OperationAborted"])
def test_a_conflict_of_conditional_puts_is_tried_again(code, monkeypatch):
    store = Store(f"memory://{uuid.uuid4()}")
    real, refusals = store.fs.pipe_file, [code, code]

    def sometimes(path, content, mode):
        if refusals:
            raise OSError(errno.EBUSY, "conflict") from _Refusal(refusals.pop())
        return real(path, content, mode=mode)

    monkeypatch.setattr(type(store.fs), "pipe_file", staticmethod(sometimes))
    assert store.create("a", b"x")
    assert refusals == []


def test_an_error_of_the_store_is_no_lost_race(monkeypatch):
    store = Store("memory://broken")

    def broken(path, content, mode):
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(type(store.fs), "pipe_file", staticmethod(broken))
    with pytest.raises(StoreError, match=r"creating /broken/a failed: input/output error"):
        store.create("a", b"x")


class _NameNode(pafs.FSSpecHandler):
    """HDFS as the protocol sees it: a rename that refuses an existing target, no exclusive open."""

    def move(self, source, target):
        if self.fs.exists(target):
            raise OSError(errno.EEXIST, "rename refused", target)
        self.fs.mv(source, target)


@pytest.fixture
def hdfs(tmp_path, monkeypatch):
    files = ArrowFSWrapper(pafs.PyFileSystem(_NameNode(fsspec.filesystem("file", auto_mkdir=False))))
    monkeypatch.setattr(store_module, "_filesystem", lambda root: files)
    monkeypatch.setattr(store_module, "_base", lambda root: root.removeprefix("hdfs://host"))
    return Store(f"hdfs://host{tmp_path}/run")


def test_on_hdfs_the_rename_decides_who_was_first(hdfs, monkeypatch, tmp_path):
    assert hdfs.create("_done/a", b"first")
    assert not hdfs.create("_done/a", b"second")
    monkeypatch.setattr(type(hdfs.fs), "exists", lambda self, path: path.endswith("/b") and os.path.exists(path + "x"))
    assert os.listdir(tmp_path / "run" / "_done") == ["a"]
    assert hdfs.read("_done/a") == b"first"


def test_on_hdfs_a_refused_rename_is_a_lost_race(hdfs, tmp_path, monkeypatch):
    hdfs.create("a", b"first")
    answers = iter([False, True])  # not there when looked at, there when the rename is refused
    monkeypatch.setattr(type(hdfs.fs), "exists", lambda self, path: next(answers))
    assert not hdfs.create("a", b"second")
    assert os.listdir(tmp_path / "run") == ["a"]


def test_on_hdfs_put_replaces(hdfs):
    hdfs.put("a", b"1")
    hdfs.put("a", b"2")
    assert hdfs.read("a") == b"2"
