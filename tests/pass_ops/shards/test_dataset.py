from __future__ import annotations

import json
import pickle
import shutil
import uuid

import pytest
from verifying import said

from pass_ops.errors import (
    CorruptDatasetError,
    FingerprintMismatchError,
    IncompleteDatasetError,
    NotADatasetError,
    NotFinalized,
    ReplacedFingerprintError,
)
from pass_ops.shards import (
    DatasetSpec,
    InputRef,
    Rejection,
    Store,
    begin_attempt,
    commit_part,
    create_dataset,
    fail_part,
    finalize,
    load_dataset,
    open_dataset,
    pending_parts,
    relative_folder,
    verify,
)
from pass_ops.shards.dataset import _common_folder


def test_dataset_json_says_what_the_dataset_is(near_root, generate_spec):
    spec = generate_spec(inputs={"prompts": InputRef("../prompts", "a" * 64)})
    create_dataset(near_root, spec)
    document = json.loads(Store(near_root).read("_dataset.json"))
    assert list(document) == [
        "format_version",
        "stage",
        "fingerprint",
        "stage_version",
        "options",
        "parts",
        "inputs",
        "models",
        "seed",
        "environment",
        "sampling",
        "round",
        "tokenizer_digest",
        "vocabulary",
        "policy_digest",
        "replaced",
    ]
    assert document["fingerprint"] == spec.fingerprint
    assert document["inputs"] == {"prompts": {"folder": "../prompts", "content_digest": "a" * 64}}


def test_the_same_fingerprint_goes_on_and_changes_nothing(root, generate_spec, rollouts):
    commit_part(create_dataset(root, generate_spec()), 0, rollouts("a"))
    before = Store(root).read("_dataset.json")
    again = create_dataset(root, generate_spec())
    assert (again.notes, again.stale) == ((), ())
    assert pending_parts(again).todo == (1,)
    assert Store(root).read("_dataset.json") == before
    assert pickle.loads(pickle.dumps(again)) == again == load_dataset(root)


def test_other_options_in_the_folder_are_refused_and_named(near_root, generate_spec):
    create_dataset(near_root, generate_spec())
    before = Store(near_root).read("_dataset.json")
    there, asked = generate_spec(), generate_spec(seed=8, parts=3)
    assert said(FingerprintMismatchError, lambda: create_dataset(near_root, asked)) == (
        f"{near_root} holds another dataset (fingerprint {there.fingerprint[:8]}, asked {asked.fingerprint[:8]}). "
        "It differs in:\n  parts: 2 there, 3 asked\n  seed: 7 there, 8 asked\n"
        "Nothing was changed. Give another folder, the old options, or --overwrite to replace it"
    )
    assert Store(near_root).read("_dataset.json") == before


def test_a_folder_without_a_dataset_is_said_to_be_one(near_root):
    for opening in (load_dataset, open_dataset, verify):
        with pytest.raises(NotADatasetError, match=r"no .*_dataset\.json"):
            opening(near_root)


def test_overwriting_with_the_same_fingerprint_changes_nothing_and_says_so(
    near_root, make_dataset, rollouts, generate_spec, caplog
):
    complete = make_dataset(near_root, rollouts("a"))
    ds = create_dataset(near_root, complete.spec, overwrite=True)
    assert ds.notes == (
        f"{near_root} already is the dataset asked for (fingerprint {ds.fp8}): overwrite changed nothing",
    )
    assert [one.getMessage() for one in caplog.records if one.name.startswith("pass_ops")] == list(ds.notes)
    assert open_dataset(near_root) == complete


