"""verify finds every kind of damage, names it and the first offenders, and finds nothing in sound data."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pass_ops.errors import NotADatasetError, PartError
from pass_ops.shards import (
    ROLLOUTS,
    DatasetSpec,
    Store,
    commit_part,
    create_dataset,
    finalize,
    open_dataset,
    shaped_schema,
    signal_schema,
    verify,
)
from pass_ops.shards.checks import check_part
from pass_ops.shards.fingerprint import sha256_bytes
from pass_ops.shards.records import make_manifest, parse_marker, parts_bytes
from pass_ops.shards.tables import part_bytes, plain_bytes


def _errors(url: str) -> list[tuple[str, str]]:
    return [(finding.code, finding.message) for finding in verify(url) if finding.severity == "error"]


def _codes(url: str) -> set[str]:
    return {code for code, _ in _errors(url)}


@pytest.fixture
def run(near_root, make_dataset, rollouts, outcomes):
    """A RUN folder with rollouts of two parts and a signal made from them; its URL."""
    made = make_dataset(f"{near_root}/round-000/rollouts", rollouts("a"), rollouts("b", "c"))
    _signal(f"{near_root}/round-000/signals/outcome", made, [outcomes(made.read_part(part)) for part in range(2)])
    return near_root


def _signal(url, made, tables):
    spec = DatasetSpec(
        stage="score", stage_version=1, options={}, parts=len(tables), inputs={"rollouts": made.ref(url)}
    )
    ds = create_dataset(url, spec)
    for part, table in enumerate(tables):
        commit_part(ds, part, table)
    finalize(ds)
    return open_dataset(url)


def _smuggle(url: str, part: int, content: bytes, *, sha8: str | None = None) -> None:
    """Replace a part of a finalized dataset by other bytes, with all records rewritten to vouch for them."""
    complete = open_dataset(url)
    store, spec, fp8 = complete.store, complete.spec, complete.spec.fingerprint[:8]
    name = f"part-{part:06d}-{fp8}-{sha8 or sha256_bytes(content)[:8]}.parquet"
    store.put(name, content)
    marker = store.read(f"_done/{part:06d}-{fp8}.json").replace(complete.parts[part].data.encode(), name.encode())
    marker = marker.replace(complete.parts[part].sha256.encode(), sha256_bytes(content).encode())
    marker = marker.replace(b'"bytes": %d' % complete.parts[part].bytes, b'"bytes": %d' % len(content))
    store.put(f"_done/{part:06d}-{fp8}.json", marker)
    records = list(complete.parts)
    records[part] = parse_marker(marker, "here")
    parts = parts_bytes(records, spec.stage)
    store.put(f"_parts-{fp8}.parquet", parts)
    store.put(f"_manifest-{fp8}.json", make_manifest(spec, records, sha256_bytes(parts)).to_json())


def test_sound_data_gives_no_findings(run):
    assert verify(run) == []
    assert verify(f"{run}/round-000/rollouts") == []


def test_sound_data_on_s3_gives_no_findings_and_a_changed_file_does(s3_bucket, make_dataset, rollouts):
    complete = make_dataset(f"{s3_bucket}/verified/rollouts", rollouts("a"))
    assert verify(f"{s3_bucket}/verified") == []
    complete.store.put(complete.parts[0].data, b"no parquet")
    assert _codes(f"{s3_bucket}/verified") == {"sha256", "unreadable"}


def test_a_folder_without_datasets_is_said_to_be_one(near_root):
    Store(near_root).create("notes.txt", b"x")
    with pytest.raises(NotADatasetError, match="no dataset at or below"):
        verify(near_root)


def test_a_flipped_byte_is_found(run):
    complete = open_dataset(f"{run}/round-000/rollouts")
    name = complete.parts[1].data
    content = bytearray(complete.store.read(name))
    content[len(content) // 2] ^= 1
    complete.store.put(name, bytes(content))
    assert ("sha256", complete.store.path(name)) in {(finding.code, finding.where) for finding in verify(run)}


def test_a_missing_file_is_found(run):
    complete = open_dataset(f"{run}/round-000/rollouts")
    complete.store.remove(complete.parts[0].data)
    assert _codes(complete.url) == {"missing_file"}


def test_an_unfinished_dataset_is_found_with_what_is_missing(near_root, generate_spec, rollouts):
    commit_part(create_dataset(near_root, generate_spec()), 0, rollouts("a"))
    assert _errors(near_root) == [
        ("incomplete", "the dataset is not finalized; 1 of 2 parts have no marker: run its stage again")
    ]


def test_orphans_are_told_and_are_no_error(run):
    store = Store(f"{run}/round-000/rollouts")
    fp8 = open_dataset(store.root).spec.fingerprint[:8]
    orphans = [
        f"part-000000-{fp8}-00000000.parquet",
        f"_rejected/000000-{fp8}-00000000.parquet",
        "_done/000000-00000000.json",
    ]
    for name in orphans:
        store.create(name, b"x")
    findings = verify(store.root)
    assert {(finding.severity, finding.code) for finding in findings} == {("info", "orphan")}
    assert {finding.where for finding in findings} == {store.path(name) for name in orphans}


@pytest.mark.parametrize(
    ("spoil", "code", "says"),
    [
        (lambda t: t.slice(0, 3), "counts", "rows is 3, but the marker says 4"),
        (lambda t: t.take([0, 2, 1, 3]), "adjacency", "not adjacent: b/1"),
        (lambda t: t.take([1, 0, 2, 3]), "sample_order", "does not increase within the group: b/0"),
        (lambda t: t.take([0, 0, 2, 3]), "sample_order", "b/0"),
        (lambda t: _set(t, "rollout_id", ["b/0", "b/1", "x/0", "c/1"]), "id_form", "x/0"),
        (lambda t: _set(t, "behavior_logprobs", [[-1.0, 0.0]] * 4), "lengths", "behavior_logprobs .*: b/0, c/0"),
        (lambda t: _set(t, "loss_mask", [[True]] * 4), "lengths", "loss_mask"),
        (
            lambda t: _set(t, "behavior_logprobs", [[-1.0, -1.0, -1.0], [-1.0, -1.0]] * 2),
            "masked_values",
            "b/0, b/1, c/0 and 1 more",
        ),
        (lambda t: _set(t, "behavior_logprobs", [[float("nan"), 0.0, -1.0], [-1.0, 0.0]] * 2), "finite", "b/0, c/0"),
        (lambda t: _set(t, "finish_reason", ["stop", "abort", "length", "stop"]), "value", "stop, length: b/1"),
        (lambda t: t.drop_columns(["seed"]), "schema", "column seed is None"),
        (lambda t: t.set_column(9, "seed", t["seed"].cast(pa.int32())), "schema", "column seed is int32"),
    ],
)
def test_rollouts_that_break_a_rule_are_found_and_named(tmp_path, make_dataset, rollouts, spoil, code, says):
    url = make_dataset(str(tmp_path), rollouts("a"), rollouts("b", "c")).url
    _smuggle(url, 1, part_bytes(spoil(rollouts("b", "c")), "generate"))
    import re

    assert any(found == code and re.search(says, message) for found, message in _errors(url)), _errors(url)


def _set(table: pa.Table, name: str, values: list) -> pa.Table:
    field = table.schema.field(name)
    return table.set_column(table.column_names.index(name), field, pa.array(values, field.type))


def test_a_file_that_is_not_named_by_its_content_is_found(tmp_path, make_dataset, rollouts):
    url = make_dataset(str(tmp_path), rollouts("a")).url
    _smuggle(url, 0, part_bytes(rollouts("a"), "generate"), sha8="0" * 8)
    assert _codes(url) == {"file_name"}


def test_a_group_in_two_parts_is_found(tmp_path, make_dataset, rollouts):
    assert _errors(make_dataset(str(tmp_path), rollouts("a"), rollouts("a")).url) == [
        ("unique_ids", "a is also in part 0")
    ]


def test_a_row_group_that_splits_a_group_is_found(tmp_path, make_dataset, rollouts):
    import pyarrow.parquet as pq

    url = make_dataset(str(tmp_path), rollouts("a")).url
    sink = pa.BufferOutputStream()
    table = rollouts("a").replace_schema_metadata({"format_version": "1", "stage": "generate"})
    pq.write_table(table, sink, row_group_size=1)
    _smuggle(url, 0, sink.getvalue().to_pybytes())
    assert ("row_groups", "row group 1 begins within a group, at row 1") in _errors(url)


def test_a_part_of_another_stage_or_format_is_found(tmp_path, make_dataset, rollouts):
    url = make_dataset(str(tmp_path), rollouts("a")).url
    _smuggle(url, 0, plain_bytes(rollouts("a"), "score"))
    assert ("schema", "its metadata has stage b'score', not b'generate'") in _errors(url)


@pytest.mark.parametrize("file", ["_dataset.json", "_manifest-{}.json", "_parts-{}.parquet", "_done/000000-{}.json"])
def test_damage_to_a_small_file_is_found(run, file):
    store = Store(f"{run}/round-000/rollouts")
    name = file.format(open_dataset(store.root).spec.fingerprint[:8])
    store.put(name, store.read(name)[:-9])
    assert _codes(store.root) <= {"corrupt", "marker"}
    assert any(name in finding.message + finding.where for finding in verify(store.root))


def test_a_manifest_that_does_not_add_up_is_found(run):
    complete = open_dataset(f"{run}/round-000/rollouts")
    name = f"_manifest-{complete.spec.fingerprint[:8]}.json"
    content = complete.store.read(name)
    complete.store.put(
        name, content.replace(complete.content_digest.encode(), b"0" * 64).replace(b'"rows": 6', b'"rows": 7')
    )
    assert [message.split(" is ")[0] for code, message in _errors(complete.url) if code == "manifest"] == [
        "content_digest",
        "totals",
    ]


def test_a_marker_that_names_another_file_than_the_manifest_is_found(run):
    complete = open_dataset(f"{run}/round-000/rollouts")
    name = f"_done/000000-{complete.spec.fingerprint[:8]}.json"
    complete.store.put(name, complete.store.read(name).replace(complete.parts[0].sha256.encode(), b"0" * 64))
    assert _codes(complete.url) == {"marker"}
    complete.store.remove(name)
    assert _codes(complete.url) == {"marker"}


def test_a_stale_input_is_found_also_two_steps_up(run, make_dataset, rollouts, generate_spec):
    shaped_url = f"{run}/elsewhere/combined"
    signal = open_dataset(f"{run}/round-000/signals/outcome")
    spec = DatasetSpec(stage="score", stage_version=1, options={}, parts=2, inputs={"outcome": signal.ref(shaped_url)})
    ds = create_dataset(shaped_url, spec)
    for part in range(2):
        commit_part(ds, part, signal.read_part(part))
    finalize(ds)
    assert verify(shaped_url) == []
    anew = create_dataset(f"{run}/round-000/rollouts", generate_spec(seed=9), overwrite=True)
    commit_part(anew, 0, rollouts("a"))
    commit_part(anew, 1, rollouts("b", "c"))
    finalize(anew)
    [finding] = verify(shaped_url)
    assert (finding.severity, finding.code) == ("error", "stale_input")
    assert finding.where.endswith("signals/outcome")
    assert "rollouts" in finding.message


def test_an_absent_input_is_told_and_is_no_error(tmp_path, make_dataset, rollouts, outcomes):
    made = make_dataset(str(tmp_path / "rollouts"), rollouts("a"))
    signal = _signal(str(tmp_path / "outcome"), made, [outcomes(rollouts("a"))])
    (tmp_path / "rollouts").rename(tmp_path.parent / "gone")
    assert [(finding.severity, finding.code) for finding in verify(signal.url)] == [("info", "input_absent")]


# -- signals and shaped parts ------------------------------------------------------------------------------------


def _kind(kind: str, *rows: dict) -> pa.Table:
    """Signal rows for a/0 (three tokens, the middle one masked) and a/1 (two tokens, the last masked)."""
    full = [{"rollout_id": f"a/{index}", "status": "ok", "detail": None, **row} for index, row in enumerate(rows)]
    return pa.Table.from_pylist(full, schema=signal_schema(kind))


SOUND = {
    "outcome": [
        {"outcome_reward": 1.0, "verify_status": "ok"},
        {"outcome_reward": 0.0, "verify_status": "unparseable"},
    ],
    "format": [
        {"format_reward": 1.0, "format_ok": True},
        {"status": "error", "format_reward": None, "format_ok": None},
    ],
    "process_steps": [
        {"process_scores": [0.5, 1.0], "process_ends": [1, 3]},
        {"process_scores": [0.5], "process_ends": [2]},
    ],
    "process_tokens": [{"process_scores": [0.5, 0.0, 1.0]}, {"status": "neg_inf", "process_scores": None}],
    "logprobs": [{"logprobs": [-0.5, 0.0, -1.0]}, {"logprobs": [-1.0, 0.0]}],
}


@pytest.mark.parametrize("kind", SOUND)
def test_a_sound_signal_of_each_kind_is_found_sound(tmp_path, make_dataset, rollouts, kind):
    made = make_dataset(str(tmp_path / "rollouts"), rollouts("a"))
    assert verify(_signal(str(tmp_path / kind), made, [_kind(kind, *SOUND[kind])]).url) == []


@pytest.mark.parametrize(
    ("kind", "spoiled", "code"),
    [
        ("outcome", {"outcome_reward": None}, "null_status"),
        ("outcome", {"status": "timeout"}, "null_status"),
        ("outcome", {"status": "late", "outcome_reward": None}, "value"),
        ("outcome", {"verify_status": "right"}, "value"),
        ("outcome", {"outcome_reward": float("inf")}, "finite"),
        ("outcome", {"status": "error", "outcome_reward": None, "extracted_answer": "4"}, "null_status"),
        ("format", {"format_ok": None}, "null_status"),
        ("process_steps", {"process_ends": [1]}, "lengths"),
        ("process_steps", {"process_ends": [3, 3]}, "ends"),
        ("process_steps", {"process_ends": [0, 3]}, "ends"),
        ("process_tokens", {"process_scores": [0.5, 0.0, float("nan")]}, "finite"),
        ("logprobs", {"status": "neg_inf"}, "null_status"),
    ],
)
def test_a_signal_that_breaks_a_rule_of_its_kind_is_not_committed(kind, spoiled, code):
    first, second = SOUND[kind]
    with pytest.raises(PartError, match=rf"a/0.*\[{code}\]"):
        check_part(_kind(kind, {**first, **spoiled}, second), "score", where="part 0")


@pytest.mark.parametrize(
    ("kind", "spoiled", "code"),
    [
        ("process_steps", {"process_ends": [1, 2]}, "ends"),
        ("process_tokens", {"process_scores": [0.5, 0.0]}, "lengths"),
        ("process_tokens", {"process_scores": [0.5, 0.1, 0.2]}, "masked_values"),
        ("logprobs", {"logprobs": [-0.5, -0.5, -1.0]}, "masked_values"),
    ],
)
def test_a_signal_that_does_not_fit_its_rollouts_is_found(tmp_path, make_dataset, rollouts, kind, spoiled, code):
    made = make_dataset(str(tmp_path / "rollouts"), rollouts("a"))
    first, second = SOUND[kind]
    signal = _signal(str(tmp_path / kind), made, [_kind(kind, {**first, **spoiled}, second)])
    [(found, message)] = _errors(signal.url)
    assert found == code
    assert message.endswith(": a/0")


@pytest.mark.parametrize(
    ("rows", "says"),
    [([0, 1], "2 rows for 4 rollouts"), ([2, 3, 0, 1], "not the rollouts' in their order: b/0, b/1, a/0")],
)
def test_a_signal_with_other_rows_than_its_rollouts_is_found(tmp_path, make_dataset, rollouts, outcomes, rows, says):
    made = make_dataset(str(tmp_path / "rollouts"), rollouts("a", "b"))
    signal = _signal(str(tmp_path / "outcome"), made, [outcomes(rollouts("a", "b")).take(rows)])
    assert any(code == "alignment" and says in message for code, message in _errors(signal.url))


def _shaped(rollouts: pa.Table, **columns: list) -> pa.Table:
    ok = {"status_prm": ["ok", "error"], "detail_prm": [None, "boom"]}
    shaping = {
        "process_scores": [[0.5, 1.0], None],
        "process_ends": [[1, 3], None],
        "chunk_ends": [[1, 3], [2]],
        "chunk_credits": [[0.5, 0.25], [0.0]],
        "chunk_advantages": [[0.5, 0.25], [0.0]],
        "path_score": [0.75, None],
        "trainable": [True, False],
        "policy_digest": ["d" * 64] * 2,
        "round": [0, 0],
    }
    schema = shaped_schema({"prm": "process_steps"})
    given = {**{name: rollouts[name] for name in ROLLOUTS.names}, **ok, **shaping, **columns}
    arrays = {
        name: given[name]
        if isinstance(given[name], pa.ChunkedArray)
        else pa.array(given[name], schema.field(name).type)
        for name in schema.names
    }
    return pa.table(arrays, schema=schema)


def _shape(url: str, made, table: pa.Table) -> str:
    ds = create_dataset(
        url, DatasetSpec(stage="shape", stage_version=1, options={}, parts=1, inputs={"rollouts": made.ref(url)})
    )
    commit_part(ds, 0, table)
    finalize(ds)
    return url


def test_a_sound_shaped_dataset_is_found_sound_and_one_of_other_rollouts_is_not(tmp_path, make_dataset, rollouts):
    made = make_dataset(str(tmp_path / "rollouts"), rollouts("a"))
    assert verify(_shape(str(tmp_path / "shaped"), made, _shaped(rollouts("a")))) == []
    other = _shape(str(tmp_path / "other"), made, _shaped(rollouts("a", text=["changed"] * 2)))
    assert _errors(other) == [("alignment", "column text is not that of its rollouts")]


@pytest.mark.parametrize(
    ("spoiled", "code"),
    [
        ({"chunk_ends": [[1, 2], [2]]}, "ends"),
        ({"chunk_ends": [[3, 3], [2]]}, "ends"),
        ({"chunk_credits": [[0.5], [0.0]]}, "lengths"),
        ({"chunk_advantages": [[0.5, float("inf")], [0.0]]}, "finite"),
        ({"path_score": [float("nan"), None]}, "finite"),
        ({"path_score": [0.5, 0.5]}, "untrainable"),
        ({"chunk_credits": [[0.5, 0.25], [0.5]]}, "untrainable"),
        (
            {
                "chunk_ends": [[1, 3], [1, 2]],
                "chunk_credits": [[0.5, 0.25], [0.0] * 2],
                "chunk_advantages": [[0.5, 0.25], [0.0] * 2],
            },
            "untrainable",
        ),
        ({"process_ends": [[1, 2], None]}, "ends"),
        ({"status_prm": ["fine", "error"]}, "value"),
    ],
)
def test_a_shaped_part_that_breaks_a_rule_is_not_committed(rollouts, spoiled, code):
    check_part(_shaped(rollouts("a")), "shape", where="part 0")
    with pytest.raises(PartError, match=rf"\[{code}\]"):
        check_part(_shaped(rollouts("a"), **spoiled), "shape", where="part 0")


@pytest.mark.parametrize(
    ("spoiled", "code"),
    [
        ({"prompt_id": ["a", "a"]}, "unique_ids"),
        ({"prompt_id": ["a/b", "c"]}, "id_form"),
        ({"prompt": ["x", None]}, "prompt_or_messages"),
        ({"messages": [[{"role": "user", "content": "x"}], None]}, "prompt_or_messages"),
    ],
)
def test_prompts_that_break_a_rule_are_not_committed(spoiled, code):
    from pass_ops.shards import PROMPTS

    def prompts(**columns: list) -> pa.Table:
        given = {"prompt_id": ["a", "b"], "prompt": ["x", "y"], "source": ["s"] * 2, **columns}
        return pa.table(
            {field.name: pa.array(given.get(field.name, [None] * 2), field.type) for field in PROMPTS}, schema=PROMPTS
        )

    check_part(prompts(), "prompts", where="part 0")
    with pytest.raises(PartError, match=rf"\[{code}\]"):
        check_part(prompts(**spoiled), "prompts", where="part 0")


def test_empty_completions_are_sound(tmp_path, make_dataset, rollouts):
    empty = {"token_ids": [[], []], "behavior_logprobs": [[], []], "loss_mask": [[], []]}
    made = make_dataset(str(tmp_path / "rollouts"), rollouts("a", **empty))
    nothing = [{"process_scores": [], "process_ends": []}] * 2
    assert verify(_signal(str(tmp_path / "prm"), made, [_kind("process_steps", *nothing)]).url) == []
    shaping = {
        "process_scores": [[], None],
        "process_ends": [[], None],
        "chunk_ends": [[], []],
        "chunk_credits": [[], []],
    }
    table = _shaped(
        rollouts("a", **empty), **shaping, chunk_advantages=[[], []], path_score=[None, None], trainable=[False, False]
    )
    assert verify(_shape(str(tmp_path / "shaped"), made, table)) == []


def test_masks_are_compared_row_by_row_where_some_rows_are_null(tmp_path, make_dataset, rollouts):
    made = make_dataset(str(tmp_path / "rollouts"), rollouts("a"))
    null_first = [{"status": "error", "logprobs": None}, {"logprobs": [-1.0, 0.0]}]
    assert verify(_signal(str(tmp_path / "sound"), made, [_kind("logprobs", *null_first)]).url) == []
    wrong = [{"status": "error", "logprobs": None}, {"logprobs": [-1.0, -1.0]}]
    [(code, message)] = _errors(_signal(str(tmp_path / "wrong"), made, [_kind("logprobs", *wrong)]).url)
    assert (code, message[-5:]) == ("masked_values", ": a/1")


def test_one_value_changed_anywhere_in_a_large_part_is_found_in_its_row(rollouts):
    table = rollouts(*[f"g{index}" for index in range(500)])
    values = table["behavior_logprobs"].to_pylist()
    row = int(np.random.default_rng(5).integers(0, len(values)))
    values[row][1] = -0.25
    with pytest.raises(PartError, match=rf"masked token: g{row // 2}/{row % 2} \["):
        check_part(_set(table, "behavior_logprobs", values), "generate", where="part 0")
