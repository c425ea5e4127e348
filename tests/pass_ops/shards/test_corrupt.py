"""A damaged small file is refused with its place, what is wrong with it, and what to do, word for word."""

from __future__ import annotations

import json

import pytest
from verifying import said, smuggle

from pass_ops.errors import CorruptDatasetError, IncompleteDatasetError, NotADatasetError
from pass_ops.shards import (
    commit_part,
    committed,
    create_dataset,
    finalize,
    load_dataset,
    open_dataset,
    pending_parts,
    sha256_bytes,
    status,
)
from pass_ops.shards.records import parse_marker
from pass_ops.shards.tables import part_bytes

NO_JSON = "Expecting value: line 1 column 1 (char 0)"


@pytest.mark.parametrize(
    "use",
    [
        lambda ds, table: committed(ds, 0),
        lambda ds, table: pending_parts(ds),
        lambda ds, table: commit_part(ds, 0, table),
        lambda ds, table: finalize(ds),
        lambda ds, table: status(ds.url),
    ],
)
@pytest.mark.parametrize(
    ("content", "reason"), [(b"", NO_JSON), (b"[]", "it is [], not an object"), (b"{}", "it lacks part")]
)
def test_a_marker_that_cannot_be_read(near_root, generate_spec, rollouts, use, content, reason):
    ds = create_dataset(near_root, generate_spec(parts=1))
    name = f"_done/000000-{ds.fp8}.json"
    ds.store.put(name, content)
    found = said(CorruptDatasetError, lambda: use(ds, rollouts("a")))
    assert found.startswith(f"{ds.store.path(name)} cannot be read as a marker (")
    assert reason in found
    assert found.endswith("); remove it and run again: the part is redone")


def test_a_list_of_parts_that_cannot_be_read(near_root, make_dataset, rollouts):
    made = make_dataset(near_root, rollouts("a"))
    name = f"_parts-{made.spec.fingerprint[:8]}.jsonl"
    made.store.put(name, b"no parquet")
    for use in (pending_parts, finalize):
        made.store.put(name, b"no parquet")
        found = said(CorruptDatasetError, lambda use=use: use(load_dataset(near_root)))
        assert found.startswith(f"{made.store.path(name)} ")


def test_keys_of_later_versions_are_skipped(near_root, make_dataset, rollouts):
    made = make_dataset(near_root, rollouts("a"))
    for name in (f"_done/000000-{made.spec.fingerprint[:8]}.json", f"_manifest-{made.spec.fingerprint[:8]}.json"):
        made.store.put(name, json.dumps({**json.loads(made.store.read(name)), "new": 1}).encode())
    name = f"_done/000000-{made.spec.fingerprint[:8]}.json"
    assert parse_marker(made.store.read(name), made.store, name) == made.parts[0]
    assert open_dataset(near_root) == made


def _listed_without_counts(made) -> None:
    """A list of parts that lacks columns, though the manifest vouches for it."""
    content, fp8 = b'{"part": 0}\n', made.spec.fingerprint[:8]
    made.store.put(f"_parts-{fp8}.jsonl", content)
    manifest = json.loads(made.store.read(f"_manifest-{fp8}.json"))
    made.store.put(f"_manifest-{fp8}.json", json.dumps({**manifest, "parts_sha256": sha256_bytes(content)}).encode())


def _says_otherwise(key: str, value: object):
    """A manifest of which one key is another."""

    def spoil(made) -> None:
        name = f"_manifest-{made.spec.fingerprint[:8]}.json"
        made.store.put(name, json.dumps({**json.loads(made.store.read(name)), key: value}).encode())

    return spoil