def test_overwriting_replaces_the_dataset_and_removes_every_file_of_the_old_one(
    root, make_dataset, rollouts, generate_spec
):
    old = make_dataset(root, rollouts("a"), rollouts("b"), rejected=[Rejection(prompt_id="x", reason="r")])
    begin_attempt(load_dataset(root), 0)
    fail_part(load_dataset(root), 1, cause="x", traceback="")
    removed: list[str] = []
    store = Store(root, lambda operation, name: removed.append(name) if operation == "remove" else None)
    ds = create_dataset(root, generate_spec(seed=8), overwrite=True, store=store)
    new8, old8 = ds.fp8, old.spec.fingerprint[:8]
    assert ds.notes == (f"{root}: fingerprint {old8} was replaced by {new8}",)
    assert removed == [  # what readers start from first, then the commits, then the rest
        f"_manifest-{old8}.json",
        f"_parts-{old8}.jsonl",
        *(f"_done/00000{part}-{old8}.json" for part in range(2)),
        *(record.data for record in old.parts),
        old.parts[0].rejected,
        f"_failed/000001-{old8}.json",
        f"_attempts/000000-{old8}-1.json",
    ]
    left = [
        entry.name for folder in ("", "_done", "_rejected", "_attempts", "_failed") for entry in store.entries(folder)
    ]
    assert left == ["_dataset.json", "_run.json"]
    assert json.loads(store.read("_dataset.json"))["replaced"] == [old.spec.fingerprint]
    with pytest.raises(IncompleteDatasetError):
        open_dataset(root)


def test_a_replaced_fingerprint_is_refused_in_that_folder(near_root, generate_spec):
    create_dataset(near_root, generate_spec())
    create_dataset(near_root, generate_spec(seed=8), overwrite=True)
    create_dataset(near_root, generate_spec(seed=9), overwrite=True)
    for seed in (7, 8):
        again = generate_spec(seed=seed)
        assert said(ReplacedFingerprintError, lambda again=again: create_dataset(near_root, again, overwrite=True)) == (
            f"fingerprint {again.fingerprint[:8]} was replaced in {near_root} before: a writer of it may still be "
            "alive and its files are being removed, so it is refused there. Nothing was changed. Make this dataset in "
            f"another folder; or, once no job of {near_root} runs any more, remove the folder and run again"
        )
    assert load_dataset(near_root).spec == generate_spec(seed=9)


def test_two_configurations_in_turn_are_no_dead_end(tmp_path, make_dataset, rollouts, generate_spec):
    """What the refusal says to do makes the first dataset again, and what was made from it."""
    run = str(tmp_path / "run" / "round-000")
    first = make_dataset(f"{run}/rollouts", rollouts("a"))
    ref = InputRef("../rollouts", first.content_digest)
    shaped = DatasetSpec(stage="shape", stage_version=1, options={}, parts=1, inputs={"rollouts": ref})
    create_dataset(f"{run}/shaped", shaped)
    create_dataset(first.url, generate_spec(parts=1, seed=8), overwrite=True)
    told = said(ReplacedFingerprintError, lambda: create_dataset(first.url, first.spec, overwrite=True))
    assert told.endswith(f"remove the folder and run again (remove those made from it as well: {run}/shaped)")
    for folder in (first.url, f"{run}/shaped"):
        shutil.rmtree(folder)
    assert make_dataset(first.url, rollouts("a")).content_digest == first.content_digest
    create_dataset(f"{run}/shaped", shaped, overwrite=True)


def test_a_late_writer_of_the_replaced_fingerprint_harms_nothing(root, generate_spec, rollouts):
    late = create_dataset(root, generate_spec())
    commit_part(late, 0, rollouts("a"))
    new = create_dataset(root, generate_spec(seed=8), overwrite=True)
    commit_part(new, 0, rollouts("a"))
    commit_part(late, 0, rollouts("a", text=["late", "late"]))
    commit_part(late, 1, rollouts("b"))
    with pytest.raises(NotFinalized, match="the folder was overwritten"):
        finalize(late)
    assert pending_parts(new).todo == (1,)
    commit_part(new, 1, rollouts("b"))
    finalize(new)
    assert open_dataset(root).read_part(0)["text"].to_pylist() == ["answer of a"] * 2
    assert {finding.code for finding in verify(root)} == {"orphan"}
    assert {finding.severity for finding in verify(root)} == {"info"}


def test_the_next_opening_finishes_an_overwrite_that_was_interrupted(root, make_dataset, rollouts, generate_spec):
    make_dataset(root, rollouts("a"))

    class Stopped(Exception):
        pass

    def stop_at_the_first_removal(operation, name):
        if operation == "remove":
            raise Stopped

    with pytest.raises(Stopped):
        create_dataset(root, generate_spec(seed=8), overwrite=True, store=Store(root, stop_at_the_first_removal))
    with pytest.raises(IncompleteDatasetError):
        open_dataset(root)
    create_dataset(root, generate_spec(seed=8))
    assert [entry.name for entry in Store(root).entries()] == ["_dataset.json", "_run.json"]
    assert Store(root).entries("_done") == []


