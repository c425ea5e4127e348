"""The findings of verify word for word: severity, which promise, the file, and what is wrong there."""

from __future__ import annotations

from dataclasses import asdict, replace

import pyarrow as pa
import pytest
from verifying import forge_list, make_signal, said, smuggle

from pass_ops.errors import CorruptDatasetError
from pass_ops.shards import (
    Finding,
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
    sha256_bytes,
    verify,
)
from pass_ops.shards.fingerprint import json_file
from pass_ops.shards.records import parse_marker
from pass_ops.shards.tables import part_bytes, plain_bytes, rejected_bytes

GONE = "the part's marker is gone or cannot be read, though the dataset is finalized"


def told(dataset):
    """Findings about a dataset, files named from its folder."""
    top = dataset.store.path("")
    return [(f.severity, f.code, f.where.removeprefix(top).lstrip("/"), f.message) for f in verify(dataset.url)]


def errors_told(dataset):
    return [finding for finding in told(dataset) if finding[0] == "error"]


@pytest.mark.parametrize(
    ("done", "state"),
    [(1, "1 of 2 parts have no marker"), (2, "all parts are done"), (0, "2 of 2 parts have no marker")],
)
def test_a_dataset_that_is_not_finalized(near_root, generate_spec, rollouts, done, state):
    ds = create_dataset(near_root, generate_spec())
    for part in range(done):
        commit_part(ds, part, rollouts(f"g{part}"))
    says = f"the dataset is not finalized; {state}: run its stage again"
    assert verify(near_root) == [Finding("error", "incomplete", near_root, says)]


def test_a_part_of_a_dataset_that_is_not_finalized(near_root, generate_spec, rollouts):
    ds = create_dataset(near_root, generate_spec())
    ds.store.remove(commit_part(ds, 1, rollouts("a")).data)
    assert [(finding.code, finding.where) for finding in verify(near_root)] == [
        ("incomplete", near_root),
        ("missing_file", ds.store.path(commit_part(ds, 1, rollouts("a")).data)),
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("fingerprint", "0" * 64),
        ("stage", "score"),
        ("content_digest", "0" * 64),
        ("totals", dict.fromkeys(("parts", "rows", "groups", "tokens", "bytes", "rejected_rollouts"), 1)),
        ("rejected", {"aborted": 1}),
        ("groups_by_size", {"2": 2}),
    ],
)
def test_a_manifest_that_says_something_else_than_the_parts(near_root, make_dataset, rollouts, field, value):
    made = make_dataset(near_root, rollouts("a"))
    name = f"_manifest-{made.spec.fingerprint[:8]}.json"
    made.store.put(name, replace(made.manifest, **{field: value}).to_json())
    says = f"{field} is {value}, but the parts give {getattr(made.manifest, field)}"
    fix = "Remove it, then the command that made it writes it anew"
    assert told(made) == [("error", "manifest", name, f"{says}. {fix}")]
    made.store.remove(name)
    assert finalize(load_dataset(near_root)) == made.manifest
    assert errors_told(made) == []


@pytest.mark.parametrize("file", ["_dataset.json", "_manifest-{}.json", "_parts-{}.jsonl"])
def test_a_small_file_that_cannot_be_read(near_root, make_dataset, rollouts, file):
    made = make_dataset(near_root, rollouts("a"))
    made.store.put(file.format(made.spec.fingerprint[:8]), b"x")
    says = said(CorruptDatasetError, lambda: open_dataset(near_root))
    assert verify(near_root) == [Finding("error", "corrupt", near_root, says)]


def test_a_marker_that_cannot_be_read(near_root, make_dataset, rollouts):
    made = make_dataset(near_root, rollouts("a"))
    name = f"_done/000000-{made.spec.fingerprint[:8]}.json"
    made.store.put(name, b"x")
    says = said(CorruptDatasetError, lambda: parse_marker(b"x", made.store, name))
    assert told(made) == [
        ("error", "marker", name, says),
        ("error", "marker", name, f"{GONE}. {redo(made)}"),
    ]


def test_a_group_in_two_parts(near_root, make_dataset, rollouts):
    made = make_dataset(near_root, rollouts("a"), rollouts("b"), rollouts("c", "a"))
    assert told(made) == [("error", "unique_ids", made.parts[2].data, "a is also in part 0")]


