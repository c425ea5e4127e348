"""Rows deleted by a rule: the dataset stays complete, its digests stay, and a deletion cut off anywhere goes on."""

from __future__ import annotations

import json

import pytest

from pass_ops.errors import CorruptDatasetError, IncompleteDatasetError, RowsDeletedError
from pass_ops.shards import (
    Rejection,
    Store,
    commit_part,
    create_dataset,
    delete_rows,
    deletion_of,
    finalize,
    load_dataset,
    open_dataset,
    pending_parts,
    status,
    verify,
)

RULE = "run.keep_rollouts = 1"


@pytest.fixture
def made(root, make_dataset, rollouts):
    rejected = [Rejection(prompt_id="x", sample_index=0, reason="r")]
    return make_dataset(f"{root}/rollouts", rollouts("a", "b"), rollouts("c"), rejected=rejected)


def test_only_the_rows_go_and_the_dataset_counts_as_complete(made):
    names = {entry.name for entry in made.store.entries()}
    deletion = delete_rows(made.url, rule=RULE)
    assert (deletion.rule, deletion.files) == (RULE, 2)
    assert deletion.bytes == sum(part.bytes for part in made.parts)
    gone = names - {entry.name for entry in made.store.entries()}
    assert gone == {part.data for part in made.parts}
    assert deletion_of(made.url) == deletion
    assert open_dataset(made.url).content_digest == made.content_digest
    dataset = load_dataset(made.url)
    assert pending_parts(dataset).todo == ()
    assert finalize(dataset).content_digest == made.content_digest
    assert open_dataset(made.url).read_rejected(0).num_rows == 1


def test_verify_status_and_readers_say_deleted_by_rule_not_broken(made):
    assert deletion_of(made.url) is None
    assert status(made.url).datasets[0].deleted is None
    delete_rows(made.url, rule=RULE)
    [finding] = verify(made.url)
    assert (finding.severity, finding.code) == ("info", "deleted")
    assert "deleted by rule (run.keep_rollouts = 1): 2 files" in finding.message
    [found] = status(made.url).datasets
    assert (found.deleted, found.complete, found.rows) == (RULE, True, 6)
    with pytest.raises(RowsDeletedError, match=r"were deleted on purpose: _deleted-.*\.json says by which rule"):
        open_dataset(made.url).read_part(0)


def test_without_the_record_missing_rows_are_still_damage(made):
    for part in made.parts:
        made.store.remove(part.data)
    assert {finding.code for finding in verify(made.url) if finding.severity == "error"} == {"missing_file"}
    with pytest.raises(CorruptDatasetError, match="is gone"):
        open_dataset(made.url).read_part(0)


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@pytest.mark.parametrize("operation", range(1, 4))
def test_cut_off_before_any_of_its_writes_it_goes_on(tmp_path, make_dataset, rollouts, monkeypatch, operation):
    """Its writes: the record, then one file after the other."""
    made = make_dataset(str(tmp_path / "rollouts"), rollouts("a"), rollouts("b"))
    left = operation

    def hook(self: Store, kind: str, name: str) -> None:
        nonlocal left
        left -= kind in ("put", "remove")
        if left == 0:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Store, "_hook", hook)
        with pytest.raises(Killed):
            delete_rows(made.url, rule=RULE)
    assert not [finding for finding in verify(made.url) if finding.severity == "error"]
    assert pending_parts(load_dataset(made.url)).todo == ()
    other = "run.disk_gigabytes = 1"
    assert delete_rows(made.url, rule=other).rule == (RULE if operation > 1 else other)
    assert not list((tmp_path / "rollouts").glob("part-*"))
    assert [finding.code for finding in verify(made.url)] == ["deleted"]


def test_an_incomplete_dataset_keeps_its_rows(near_root, generate_spec, rollouts):
    dataset = create_dataset(near_root, generate_spec(parts=2))
    record = commit_part(dataset, 0, rollouts("a"))
    with pytest.raises(IncompleteDatasetError):
        delete_rows(near_root, rule=RULE)
    assert dataset.store.exists(record.data)


def test_a_damaged_record_is_named(made):
    delete_rows(made.url, rule=RULE)
    name = f"_deleted-{made.spec.fingerprint[:8]}.json"
    made.store.put(name, json.dumps({"rule": RULE}).encode())
    with pytest.raises(CorruptDatasetError, match=r"_deleted-.*is damaged"):
        deletion_of(made.url)
    assert [finding.code for finding in verify(made.url)] == ["corrupt"]


def test_an_overwritten_dataset_has_rows_again(near_root, make_dataset, generate_spec, rollouts):
    first = make_dataset(near_root, rollouts("a"))
    delete_rows(near_root, rule=RULE)
    dataset = create_dataset(near_root, generate_spec(parts=1, seed=8), overwrite=True)
    assert not first.store.exists(f"_deleted-{first.spec.fingerprint[:8]}.json")
    assert pending_parts(dataset).todo == (0,)
    commit_part(dataset, 0, rollouts("a"))
    finalize(dataset)
    assert open_dataset(near_root).read_part(0).num_rows == 2
    assert deletion_of(near_root) is None