def test_overwriting_lists_what_was_made_from_the_old_dataset(root, make_dataset, rollouts, generate_spec):
    made = make_dataset(f"{root}/round-000/rollouts", rollouts("a"))
    signal_url, shaped_url = f"{root}/round-000/signals/outcome", f"{root}/round-000/shaped"
    signal = DatasetSpec(stage="score", stage_version=1, options={}, parts=1, inputs={"rollouts": made.ref(signal_url)})
    create_dataset(signal_url, signal)
    through = InputRef(relative_folder(shaped_url, signal_url), "b" * 64)
    create_dataset(
        shaped_url, DatasetSpec(stage="shape", stage_version=1, options={}, parts=1, inputs={"outcome": through})
    )
    create_dataset(f"{root}/round-001/rollouts", generate_spec())
    Store(f"{root}/round-000/unreadable").create("_dataset.json", b"{")
    ds = create_dataset(made.url, generate_spec(seed=8), overwrite=True)
    assert ds.stale == (signal_url, shaped_url)
    assert ds.notes[1:] == tuple(
        f"{folder} was made from the replaced dataset and is stale" for folder in (signal_url, shaped_url)
    )


def test_a_dataset_that_is_a_bucket_of_its_own_has_nothing_beside_it(generate_spec):
    url, beside = (f"memory://alone-{uuid.uuid4()}" for _ in range(2))
    create_dataset(url, generate_spec())
    made_from = InputRef(relative_folder(beside, url), "a" * 64)
    create_dataset(beside, generate_spec(inputs={"prompts": made_from}))
    listed: list[str] = []
    store = Store(url, lambda operation, name: listed.append(name) if operation == "list" else None)
    assert create_dataset(url, generate_spec(seed=8), overwrite=True, store=store).stale == ()
    assert listed == ["", "_done", "_rejected", "_failed", "_attempts", "_journal", "_done", "_failed"]


def test_of_two_overwrites_at_a_time_one_is_refused(near_root, generate_spec):
    create_dataset(near_root, generate_spec())
    reads: list[str] = []

    def another_one_comes_first(operation: str, name: str) -> None:
        if (operation, name) == ("read", "_dataset.json"):
            reads.append(name)
            if len(reads) == 2:  # the look at what was put there
                Store(near_root).put("_dataset.json", generate_spec(seed=9).to_json())

    store = Store(near_root, another_one_comes_first)
    assert said(
        CorruptDatasetError, lambda: create_dataset(near_root, generate_spec(seed=8), overwrite=True, store=store)
    ) == (f"{near_root} was overwritten by somebody else at the same time; run again once they have finished")


@pytest.mark.parametrize(
    ("url", "searched"),
    [
        ("run/round-000/rollouts", "run"),
        ("gs://bucket/run/round-012/signals/prm", "gs://bucket/run"),
        ("/data/signals/prm", "/data"),
        ("/data/rollouts", "/data"),
        ("rollouts", "."),
        ("gs://bucket", "gs://"),
        ("/data/X", "/data"),
        ("/data/rollouts/", "/data"),
    ],
)
def test_what_was_made_from_a_dataset_is_searched_in_its_run_or_beside_it(url, searched):
    assert _common_folder(url) == searched


def test_a_run_folder_can_be_moved_as_a_whole(tmp_path, make_dataset, rollouts, outcomes):
    made = make_dataset(str(tmp_path / "run" / "rollouts"), rollouts("a"))
    url = str(tmp_path / "run" / "outcome")
    ds = create_dataset(
        url, DatasetSpec(stage="score", stage_version=1, options={}, parts=1, inputs={"rollouts": made.ref(url)})
    )
    commit_part(ds, 0, outcomes(rollouts("a")))
    finalize(ds)
    (tmp_path / "run").rename(tmp_path / "moved")
    open_dataset(str(tmp_path / "moved" / "outcome")).check_inputs()
    assert verify(str(tmp_path / "moved")) == []
