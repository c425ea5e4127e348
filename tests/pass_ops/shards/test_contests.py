"""Writers that meet at one name: somebody else acts on the folder just before an operation of this one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace

import pytest
from verifying import said

from pass_ops.errors import NotFinalized, StoreError
from pass_ops.shards import (
    Dataset,
    PartRecord,
    Rejection,
    Store,
    begin_attempt,
    commit_part,
    create_dataset,
    finalize,
    names,
    open_dataset,
)
from pass_ops.shards.fingerprint import json_file

Acts = dict[tuple[str, str], list[Callable[[Store], object]]]


@pytest.fixture
def against(near_root, generate_spec) -> Callable[[Acts], Dataset]:
    """against({(operation, name): [act, ...]}): a dataset of one part, and somebody who acts before these operations,
    one act at each.
    """

    def make(acts: Acts) -> Dataset:
        def before(*operation: str) -> None:
            if acts.get(operation):
                acts[operation].pop(0)(Store(near_root))

        return create_dataset(near_root, generate_spec(parts=1), store=Store(near_root, before))

    return make


@pytest.fixture
def twin(tmp_path, generate_spec, rollouts, make_dataset):
    """The complete dataset of one part that the writer is about to make, elsewhere."""
    return make_dataset(str(tmp_path / "twin"), rollouts("a"), spec=generate_spec(parts=1))


def _marker(record: PartRecord, fp8: str) -> tuple[str, bytes]:
    return names.done(record.part, fp8), json_file(asdict(record))


def _void_marker(record: PartRecord, fp8: str) -> tuple[str, bytes]:
    """A marker of the part that names a file which is not there."""
    return _marker(replace(record, sha256="0" * 64, data=names.data(record.part, fp8, "0" * 64)), fp8)


def _put(name: str, content: bytes) -> Callable[[Store], object]:
    return lambda store: store.put(name, content)


def _remove(name: str) -> Callable[[Store], object]:
    return lambda store: store.remove(name)


@pytest.mark.parametrize("times", [9, 10])
def test_a_data_file_that_is_damaged_again_and_again(against, twin, rollouts, times):
    [record] = twin.parts
    ds = against({("create", record.data): [_put(record.data, b"other")] * times})
    if times == 9:
        assert commit_part(ds, 0, rollouts("a")) == record
        return
    assert said(StoreError, lambda: commit_part(ds, 0, rollouts("a"))) == (
        f"{ds.store.path(record.data)} was found with other content and removed 10 times in turn: somebody else writes "
        "it; run again when they are done"
    )


def test_a_data_file_that_its_other_writer_removes_is_made_anew(against, twin, rollouts):
    [record] = twin.parts
    content = twin.store.read(record.data)
    ds = against({("create", record.data): [_put(record.data, content)], ("read", record.data): [_remove(record.data)]})
    assert commit_part(ds, 0, rollouts("a")) == record
    assert ds.store.read(record.data) == content


@pytest.mark.parametrize("times", [9, 10])
def test_a_void_marker_put_there_again_and_again(against, twin, rollouts, times):
    [record] = twin.parts
    name, void = _void_marker(record, twin.spec.fingerprint[:8])
    ds = against({("create", name): [_put(name, void)] * times})
    if times == 9:
        assert commit_part(ds, 0, rollouts("a")) == record
        return
    assert said(StoreError, lambda: commit_part(ds, 0, rollouts("a"))) == (
        f"{ds.store.path(name)} was created and removed by others 10 times in turn; run again when they are done"
    )


def test_a_marker_that_is_removed_when_it_is_read_is_made_anew(against, twin, rollouts):
    [record] = twin.parts
    name, void = _void_marker(record, twin.spec.fingerprint[:8])
    ds = against({("create", name): [_put(name, void)], ("read", name): [_remove(name)]})
    assert commit_part(ds, 0, rollouts("a")) == record


def test_a_loser_removes_only_what_the_marker_does_not_name(near_root, generate_spec, rollouts):
    ds = create_dataset(near_root, generate_spec(parts=1))
    first, second = (Rejection(prompt_id="x", reason="r", detail=detail) for detail in "12")
    record = commit_part(ds, 0, rollouts("a"), rejected=[first])
    assert commit_part(ds, 0, rollouts("a"), rejected=[second]) == record
    assert ds.store.exists(record.data)
    assert [f"_rejected/{entry.name}" for entry in ds.store.entries("_rejected")] == [record.rejected]


def test_an_attempt_whose_number_is_taken_gets_the_next(against, twin):
    name = names.attempt(0, twin.spec.fingerprint[:8], 1)
    assert begin_attempt(against({("create", name): [_put(name, b"{}")]}), 0) == 2


@pytest.mark.parametrize("again", [False, True])
def test_a_manifest_that_another_finalizer_made_first(against, twin, rollouts, again):
    name = names.manifest(twin.spec.fingerprint[:8])
    acts: Acts = {("create", name): [_put(name, twin.manifest.to_json())]}
    if again:  # and took back
        acts["read", name] = [_remove(name)]
    ds = against(acts)
    commit_part(ds, 0, rollouts("a"))
    if not again:
        assert finalize(ds) == twin.manifest
        return
    assert said(NotFinalized, lambda: finalize(ds)) == (
        f"{ds.url} is not finalized: another writer finalized it or took it back at the same time; run again"
    )


def test_a_manifest_of_other_parts_that_another_finalizer_made_first(against, twin, rollouts):
    name, other = names.manifest(twin.spec.fingerprint[:8]), replace(twin.manifest, parts_sha256="0" * 64)
    ds = against({("create", name): [_put(name, other.to_json())]})
    commit_part(ds, 0, rollouts("a"))
    assert said(NotFinalized, lambda: finalize(ds)) == (
        f"{ds.url} is not finalized: another writer finalized it or took it back at the same time; run again"
    )


def test_a_manifest_that_is_taken_back_when_it_is_read_is_made_anew(against, twin, rollouts):
    name = names.manifest(twin.spec.fingerprint[:8])
    ds = against({("read", name): [_remove(name)]})
    commit_part(ds, 0, rollouts("a"))
    finalize(ds)
    assert finalize(ds) == twin.manifest
    assert open_dataset(ds.url).manifest == twin.manifest


def test_a_marker_that_is_removed_while_the_dataset_is_finalized(against, twin, rollouts):
    name = names.done(0, twin.spec.fingerprint[:8])
    ds = against({("read", name): [_remove(name)]})
    commit_part(ds, 0, rollouts("a"))
    reason = f"the marker {name} was removed meanwhile; run again"
    assert said(NotFinalized, lambda: finalize(ds)) == f"{ds.url} is not finalized: {reason}"


@pytest.mark.parametrize("when", ["before", "meanwhile"])
@pytest.mark.parametrize("overwritten", [False, True])
def test_a_folder_that_is_removed_or_overwritten(against, twin, generate_spec, rollouts, when, overwritten):
    other, marker = generate_spec(seed=8), names.done(0, twin.spec.fingerprint[:8])
    act = _put(names.DATASET, other.to_json()) if overwritten else _remove(names.DATASET)
    acts: Acts = {}
    ds = against(acts)
    commit_part(ds, 0, rollouts("a"))
    if when == "before":
        acts["read", names.DATASET] = [act]
    else:  # first the marker is found damaged
        acts["read", marker] = [_put(marker, b"")]
        acts["read", names.DATASET] = [lambda store: None, act]
    gone = "_dataset.json is gone: the folder was removed while this job ran"
    new8 = other.fingerprint[:8]
    replaced = f"the folder was overwritten: it holds fingerprint {new8} now, this job made {ds.fp8}"
    assert said(NotFinalized, lambda: finalize(ds)) == (
        f"{ds.url} is not finalized: {replaced if overwritten else gone}"
    )
