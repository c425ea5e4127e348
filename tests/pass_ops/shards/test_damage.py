"""One flipped bit in any file of a dataset is named, or changes no value that is read."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from verifying import make_signal, said

from pass_ops.errors import CorruptDatasetError, ShardError
from pass_ops.shards import (
    DatasetSpec,
    Rejection,
    begin_attempt,
    fingerprint,
    load_dataset,
    open_dataset,
    reader,
    record_run,
    verify,
)
from pass_ops.shards.remedy import command_for

FLIPS = 40  # of each kind of file
KINDS = {
    "part-*.parquet": True,
    "_rejected/*.parquet": True,
    "_parts-*.jsonl": True,
    "_manifest-*.json": True,
    "_dataset.json": False,  # where inputs and models lie is in no digest
    "_done/*.json": False,  # the list of parts is what readers believe
    "_attempts/*.json": False,
    "_run.json": False,
}


@pytest.fixture
def folder(tmp_path, make_dataset, rollouts, outcomes) -> Path:
    """A signal beside its rollouts, with every kind of file."""
    url = str(tmp_path / "round-000" / "rollouts")
    made = make_dataset(url, rollouts("a"), rollouts("b", "c"), rejected=[Rejection(prompt_id="x", reason="r")])
    make_signal(str(tmp_path / "round-000" / "signals" / "right"), made, [outcomes(made.read_part(p)) for p in (0, 1)])
    begin_attempt(load_dataset(url), 0)
    record_run(load_dataset(url), {"host": "here"})
    return tmp_path / "round-000"


def read(folder: Path) -> list[pa.Table | None]:
    """Everything that a reader can get from both datasets."""
    tables: list[pa.Table | None] = []
    for name in ("rollouts", "signals/right"):
        dataset = open_dataset(str(folder / name))
        dataset.check_inputs()
        for part in range(len(dataset.parts)):
            tables += [dataset.read_part(part), dataset.read_part(part, ["rollout_id"]), dataset.read_rejected(part)]
            tables.append(dataset.read_stored(part).table)
    return tables


def _read_or_said(folder: Path) -> list[pa.Table | None] | str:
    try:
        return read(folder)
    except ShardError as error:
        return str(error)


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_named_or_changes_nothing(folder, kind):
    before, chances, outcomes = read(folder), random.Random(kind), Counter()
    files = sorted(folder.glob(f"rollouts/{kind}"))
    assert files
    for _ in range(FLIPS):
        file = chances.choice(files)
        sound = file.read_bytes()
        at, bit = chances.randrange(len(sound)), chances.randrange(8)
        file.write_bytes(sound[:at] + bytes([sound[at] ^ (1 << bit)]) + sound[at + 1 :])
        found = _read_or_said(folder)
        assert found == before or str(folder / "rollouts") in str(found), f"bit {bit} of byte {at} of {file}"
        outcomes["same" if found == before else "named"] += 1
        file.write_bytes(sound)
    assert read(folder) == before
    if KINDS[kind]:
        assert outcomes["named"] == FLIPS


@pytest.mark.parametrize("small", [0, reader.SMALL], ids=["hashed in pieces", "read at once"])
def test_every_byte_of_a_part_is_covered(folder, monkeypatch, small):
    """Header, pages, page headers, footer, magic numbers: wherever the bit is."""
    monkeypatch.setattr(reader, "SMALL", small)
    dataset = open_dataset(str(folder / "rollouts"))
    file = Path(dataset.store.path(dataset.parts[0].data))
    sound = file.read_bytes()
    for at in range(len(sound)):
        file.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
        assert f"{file} is damaged: " in said(CorruptDatasetError, lambda: dataset.read_part(0, ["seed"]))


def test_a_part_is_hashed_again_once_it_was_written_to(folder):
    dataset = open_dataset(str(folder / "rollouts"))
    file = Path(dataset.store.path(dataset.parts[0].data))
    os.utime(file, (1, 1))  # written long ago: from then on the handle trusts it
    for _ in range(2):
        dataset.read_part(0)
    sound = file.read_bytes()
    damaged = sound[:200] + bytes([sound[200] ^ 1]) + sound[201:]
    file.write_bytes(damaged)
    said(CorruptDatasetError, lambda: dataset.read_part(0))
    file.write_bytes(sound)
    dataset.read_part(0)
    file.write_bytes(damaged)  # perhaps within one tick of the clock
    said(CorruptDatasetError, lambda: dataset.read_part(0))


@pytest.mark.parametrize(("small", "name"), [(0, "stream_digest"), (reader.SMALL, "sha256_bytes")])
def test_a_part_is_hashed_once_by_a_handle(folder, monkeypatch, small, name):
    hashed, digest = [], getattr(fingerprint, name)
    monkeypatch.setattr(reader, "SMALL", small)
    monkeypatch.setattr(reader, name, lambda given: hashed.append(given) or digest(given))
    dataset = open_dataset(str(folder / "rollouts"))
    long_ago, later = 1, time.time() + 3600
    for part, when in ((0, long_ago), (1, later)):
        os.utime(dataset.store.path(dataset.parts[part].data), (when, when))
    for columns in (["seed"], ["text"], None):
        dataset.read_part(0, columns)
    assert len(hashed) == 1
    for _ in range(2):
        dataset.read_part(1)
    assert len(hashed) == 3  # as one that was written just now


def test_a_part_in_a_run_is_named_with_the_command_that_makes_it_again(folder):
    for name, command in (("rollouts", "generate"), ("signals/right", "score")):
        dataset = open_dataset(str(folder / name))
        file = Path(dataset.store.path(dataset.parts[1].data))
        file.write_bytes(file.read_bytes()[:-1])
        more = " --signal right" if command == "score" else ""
        wanted = f"`passrl {command} CONFIG --out {folder.parent} --round 0{more}` makes the part again"
        assert said(CorruptDatasetError, lambda dataset=dataset: dataset.read_part(1)).endswith(wanted)
        assert any(finding.message.endswith(wanted) for finding in verify(dataset.url))


def spec(stage, **facts):
    carried = {"sampling": {"group_size": 1}, **facts.pop("carried", {})}
    return DatasetSpec(**{"stage": stage, "stage_version": 1, "options": {}, "parts": 1, "carried": carried, **facts})


IMPORTED = {"options": {"import": "trl"}}
RESCORED = IMPORTED | {"carried": {"rescored": 1}}


@pytest.mark.parametrize(
    ("url", "made", "command"),
    [
        ("runs/a/round-002/prompts", "prompts", "`passrl generate CONFIG --out runs/a --round 2`"),
        ("s3://b/a run/round-010/shaped/", "shape", "`passrl shape CONFIG --out 's3://b/a run' --round 10`"),
        ("a/round-000/shaped-k0", "shape", "`passrl shape CONFIG --out a --round 0 --name shaped-k0`"),
        ("a/round-001/eval/small/rollouts", "generate", "`passrl eval CONFIG --out a --round 1`"),
        ("a/start/eval/small/signals/right", "score", "`passrl eval CONFIG --out a`"),
        ("elsewhere/rollouts", "generate", "the command that made it"),
        ("a/round-000/signals/right", spec("score", **IMPORTED), "`passrl import trl SOURCE --out a`"),
        ("a/round-000/signals/right", spec("score", **RESCORED), "`passrl rescore RUN --out a`"),
    ],
)
def test_the_command_follows_from_where_a_dataset_lies_and_what_it_says(url, made, command):
    assert command_for(url, spec(made) if isinstance(made, str) else made) == command