@pytest.mark.parametrize("error", [FileNotFoundError("gone"), OSError("gone")])  # removed; damaged, as pyarrow says it
def test_a_part_that_goes_before_its_groups_are_looked_at_again(near_root, make_dataset, rollouts, monkeypatch, error):
    made = make_dataset(near_root, rollouts("a"), rollouts("b"), rollouts("c", "a"))
    read, seen = Store.read, set()

    def once(self, name):
        if name in seen and name == made.parts[2].data:
            raise error
        seen.add(name)
        return read(self, name)

    monkeypatch.setattr(Store, "read", once)
    says = "it went while it was verified (gone), so its groups are not compared; verify again"
    assert told(made) == [("error", "missing_file", made.parts[2].data, says)]


def test_an_input_that_is_absent_or_cannot_be_read(tmp_path, make_dataset, rollouts, outcomes):
    made = make_dataset(str(tmp_path / "rollouts"), rollouts("a"))
    signal = make_signal(str(tmp_path / "outcome"), made, [outcomes(rollouts("a"))])
    Store(made.url).put("_dataset.json", b"x")
    says = said(CorruptDatasetError, lambda: open_dataset(made.url))
    made_from = f"made from rollouts ({made.url}), which cannot be read: {says}: make it again"
    assert verify(signal.url) == [
        Finding("error", "stale_input", signal.url, made_from),
        Finding("error", "corrupt", made.url, says),
    ]
    (tmp_path / "rollouts").rename(tmp_path / "elsewhere")
    absent = f"its input rollouts ({made.url}) is not there to compare with"
    assert verify(signal.url) == [Finding("info", "input_absent", signal.url, absent)]


def test_files_that_no_marker_names(near_root, make_dataset, rollouts):
    made = make_dataset(near_root, rollouts("a"), rejected=[Rejection(prompt_id="x", sample_index=0, reason="r")])
    fp8 = made.spec.fingerprint[:8]
    begin_attempt(load_dataset(near_root), 0)
    fail_part(load_dataset(near_root), 0, cause="before", traceback="")
    orphans = [
        f".part-000000-{fp8}-00000000.parquet.0123456789ab.tmp",
        "notes.txt",
        f"part-000000-{fp8}-00000000.parquet",
        "_done/000000-00000000.json",
        f"_rejected/000000-{fp8}-00000000.parquet",
        f"_failed/.000000-{fp8}.json.0123456789ab.tmp",
        "_attempts/notes.txt",
        f"_journal/000000-{fp8}-0123456789ab-0.bin",
    ]
    for size, name in enumerate(orphans):
        made.store.put(name, b"x" * size)
    assert told(made) == [
        ("info", "orphan", name, f"no marker names it; harmless, {size} bytes") for size, name in enumerate(orphans)
    ]


def test_a_file_that_is_gone(near_root, make_dataset, rollouts):
    made = make_dataset(near_root, rollouts("a"))
    made.store.remove(made.parts[0].data)
    says = "the file is gone: the command that made it makes the part again"
    assert told(made) == [("error", "missing_file", made.parts[0].data, says)]


def test_a_file_of_other_bytes(near_root, make_dataset, rollouts):
    made = make_dataset(near_root, rollouts("a"))
    content = part_bytes(rollouts("a", text=["x", "y"]), "generate")
    made.store.put(made.parts[0].data, content)
    recorded, found = made.parts[0].sha256[:16], sha256_bytes(content)[:16]
    says = f"its sha256 is {found}..., recorded {recorded}...: it was changed or damaged. "
    says += "Remove it, then the command that made it makes the part again"
    assert told(made) == [("error", "sha256", made.parts[0].data, says)]


def test_a_file_that_is_no_parquet(near_root, make_dataset, rollouts):
    made = make_dataset(near_root, rollouts("a"))
    made.store.put(made.parts[0].data, b"no parquet")
    first, second = told(made)
    assert first[:3] == ("error", "sha256", made.parts[0].data)
    assert second[:3] == ("error", "unreadable", made.parts[0].data)
    assert second[3].startswith("cannot be read as Parquet: ")


