"""The findings of verify word for word: severity, which promise, the file, and what is wrong there."""

from __future__ import annotations

import pyarrow as pa
from verifying import make_signal, smuggle

from pass_ops.shards import Rejection, create_dataset, open_dataset, sha256_bytes, verify
from pass_ops.shards.records import make_manifest, parts_bytes
from pass_ops.shards.tables import part_bytes, plain_bytes, rejected_bytes


def told(dataset):
    """Findings about a dataset, files named from its folder."""
    top = dataset.store.path("")
    return [(f.severity, f.code, f.where.removeprefix(top).lstrip("/"), f.message) for f in verify(dataset.url)]


def test_a_file_that_is_gone(near_root, make_dataset, rollouts):
    made = make_dataset(near_root, rollouts("a"))
    made.store.remove(made.parts[0].data)
    says = "the file is gone: run the stage again to redo the part"
    assert told(made) == [("error", "missing_file", made.parts[0].data, says)]


def test_a_file_of_other_bytes(near_root, make_dataset, rollouts):
    made = make_dataset(near_root, rollouts("a"))
    content = part_bytes(rollouts("a", text=["x", "y"]), "generate")
    made.store.put(made.parts[0].data, content)
    recorded, found = made.parts[0].sha256[:16], sha256_bytes(content)[:16]
    says = f"its sha256 is {found}..., recorded {recorded}...: it was changed or damaged"
    assert told(made) == [("error", "sha256", made.parts[0].data, says)]


def test_a_file_that_is_no_parquet(near_root, make_dataset, rollouts):
    made = make_dataset(near_root, rollouts("a"))
    made.store.put(made.parts[0].data, b"no parquet")
    first, second = told(made)
    assert first[:3] == ("error", "sha256", made.parts[0].data)
    assert second[:3] == ("error", "unreadable", made.parts[0].data)
    assert second[3].startswith("cannot be read as Parquet: ")


def test_a_file_under_another_name(near_root, make_dataset, rollouts):
    made = make_dataset(near_root, rollouts("a"))
    smuggle(near_root, 0, part_bytes(rollouts("a"), "generate"), sha8="0" * 8)
    made = open_dataset(near_root)
    says = f"its name does not hold the first digits of its sha256, {made.parts[0].sha256[:8]}"
    assert ("error", "file_name", made.parts[0].data, says) in told(made)


def test_a_part_with_other_counts_than_its_marker(near_root, make_dataset, rollouts):
    smuggle(make_dataset(near_root, rollouts("a")).url, 0, part_bytes(rollouts("a", "b"), "generate"))
    made = open_dataset(near_root)
    assert [finding for finding in told(made) if finding[0] == "error"] == [
        ("error", "counts", made.parts[0].data, f"{name} is {found}, but the marker says {said}")
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
    assert [finding for finding in told(made) if finding[0] == "error"] == [
        ("error", "schema", made.parts[0].data, "its metadata has format_version b'9', not b'1'"),
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
    assert ("error", "schema", signal.parts[0].data, says) in told(signal)


def test_rejections_that_are_not_what_the_marker_counts(near_root, make_dataset, rollouts):
    made = make_dataset(near_root, rollouts("a"), rejected=[Rejection(prompt_id="x", sample_index=0, reason="r")])
    name = made.parts[0].rejected
    two = [Rejection(prompt_id="x", sample_index=index, reason="r") for index in range(2)]
    made.store.put(name, rejected_bytes("generate", two))
    assert [finding[1:] for finding in told(made)[1:]] == [("counts", name, "2 rejections, but the marker counts 1")]
    made.store.put(name, plain_bytes(pa.table({"a": [1]}), "generate"))
    assert told(made)[1:] == [("error", "schema", name, "its columns are ['a'], not those of rejections")]
    made.store.remove(name)
    assert told(made) == [("error", "missing_file", name, "the file is gone: run the stage again to redo the part")]


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
    first, second = (f"_done/00000{part}-{made.spec.fingerprint[:8]}.json" for part in range(2))
    made.store.remove(first)
    content = made.store.read(second).replace(made.parts[1].sha256.encode(), b"0" * 64)
    made.store.put(second, content)
    assert told(made) == [
        ("error", "marker", first, "the part's marker is gone, though the dataset is finalized"),
        ("error", "marker", second, f"the marker names {made.parts[1].data}, the manifest {made.parts[1].data}"),
    ]


def test_a_list_of_parts_in_which_one_is_missing(near_root, make_dataset, rollouts):
    made = make_dataset(near_root, rollouts("a"), rollouts("b"))
    fp8, records = made.spec.fingerprint[:8], made.parts[1:]
    listed = parts_bytes(records, made.spec.stage)
    made.store.put(f"_parts-{fp8}.parquet", listed)
    made.store.put(f"_manifest-{fp8}.json", make_manifest(made.spec, records, sha256_bytes(listed)).to_json())
    says = "the list of parts is not 0 to 1 in order"
    assert ("error", "manifest", f"_manifest-{fp8}.json", says) in told(made)
