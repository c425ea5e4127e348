"""Digests: those of hashlib, remembered beside a large file for as long as it is the same."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from trainer import digests
from trainer.digests import SIDECAR, file_digest, file_digests, sha256_files

CONTENT = b"weights" * 100


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """Names of the files that are read, for a memory that takes small files and waits for nothing."""
    seen: list[str] = []
    real = digests.sha256_file
    monkeypatch.setattr(digests, "sha256_file", lambda path: seen.append(path.name) or real(path))
    monkeypatch.setattr(digests, "LEAST", 1)
    monkeypatch.setattr(digests, "SETTLED", -1.0)
    return seen


@pytest.fixture
def weights(tmp_path) -> Path:
    file = tmp_path / "model.safetensors"
    file.write_bytes(CONTENT)
    return file


def digest_of_a_new_process(file: Path) -> str:
    digests._digest.cache_clear()
    return file_digest(file)


def test_a_file_is_read_once_by_all_processes(weights, read):
    expected = hashlib.sha256(CONTENT).hexdigest()
    assert [digest_of_a_new_process(weights) for _ in range(3)] == [expected] * 3
    assert read == ["model.safetensors"]


def touched(file: Path) -> None:
    os.utime(file, ns=(1, 1))


def rewritten_with_its_old_times(file: Path) -> None:
    before = os.stat(file)
    while os.stat(file).st_ctime_ns == before.st_ctime_ns:  # a file system's clock may tick in milliseconds
        file.write_bytes(CONTENT[::-1])
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced_by_another_file(file: Path) -> None:
    before = os.stat(file)
    other = file.with_name("other")
    other.write_bytes(CONTENT[::-1])
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(file)


@pytest.mark.parametrize("change", [touched, rewritten_with_its_old_times, replaced_by_another_file])
def test_a_file_that_changed_is_read_again(weights, read, change):
    digest_of_a_new_process(weights)
    change(weights)
    assert digest_of_a_new_process(weights) == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert len(read) == 2


@pytest.mark.parametrize("content", ["", "[]", '{"files": 3}', '{"files": {"model.safetensors": {}}}', "{"])
def test_a_memory_that_cannot_be_read_is_made_anew(weights, read, content):
    (weights.parent / SIDECAR).write_text(content)
    for _ in range(2):
        assert digest_of_a_new_process(weights) == hashlib.sha256(CONTENT).hexdigest()
    assert len(read) == 1


def test_where_nothing_can_be_written_the_file_is_read(weights, read, monkeypatch):
    def refused(*arguments, **options):
        raise PermissionError("read-only file system")

    monkeypatch.setattr(Path, "write_text", refused)
    for _ in range(2):
        assert digest_of_a_new_process(weights) == hashlib.sha256(CONTENT).hexdigest()
    assert len(read) == 2
    assert os.listdir(weights.parent) == [weights.name]


def test_a_file_that_changed_moments_ago_or_is_small_is_not_remembered(weights, read, monkeypatch):
    monkeypatch.setattr(digests, "SETTLED", 3600.0)
    digest_of_a_new_process(weights)
    monkeypatch.setattr(digests, "SETTLED", -1.0)
    monkeypatch.setattr(digests, "LEAST", len(CONTENT) + 1)
    digest_of_a_new_process(weights)
    assert not (weights.parent / SIDECAR).exists()


def test_several_files_are_read_at_once_and_keep_their_order(tmp_path, read):
    files = [tmp_path / f"{i}" for i in (3, 1, 2)]
    for file in files:
        file.write_text(file.name)
    expected = {file: hashlib.sha256(file.name.encode()).hexdigest() for file in files}
    assert list(file_digests(files).items()) == list(sha256_files(files).items()) == list(expected.items())
    assert sha256_files([]) == {}
    assert set(json.loads((tmp_path / SIDECAR).read_text())["files"]) <= {"1", "2", "3"}
