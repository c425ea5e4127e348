"""Listings of fsspec stores, which name files and times each in its own way."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime, timedelta, timezone

import pytest
import s3fs

from pass_ops.shards import store as store_module
from pass_ops.shards.store import Entry, Store


class _Listing:
    """A store that answers every listing with the same."""

    def __init__(self, *found: dict) -> None:
        self.found = [{"type": "file", "size": 0, **info} for info in found]
        self.asked: list[tuple[str, str]] = []

    def ls(self, path, detail):
        self.asked.append(("ls", path))
        return self.found

    def find(self, path, detail):
        self.asked.append(("find", path))
        return {info["name"]: info for info in self.found}


@pytest.fixture
def listing(monkeypatch):
    """listing(info, ...): a store that lists these."""

    def make(*found: dict) -> Store:
        files = _Listing(*found)
        monkeypatch.setattr(store_module, "_filesystem", lambda root: files)
        monkeypatch.setattr(store_module, "_base", lambda root: "bucket/runX")
        return Store("gs://bucket/runX")

    return make


@pytest.fixture
def tokyo(monkeypatch):
    """A machine that is not in UTC."""
    with monkeypatch.context() as there:
        there.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("info", "modified"),
    [
        ({"mtime": NOON.timestamp()}, NOON),
        ({"mtime": 0}, datetime(1970, 1, 1, tzinfo=UTC)),
        ({"LastModified": NOON}, NOON),
        ({"LastModified": NOON.replace(tzinfo=None)}, NOON),
        ({"LastModified": NOON.replace(tzinfo=timezone(timedelta(hours=2)))}, NOON - timedelta(hours=2)),
        ({"updated": "2026-01-01T12:00:00+00:00"}, NOON),
        ({"created": NOON.timestamp()}, NOON),
        ({"mtime": None, "created": NOON}, NOON),
        ({"etag": "x"}, None),
    ],
)
def test_the_time_of_a_file(listing, tokyo, info, modified):
    [entry] = listing({"name": "bucket/runX/a", **info}).entries()
    assert entry == Entry("a", 0, modified and modified.timestamp())


@pytest.mark.parametrize(("folder", "how"), [("", "ls"), ("below", "find")])
def test_what_lies_directly_in_the_folder_by_name(listing, folder, how):
    path = f"bucket/runX/{folder}".rstrip("/")
    store = listing(
        {"name": f"{path}/bX", "size": 3},
        {"name": f"/{path}/a", "size": None},
        {"name": f"{path}/c/", "type": "directory"},
        {"name": f"{path}/c/d"},
        {"name": path, "type": "directory"},
    )
    assert store.entries(folder) == [Entry("a", 0, None), Entry("bX", 3, None)]
    assert store.folders(folder) == ["c"]
    assert store.fs.asked == [(how, path), ("ls", path)]


def test_a_listing_on_s3_shows_what_another_client_wrote_since(s3_bucket):
    store = Store(f"{s3_bucket}/listed-{uuid.uuid4()}")
    store.create("a", b"1")
    assert [entry.name for entry in store.entries()] == ["a"]
    s3fs.S3FileSystem(skip_instance_cache=True).pipe_file(store.path("b"), b"2")
    assert [entry.name for entry in store.entries()] == ["a", "b"]


def test_a_local_file_that_is_gone_when_it_is_looked_at_is_not_listed(tmp_path):
    (tmp_path / "a").symlink_to("gone")
    (tmp_path / "b").touch()
    assert [entry.name for entry in Store(str(tmp_path)).entries()] == ["b"]


def test_an_absent_folder_is_empty(listing, monkeypatch):
    store = listing()

    def absent(self, path, detail):
        raise FileNotFoundError(path)

    monkeypatch.setattr(_Listing, "ls", absent)
    assert (store.entries(), store.folders("below")) == ([], [])