def test_files_whose_pages_cannot_be_read(near_root, make_dataset, rollouts):
    made = make_dataset(near_root, rollouts("a"), rejected=[Rejection(prompt_id="x", sample_index=0, reason="r")])
    files = made.parts[0].files
    for name in files:
        content = made.store.read(name)
        made.store.put(name, content[:4] + bytes(200) + content[204:])  # the footer is sound
    found = told(made)
    assert [finding[:3] for finding in found] == [
        ("error", code, name) for name in files for code in ("sha256", "unreadable")
    ]
    assert all(finding[3].startswith("cannot be read as Parquet: ") for finding in found[1::2])
    assert "None" not in found[1][3]


def test_a_list_of_parts_that_knows_no_sha256_of_its_rejections(near_root, make_dataset, rollouts):
    made = make_dataset(near_root, rollouts("a"), rejected=[Rejection(prompt_id="x", sample_index=0, reason="r")])
    forge_list(made, [replace(made.parts[0], rejected_sha256=None)])
    [finding] = told(made)
    assert finding[:2] == ("error", "corrupt")
    assert "where None belongs" in finding[3]


def test_a_file_under_another_name(near_root, make_dataset, rollouts):
    made = make_dataset(near_root, rollouts("a"))
    forge_list(made, [replace(made.parts[0], data="part-000000-00000000-00000000.parquet")])
    says = said(CorruptDatasetError, lambda: open_dataset(near_root))
    assert f"where {made.parts[0].data} belongs" in says
    assert verify(near_root) == [Finding("error", "corrupt", near_root, says)]


def redo(made, part=0):
    """What brings back a part whose records are not its own."""
    fp8 = made.spec.fingerprint[:8]
    files = [name for name in (f"_done/{part:06}-{fp8}.json", f"_manifest-{fp8}.json") if made.store.exists(name)]
    records = [made.store.path(name) for name in files]
    return f"Remove {' and '.join(records)}, then the command that made it makes the part again"


def test_following_a_finding_about_counts_mends_the_dataset(near_root, make_dataset, rollouts):
    smuggle(make_dataset(near_root, rollouts("a")).url, 0, part_bytes(rollouts("a", "b"), "generate"))
    made = open_dataset(near_root)
    fp8 = made.spec.fingerprint[:8]
    for name in (f"_done/000000-{fp8}.json", f"_manifest-{fp8}.json"):
        made.store.remove(name)
    again = create_dataset(near_root, made.spec)
    assert pending_parts(again).todo == (0,)
    commit_part(again, 0, rollouts("a"))
    finalize(again)
    assert [finding for finding in verify(near_root) if finding.severity == "error"] == []
    assert open_dataset(near_root).read_part(0).equals(rollouts("a"))


def test_a_part_with_other_counts_than_its_marker(near_root, make_dataset, rollouts):
    smuggle(make_dataset(near_root, rollouts("a")).url, 0, part_bytes(rollouts("a", "b"), "generate"))
    made = open_dataset(near_root)
    fix = redo(made)
    assert errors_told(made) == [
        ("error", "counts", made.parts[0].data, f"{name} is {found}, but the marker says {said}. {fix}")
        for name, found, said in (
            ("rows", 4, 2),
            ("groups", 2, 1),
            ("tokens", 10, 5),
            ("groups_by_size", {"2": 2}, {"2": 1}),
        )
    ]


def test_metadata_of_another_stage_and_version(near_root, make_dataset, rollouts):
    table = rollouts("a").replace_schema_metadata({"format_version": "9", "stage": "score"})
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(table, sink)
    smuggle(make_dataset(near_root, rollouts("a")).url, 0, sink.getvalue().to_pybytes())
    made = open_dataset(near_root)
    assert errors_told(made) == [
        ("error", "schema", made.parts[0].data, "its metadata has format_version b'9', not b'2'"),
        ("error", "schema", made.parts[0].data, "its metadata has stage b'score', not b'generate'"),
    ]


def test_columns_of_no_signal(near_root, make_dataset, rollouts, outcomes):
    made = make_dataset(f"{near_root}/rollouts", rollouts("a"))
    signal = make_signal(f"{near_root}/outcome", made, [outcomes(rollouts("a"))])
    smuggle(signal.url, 0, plain_bytes(outcomes(rollouts("a")).select(["rollout_id", "status"]), "score"))
    signal = open_dataset(signal.url)
    says = (
        "the columns rollout_id, status fit no kind of signal; "
        "the kinds are outcome, format, process_steps, process_tokens, logprobs"
    )
    assert errors_told(signal) == [("error", "schema", signal.parts[0].data, says)]