@pytest.mark.parametrize(
    ("spoil", "error", "says"),
    [
        (
            lambda made: made.store.remove("_dataset.json"),
            NotADatasetError,
            "{url} is no dataset: it holds no _dataset.json; check the path",
        ),
        (
            lambda made: made.store.remove(f"_manifest-{made.spec.fingerprint[:8]}.json"),
            IncompleteDatasetError,
            "{url} is not finalized (no _manifest-{fp8}.json); run its stage again, or look at `passrl status {url}`",
        ),
        (
            lambda made: made.store.put(f"_manifest-{made.spec.fingerprint[:8]}.json", b""),
            CorruptDatasetError,
            f"{{path}}/_manifest-{{fp8}}.json cannot be read as a manifest ({NO_JSON}); remove it and finalize again",
        ),
        (
            _says_otherwise("format_version", 3),
            CorruptDatasetError,
            "{path}/_manifest-{fp8}.json has format_version 3; this program reads 1 and 2: use the one that made it",
        ),
        (
            _says_otherwise("fingerprint", "0" * 64),
            CorruptDatasetError,
            f"{{path}}/_manifest-{{fp8}}.json: fingerprint is {'0' * 64}, but the parts give {{fingerprint}}; "
            "remove it and finalize again",
        ),
        (
            lambda made: made.store.remove(f"_parts-{made.spec.fingerprint[:8]}.jsonl"),
            CorruptDatasetError,
            "{path}/_parts-{fp8}.jsonl is gone, but the manifest names it; remove the manifest and finalize again",
        ),
        (
            lambda made: made.store.put(f"_parts-{made.spec.fingerprint[:8]}.jsonl", b"other"),
            CorruptDatasetError,
            "{path}/_parts-{fp8}.jsonl is not the file the manifest names (sha256 differs); remove both and finalize "
            "again",
        ),
        (
            _listed_without_counts,
            CorruptDatasetError,
            "{path}/_parts-{fp8}.jsonl cannot be read as the list of parts (it lacks data); remove it and the "
            "manifest, then finalize again",
        ),
    ],
)
def test_a_complete_dataset_of_which_a_small_file_is_wrong(near_root, make_dataset, rollouts, spoil, error, says):
    made = make_dataset(near_root, rollouts("a"))
    spoil(made)
    fingerprint = made.spec.fingerprint
    where = {"url": near_root, "path": made.store.path(""), "fp8": fingerprint[:8], "fingerprint": fingerprint}
    assert said(error, lambda: open_dataset(near_root)) == says.format(**where)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            b'"min_p": 0',
            b'"min_p": 1',
            "says fingerprint {fp16}..., but its fields give {other16}...: it was edited; restore it, or make the "
            "dataset again in an empty folder",
        ),
        (
            b'"format_version": 2',
            b'"format_version": "2"',
            "has format_version '2'; this program reads 1 and 2: use the one that made it",
        ),
        (
            b'"parts": 2',
            b'"parts": "x"',
            "cannot be read as a dataset's description (parts is 'x', not a count); restore it or remove the folder",
        ),
        (
            b'"inputs"',
            b'"input"',
            "cannot be read as a dataset's description (it lacks inputs); restore it or remove the folder",
        ),
    ],
)
def test_a_changed_description_of_a_dataset(near_root, generate_spec, old, new, says):
    store = create_dataset(near_root, generate_spec()).store
    content = store.read("_dataset.json")
    assert content.count(old) == 1
    store.put("_dataset.json", content.replace(old, new))
    fp16, other16 = (generate_spec(options={"min_p": value}).fingerprint[:16] for value in (0, 1))
    found = said(CorruptDatasetError, lambda: load_dataset(near_root))
    assert found == f"{near_root}/_dataset.json {says.format(fp16=fp16, other16=other16)}"


def test_a_part_that_is_gone_or_no_parquet(near_root, make_dataset, rollouts):
    made = make_dataset(near_root, rollouts("a"), rollouts("b"))
    made.store.remove(made.parts[0].data)
    made.store.put(made.parts[1].data, b"no parquet at all")
    gone, damaged = (made.store.path(record.data) for record in made.parts)
    assert said(CorruptDatasetError, lambda: made.read_part(0)) == (
        f"{gone} is gone, but the manifest names it; the command that made it makes the part again"
    )
    found, recorded = sha256_bytes(b"no parquet at all")[:16], made.parts[1].sha256[:16]
    assert said(CorruptDatasetError, lambda: made.read_part(1)) == (
        f"{damaged} is damaged: its sha256 is {found}..., recorded {recorded}...; none of it was used. "
        "Remove it, then the command that made it makes the part again"
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"no parquet at all", "cannot be read as Parquet (Parquet magic bytes not found"),
        (lambda table: part_bytes(table, "score"), "its metadata has stage b'score', not b'generate'"),
        (lambda table: part_bytes(table, "generate", format_version=7), "format_version b'7', not b'2'"),
    ],
)
def test_a_part_that_its_records_vouch_for_and_that_is_none(near_root, make_dataset, rollouts, content, says):
    make_dataset(near_root, rollouts("a"))
    smuggle(near_root, 0, content if isinstance(content, bytes) else content(rollouts("a")))
    made = open_dataset(near_root)
    found = said(CorruptDatasetError, lambda: made.read_part(0))
    assert made.store.path(made.parts[0].data) in found
    assert says in found
