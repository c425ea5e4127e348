"""What a store says when it refuses, and which refusals are lost races or worth another try."""

from __future__ import annotations

import errno
import os
import resource
import sys
import uuid

import pytest
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from verifying import said

from pass_ops.errors import StoreError
from pass_ops.shards import store as store_module
from pass_ops.shards.store import Store

FREE = "nothing half-written was published under that name; free space there and run the same command again"
MEND = "nothing half-written was published under that name; mend that and run the same command again"


def test_a_disk_that_fills_up_in_the_middle_of_a_file_publishes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a cut-off .pyc would break every later import
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(StoreError, match=f"File too large; {FREE}$") as raised:
            Store(str(tmp_path)).create("part", b"x" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert raised.value.errno == errno.EFBIG
    assert isinstance(raised.value, OSError)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP])
def test_a_file_system_without_hard_links_is_refused_with_the_way_out(tmp_path, monkeypatch, number):
    def no_links(*args):
        raise OSError(number, "Not this time")

    monkeypatch.setattr(os, "link", no_links)
    assert said(StoreError, lambda: Store(str(tmp_path)).create("a", b"x")) == (
        f"[Errno {number}] creating {tmp_path}/a failed: this file system has no hard links (Not this time), so "
        "two writers could not be kept apart; use a local disk, NFS, or the store's own URL (s3://, gs://)"
    )
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "fix"), [(errno.ENOSPC, FREE), (errno.EDQUOT, FREE), (errno.EFBIG, FREE), (errno.EIO, MEND)]
)
@pytest.mark.parametrize(
    ("act", "doing"),
    [
        (lambda store: store.read("a"), "reading"),
        (lambda store: store.create("a", b"x"), "creating"),
        (lambda store: store.put("a", b"x"), "writing"),
        (lambda store: store.remove("a"), "removing"),
    ],
)
def test_an_error_of_the_store_says_where_why_and_what_to_do(monkeypatch, number, fix, act, doing):
    store = Store(f"memory://{uuid.uuid4()}")

    def broken(*args, **options):
        raise OSError(number, "it broke")

    for name in ("cat_file", "pipe_file", "rm_file"):
        monkeypatch.setattr(type(store.fs), name, broken)
    assert said(StoreError, lambda: act(store)) == f"[Errno {number}] {doing} {store.path('a')} failed: it broke; {fix}"


def test_an_error_without_a_number_keeps_its_words(tmp_path, monkeypatch):
    def broken(*args):
        raise OSError("not today")

    monkeypatch.setattr(os, "link", broken)
    found = said(StoreError, lambda: Store(str(tmp_path)).create("a", b"x"))
    assert found == f"[Errno None] creating {tmp_path}/a failed: not today; {MEND}"


class _Refusal(Exception):
    """What botocore raises: the store's own code lies in `response`."""

    def __init__(self, response: object) -> None:
        self.response = response


def _refusing(monkeypatch, refusals: list[BaseException | None]) -> Store:
    """A store whose conditional puts fail for these causes, from the last to the first, and then succeed."""
    store = Store(f"memory://{uuid.uuid4()}")
    real = store.fs.pipe_file

    def sometimes(path, content, mode):
        if refusals:
            raise OSError(errno.EBUSY, "conflict") from refusals.pop()
        return real(path, content, mode=mode)

    monkeypatch.setattr(type(store.fs), "pipe_file", staticmethod(sometimes))
    return store


@pytest.mark.parametrize("code", ["ConditionalRequestConflict", "OperationAborted", "409", 409])
@pytest.mark.parametrize("times", [2, 19])
def test_a_conflict_of_conditional_puts_is_tried_again(monkeypatch, code, times):
    store = _refusing(monkeypatch, [_Refusal({"Error": {"Code": code}}) for _ in range(times)])
    assert store.create("a", b"x")
    assert store.read("a") == b"x"


def test_a_conflict_that_does_not_end_is_an_error(monkeypatch):
    store = _refusing(monkeypatch, [_Refusal({"Error": {"Code": "409"}}) for _ in range(20)])
    assert said(StoreError, lambda: store.create("a", b"x")) == (
        f"[Errno {errno.EAGAIN}] creating {store.path('a')} failed: another conditional put of this name was under way "
        f"20 times in turn; {MEND}"
    )


@pytest.mark.parametrize("code", ["PreconditionFailed", "412"])
def test_a_failed_precondition_is_a_lost_race(monkeypatch, code):
    assert not _refusing(monkeypatch, [_Refusal({"Error": {"Code": code}})]).create("a", b"x")


@pytest.mark.parametrize("response", [{"Error": {"Code": "500"}}, {"Error": {}}, {}, "412", None])
def test_an_error_of_the_store_is_no_lost_race(monkeypatch, response):
    store = _refusing(monkeypatch, [_Refusal(response)])
    assert said(StoreError, lambda: store.create("a", b"x")).startswith(
        f"[Errno {errno.EBUSY}] creating {store.path('a')} failed: conflict; "
    )


def test_the_code_is_found_below_other_errors(monkeypatch):
    between = ValueError("wrapped")
    between.__context__ = _Refusal({"Error": {"Code": "412"}})
    assert not _refusing(monkeypatch, [between]).create("a", b"x")


def test_of_many_files_read_together_one_that_cannot_be_read_is_an_error(monkeypatch):
    plain = Store(f"memory://{uuid.uuid4()}")
    for name in "abcde":
        plain.create(name, name.encode())
    overlapping, asked = AsyncFileSystemWrapper(plain.fs, asynchronous=False), []
    cat = overlapping.cat_ranges
    monkeypatch.setattr(
        overlapping, "cat_ranges", lambda *what, **options: asked.append((*what, options)) or cat(*what, **options)
    )
    monkeypatch.setattr(store_module, "_filesystem", lambda root: overlapping)
    monkeypatch.setattr(store_module, "_READ_BATCH", 2)
    hooked: list[tuple[str, str]] = []
    store = Store(plain.root, lambda *what: hooked.append(what))
    assert store.read_many([*"abxde"]) == {"a": b"a", "b": b"b", "x": None, "d": b"d", "e": b"e"}
    whole = (0, None, {"on_error": "return"})
    assert asked == [([store.path(name) for name in batch], *whole) for batch in ("ab", "xd", "e")]
    assert hooked == [("read", "a"), ("read", "x"), ("read", "e")]
    monkeypatch.setattr(overlapping, "cat_ranges", lambda paths, *_, **options: [PermissionError("not yours")])
    assert said(StoreError, lambda: store.read_many(["a"])) == f"reading {store.path('a')} failed: not yours"
