"""HDFS knows no exclusive create: a temporary file is renamed, and the rename refuses an existing target."""

from __future__ import annotations

import errno
import os
import re

import fsspec
import pyarrow.fs as pafs
import pytest
from fsspec.implementations.arrow import ArrowFSWrapper
from verifying import said

from pass_ops.errors import StoreError
from pass_ops.shards import store as store_module
from pass_ops.shards.store import Store


class _NameNode(pafs.FSSpecHandler):
    """HDFS as the protocol sees it: a rename that refuses an existing target, no exclusive open."""

    def move(self, source, target):
        if self.fs.exists(target):
            raise OSError(errno.EEXIST, "rename refused", target)
        self.fs.mv(source, target)


class _Files(ArrowFSWrapper):
    """makedirs as fsspec describes it."""

    def makedirs(self, path, exist_ok=False):
        os.makedirs(path, exist_ok=exist_ok)


@pytest.fixture
def hdfs(tmp_path, monkeypatch):
    files = _Files(pafs.PyFileSystem(_NameNode(fsspec.filesystem("file", auto_mkdir=False))))
    monkeypatch.setattr(store_module, "_filesystem", lambda root: files)
    monkeypatch.setattr(store_module, "_base", lambda root: root.removeprefix("hdfs://host"))
    return Store(f"hdfs://host{tmp_path}/run")


def test_the_first_one_creates(hdfs, tmp_path):
    assert hdfs.create("_done/a", b"first")
    assert not hdfs.create("_done/a", b"second")
    assert hdfs.read("_done/a") == b"first"
    assert os.listdir(tmp_path / "run" / "_done") == ["a"]


def test_a_refused_rename_is_a_lost_race(hdfs, tmp_path, monkeypatch):
    hdfs.create("a", b"first")
    asked, answers = [], iter([False, True])  # not there when looked at, there when the rename is refused
    monkeypatch.setattr(type(hdfs.fs), "exists", lambda self, path: asked.append(path) or next(answers))
    assert not hdfs.create("a", b"second")
    assert asked == [hdfs.path("a")] * 2
    assert os.listdir(tmp_path / "run") == ["a"]


def test_a_rename_that_fails_for_another_reason_is_an_error(hdfs, tmp_path, monkeypatch):
    def broken(self, source, target):
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(type(hdfs.fs), "mv", broken)
    assert said(StoreError, lambda: hdfs.create("a", b"x")).startswith(
        f"[Errno {errno.EIO}] creating {hdfs.path('a')} failed: input/output error; "
    )
    assert os.listdir(tmp_path / "run") == []


@pytest.mark.parametrize("write", [Store.create, Store.put])
def test_the_temporary_file_lies_hidden_beside_its_target(hdfs, monkeypatch, write):
    moved, move = [], type(hdfs.fs).mv
    monkeypatch.setattr(type(hdfs.fs), "mv", lambda self, *paths: moved.append(paths) or move(self, *paths))
    write(hdfs, "_done/a", b"x")
    [(temporary, target)] = moved
    assert target == hdfs.path("_done/a")
    assert re.fullmatch(re.escape(hdfs.path("_done")) + r"/\.a\.[0-9a-f]{12}\.tmp", temporary)


def test_put_replaces(hdfs):
    hdfs.put("a", b"1")
    hdfs.put("a", b"2")
    assert hdfs.read("a") == b"2"