def test_rejections_that_are_not_what_the_marker_counts(near_root, make_dataset, rollouts):
    made = make_dataset(near_root, rollouts("a"), rejected=[Rejection(prompt_id="x", sample_index=0, reason="r")])
    name = made.parts[0].rejected
    two = [Rejection(prompt_id="x", sample_index=index, reason="r") for index in range(2)]
    made.store.put(name, rejected_bytes("generate", two))
    assert told(made)[1:] == [("error", "counts", name, f"2 rejections, but the marker counts 1. {redo(made)}")]
    made.store.put(name, plain_bytes(pa.table({"a": [1]}), "generate"))
    assert told(made)[1:] == [("error", "schema", name, "its columns are ['a'], not those of rejections")]
    made.store.remove(name)
    assert told(made) == [
        ("error", "missing_file", name, "the file is gone: the command that made it makes the part again")
    ]


def test_a_signal_of_more_parts_than_its_rollouts(near_root, make_dataset, rollouts, outcomes):
    made = make_dataset(f"{near_root}/rollouts", rollouts("a"))
    signal = make_signal(f"{near_root}/outcome", made, [outcomes(rollouts(group)) for group in "ab"])
    found = [(f.severity, f.code, f.where, f.message) for f in verify(signal.url)]
    assert found[-1] == ("error", "alignment", signal.store.root, "2 parts, but its rollouts have 1")


def test_files_of_a_replaced_fingerprint(near_root, make_dataset, rollouts, generate_spec):
    old = make_dataset(near_root, rollouts("a")).spec.fingerprint[:8]
    make_dataset_again = create_dataset(near_root, generate_spec(parts=1, seed=8), overwrite=True)
    make_dataset_again.store.put(f"_done/000000-{old}.json", b"late")
    make_dataset_again.store.put(f"part-000000-{old}-00000000.parquet", b"later")
    infos = [(f.code, f.message) for f in verify(near_root) if f.severity == "info"]
    assert infos == [("orphan", f"of a replaced fingerprint; harmless, {size} bytes") for size in (5, 4)]


def test_markers_that_are_gone_or_name_another_file(near_root, make_dataset, rollouts):
    made = make_dataset(near_root, rollouts("a"), rollouts("b"))
    fp8 = made.spec.fingerprint[:8]
    first, second = (f"_done/00000{part}-{fp8}.json" for part in range(2))
    made.store.remove(first)
    other = replace(made.parts[1], sha256="0" * 64, data=f"part-000001-{fp8}-00000000.parquet")
    made.store.put(second, json_file(asdict(other)))
    assert told(made) == [
        ("error", "marker", first, f"{GONE}. {redo(made)}"),
        (
            "error",
            "marker",
            second,
            f"the marker names {other.data}, the manifest {made.parts[1].data}. {redo(made, 1)}",
        ),
    ]


@pytest.mark.parametrize("content", [None, b"x"], ids=["gone", "unreadable"])
def test_following_a_finding_about_a_marker_mends_the_dataset(near_root, make_dataset, rollouts, content):
    made = make_dataset(near_root, rollouts("a"), rollouts("b"))
    marker = f"_done/000000-{made.spec.fingerprint[:8]}.json"
    made.store.remove(marker)
    if content is not None:
        made.store.put(marker, content)
    fix = redo(made)
    for word in fix.partition(", then")[0].removeprefix("Remove ").split(" and "):
        made.store.remove(word.removeprefix(made.store.path("")).lstrip("/"))
    again = create_dataset(near_root, made.spec)
    assert pending_parts(again).todo == (0,)
    commit_part(again, 0, rollouts("a"))
    finalize(again)
    assert errors_told(made) == []


@pytest.mark.parametrize(
    ("listed", "says"),
    [
        (lambda parts: parts[1:], "part 1 stands in the place of part 0"),
        (lambda parts: parts[::-1], "part 1 stands in the place of part 0"),
        (lambda parts: parts[:1], "it has 1 of 2 parts"),
    ],
)
def test_a_list_of_parts_that_is_not_the_datasets(near_root, make_dataset, rollouts, listed, says):
    made = make_dataset(near_root, rollouts("a"), rollouts("b"))
    forge_list(made, listed(made.parts))
    [finding] = told(made)
    assert finding[:2] == ("error", "corrupt")
    assert says in finding[3]
