"""A PCollection of tables becomes a dataset of the contract, once; a dataset becomes a PCollection of tables."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pass_ops import ShapingConfig, shape, shards
from pass_ops.errors import (
    FingerprintMismatchError,
    IncompleteDatasetError,
    NotADatasetError,
    OptionError,
    PartError,
    StaleInputError,
)
from pass_ops.shards import STAGE_VERSIONS, DatasetSpec, Rejection, commit_part, create_dataset, finalize, open_dataset
from pass_ops.shards.schemas import ROLLOUTS, signal_schema
from pipelines.beam import ReadShards, ShapeGroups, WriteShards, part_of_group
from pipelines.parts.inputs import WrongInputError
from pipelines.runners.quiet import beam
from tests.pipelines.beam.running import CARRIED, ran, rollout, rollouts, shaped_spec

CONFIG = ShapingConfig()
GROUPS = [f"q{number}" for number in range(9)]
SIGNALS = ("process_scores", "process_ends", "outcome_reward", "format_reward", "format_ok")


def plain(rows: list[dict]) -> list[dict]:
    """Rollouts without signals."""
    return [{name: value for name, value in row.items() if name not in SIGNALS} for row in rows]


def generate_spec(parts: int, **options) -> DatasetSpec:
    return DatasetSpec(
        stage="generate", stage_version=STAGE_VERSIONS["generate"], options=options, parts=parts, carried=CARRIED
    )


def write(elements: list, out: Path, tmp_path: Path, spec: DatasetSpec, *, rejected: list | None = None, **options):
    """The URLs that come out: one."""

    def construct(pipeline):
        tables = pipeline | "tables" >> beam.Create(elements)
        given = tables if rejected is None else (tables, pipeline | "rejections" >> beam.Create(rejected))
        return {"url": given | WriteShards(str(out), spec, **options)}

    return ran(construct, tmp_path)["url"]


def read(tmp_path: Path, url: Path | str, **options) -> list:
    return ran(lambda pipeline: {"tables": pipeline | ReadShards(str(url), **options)}, tmp_path)["tables"]


def as_tables(rows: list[dict], *, size: int = 8, seed: int | None = None) -> list[pa.Table]:
    """Tables of a few rows; with a seed, of rows in any order."""
    rows = rows if seed is None else random.Random(seed).sample(rows, len(rows))
    return [pa.Table.from_pylist(rows[start : start + size]) for start in range(0, len(rows), size)]


def files(folder: Path) -> dict[str, bytes]:
    """Every file that a reader depends on."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*"))
            if file.is_file() and file.name != "_run.json" and "_attempts" not in file.parts}  # fmt: skip


def stored(url: Path | str) -> list[dict]:
    dataset = open_dataset(str(url))
    return [row for part in range(dataset.spec.parts) for row in dataset.read_part(part).to_pylist()]


def errors(url: Path | str) -> list[str]:
    return [f"{finding}" for finding in shards.verify(str(url)) if finding.severity == "error"]


def test_the_same_dataset_from_rows_in_any_order_and_tables_of_any_size(tmp_path):
    rows = plain(rollouts(*GROUPS))
    one, other = tmp_path / "one", tmp_path / "other"
    assert write(as_tables(rows), one, tmp_path, generate_spec(3)) == [str(one)]
    write(as_tables(rows, size=5, seed=3), other, tmp_path, generate_spec(3))
    assert files(one) == files(other)
    assert errors(one) == []
    by_id = {row["rollout_id"]: row for row in stored(one)}
    assert by_id == {row["rollout_id"]: row for row in pa.Table.from_pylist(rows, schema=ROLLOUTS).to_pylist()}
    for part in range(3):
        found = open_dataset(str(one)).read_part(part).to_pylist()
        assert [row["rollout_id"] for row in found] == sorted(row["rollout_id"] for row in found)
        assert {part_of_group(row["group_id"], parts=3) for row in found} <= {part}


def test_read_shape_write_is_the_stage_itself(tmp_path):
    """From a file of Parquet through Beam's own reader: what `pass_ops.shape` makes of each group, in a dataset."""
    rows = rollouts(*GROUPS)
    source = tmp_path / "rollouts.parquet"
    pq.write_table(pa.Table.from_pylist(random.Random(1).sample(rows, len(rows))), source, row_group_size=10)
    bad = rollout("bad", 0, loss_mask=[True])
    out = tmp_path / "shaped"

    def construct(pipeline):
        read = pipeline | beam.io.ReadFromParquet(str(source))
        found = (read, pipeline | beam.Create([bad])) | beam.Flatten() | ShapeGroups(CONFIG)
        return {"url": tuple(found) | WriteShards(str(out), shaped_spec(2), max_reject_rate=0.2)}

    assert ran(construct, tmp_path)["url"] == [str(out)]
    assert errors(out) == []
    (told,) = [
        row for part in (0, 1) if (table := open_dataset(str(out)).read_rejected(part)) for row in table.to_pylist()
    ]
    assert (told["prompt_id"], told["reason"]) == ("bad", "length_mismatch")
    right = {row["rollout_id"]: row for row in shape(pa.Table.from_pylist(rows), CONFIG).to_pylist()}
    made = ("chunk_ends", "chunk_credits", "chunk_advantages", "path_score", "trainable")
    found = stored(out)
    assert len(found) == len(rows)
    for row in found:
        assert {name: row[name] for name in made} == {name: right[row["rollout_id"]][name] for name in made}
        assert (row["policy_digest"], row["round"]) == ("p", 0)
    back = read(tmp_path, out)
    assert sum(map(len, back)) == len(rows)
    assert {table.schema for table in back} == {open_dataset(str(out)).read_part(0).schema}


def test_a_rerun_writes_only_what_is_missing(tmp_path):
    rows, out = plain(rollouts(*GROUPS)), tmp_path / "out"
    for fingerprint in ("rows", "spec"):
        out = tmp_path / fingerprint
        write(as_tables(rows), out, tmp_path, generate_spec(3), fingerprint=fingerprint)
        before = files(out)
        times = {file: file.stat().st_mtime_ns for file in out.glob("part-*")}
        gone = sorted(times)[1]
        gone.unlink()
        write(as_tables(rows, seed=5), out, tmp_path, generate_spec(3), fingerprint=fingerprint)
        assert files(out) == before
        assert {file for file in times if file.stat().st_mtime_ns != times[file]} == {gone}


def test_other_rows_are_refused_and_overwritten_where_asked(tmp_path):
    rows, out = plain(rollouts(*GROUPS)), tmp_path / "out"
    write(as_tables(rows), out, tmp_path, generate_spec(2))
    before = files(out)
    changed = [{**row, "text": "other"} if row["rollout_id"] == "q3/2" else row for row in rows]
    with pytest.raises(Exception, match=r"rows_sha256: \S+ there, \S+ asked"):
        write(as_tables(changed), out, tmp_path, generate_spec(2))
    assert files(out) == before
    write(as_tables(changed), out, tmp_path, generate_spec(2), overwrite=True)
    assert "other" in {row["text"] for row in stored(out)}
    assert errors(out) == []
    with pytest.raises(FingerprintMismatchError, match=r"options\.k"):
        write(as_tables(rows), out, tmp_path, generate_spec(2, k=1), fingerprint="spec")


def table_of(*groups: str, **changed) -> pa.Table:
    return pa.Table.from_pylist([{**row, **changed} for row in plain(rollouts(*groups))])


BAD_TABLES = {
    "other columns": ([table_of("a"), table_of("b", more=1)], r"more is (absent or int64|int64 or absent)"),
    "other types": ([table_of("a", more=1), table_of("b", more="x")], r"more is (int64 or string|string or int64)"),
    "a rollout twice": ([table_of("a")] * 2, "sample_index does not increase"),
    "nothing": ([], "the PCollection is empty"),
}


@pytest.mark.parametrize("what", BAD_TABLES)
def test_bad_tables_are_told_before_anything_is_written(what, tmp_path):
    elements, words = BAD_TABLES[what]
    with pytest.raises(Exception, match=words) as refused:
        write(elements, tmp_path / "out", tmp_path, generate_spec(2))
    assert "Nothing was written" in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_everything_wrong_is_told_at_once(tmp_path):
    elements = [table_of("a"), 7, (0, table_of("b")), table_of("c").drop(["text"]), table_of("d", token_ids="x")]
    with pytest.raises(Exception, match="Nothing was written") as refused:
        write(elements, tmp_path / "out", tmp_path, generate_spec(2))
    words = ("expected a table", "keyed=True", "lacks text", "'token_ids' is string, expected list<int32>")
    assert [word for word in words if word not in str(refused.value)] == []
    assert not (tmp_path / "out").exists()


def test_bad_part_numbers_are_told_before_anything_is_written(tmp_path):
    elements = [(0, table_of("a")), (0, table_of("b")), (1, table_of("a")), (2, table_of("c")), table_of("d")]
    with pytest.raises(Exception, match="Nothing was written") as refused:
        write(elements, tmp_path / "out", tmp_path, generate_spec(2), keyed=True)
    words = ("2 tables came for part 0", "group 'a' came for parts 0, 1", "expected a pair (part number, table)",
             "a table came for part 2; the dataset has parts 0 to 1")  # fmt: skip
    assert [word for word in words if word not in str(refused.value)] == []
    assert not (tmp_path / "out").exists()


def test_a_part_that_never_came_is_missing_and_the_others_stay(tmp_path):
    elements = [(1, pa.Table.from_pylist(plain(rollouts("a"))))]
    with pytest.raises(Exception, match="part 0 failed: PartError: no table came for part 0"):
        write(elements, tmp_path / "out", tmp_path, generate_spec(2), keyed=True)
    (status,) = shards.status(str(tmp_path / "out")).datasets
    assert (status.done, status.failed, status.complete) == (1, 1, False)
    with pytest.raises(IncompleteDatasetError):
        ReadShards(str(tmp_path / "out"))


def test_rows_without_a_group_and_rejections_are_recorded(tmp_path):
    rows = plain(rollouts(*GROUPS))
    lost = pa.Table.from_pylist(rows[:1]).set_column(0, "group_id", pa.nulls(1, pa.string()))
    given = [Rejection(prompt_id="gone", sample_index=index, reason="timeout") for index in (1, 0)]
    out = tmp_path / "out"
    write([*as_tables(rows[1:]), lost], out, tmp_path, generate_spec(3), rejected=given, max_reject_rate=0.5)
    dataset = open_dataset(str(out))
    found = [row for part in range(3) if (table := dataset.read_rejected(part)) for row in table.to_pylist()]
    assert sorted((row["prompt_id"], row["sample_index"], row["reason"]) for row in found) == [
        ("", 0, "no_group"), ("gone", 0, "timeout"), ("gone", 1, "timeout")]  # fmt: skip
    assert dataset.manifest.totals["rejected_rollouts"] == 3
    assert len(stored(out)) == len(rows) - 1
    with pytest.raises(Exception, match=r"were rejected \(no_group 1, timeout 2\)"):
        write([*as_tables(rows[1:]), lost], tmp_path / "strict", tmp_path, generate_spec(3), rejected=given)


def test_what_is_no_rejection_is_told(tmp_path):
    given = ["gone", Rejection(prompt_id="q", reason="odd", payload=object())]
    with pytest.raises(Exception, match="Nothing was written") as refused:
        write(as_tables(plain(rollouts("a"))), tmp_path / "out", tmp_path, generate_spec(2), rejected=given)
    assert "a str is among the rejections" in str(refused.value)
    assert "the payload of a rejection of 'q' is no JSON" in str(refused.value)


def test_two_jobs_at_once_make_one_dataset(tmp_path):
    rows = plain(rollouts(*GROUPS))
    write(as_tables(rows), tmp_path / "one", tmp_path, generate_spec(6))
    with ThreadPoolExecutor(2) as both:
        jobs = [both.submit(write, as_tables(rows, seed=seed), tmp_path / "two", tmp_path, generate_spec(6))
                for seed in (1, 2)]  # fmt: skip
        assert [job.result() for job in jobs] == [[str(tmp_path / "two")]] * 2
    assert files(tmp_path / "two") == files(tmp_path / "one")


def test_parts_without_rows_have_the_columns_of_the_others(tmp_path):
    rows = [{**row, "more": 1} for row in plain(rollouts("a"))]
    write(as_tables(rows), tmp_path / "out", tmp_path, generate_spec(4))
    tables = [open_dataset(str(tmp_path / "out")).read_part(part) for part in range(4)]
    assert sorted(map(len, tables)) == [0, 0, 0, 4]
    assert len({table.schema for table in tables}) == 1
    assert errors(tmp_path / "out") == []


def test_nothing_at_all_is_a_dataset_where_its_columns_are_given(tmp_path):
    write([], tmp_path / "out", tmp_path, generate_spec(2), schema=ROLLOUTS)
    assert stored(tmp_path / "out") == []
    assert read(tmp_path, tmp_path / "out", elements="parts")[0].schema == open_dataset(
        str(tmp_path / "out")).read_part(0).schema  # fmt: skip
    with pytest.raises(PartError, match="lacks"):
        WriteShards(str(tmp_path / "other"), generate_spec(2), schema=pa.schema([("x", pa.int8())]))
    with pytest.raises(Exception, match="the tables have different columns: more is"):
        write(as_tables([{**row, "more": 1} for row in plain(rollouts("a"))]), tmp_path / "other", tmp_path,
              generate_spec(2), schema=ROLLOUTS)  # fmt: skip


def test_types_of_json_become_the_contracts(tmp_path):
    """JSON and BigQuery have float64 and int64 only."""
    rows = plain(rollouts("a", "b"))
    table = pa.Table.from_pylist(rows)
    assert table["token_ids"].type == pa.list_(pa.int64())
    write([table], tmp_path / "out", tmp_path, generate_spec(1))
    assert open_dataset(str(tmp_path / "out")).read_part(0).schema.field("sample_index").type == pa.int32()
    too_large = [{**row, "sample_index": 2**40} for row in rows[:1]]
    with pytest.raises(Exception, match="'sample_index' is int64, expected int32"):
        write(as_tables(too_large), tmp_path / "other", tmp_path, generate_spec(1))


def test_prompts_are_written_too(tmp_path):
    empty = dict.fromkeys(("messages", "answer", "extra"))
    rows = [{"prompt_id": f"p{n}", "prompt": f"{n}+1?", "source": "mine", **empty} for n in range(10)]
    spec = DatasetSpec(stage="prompts", stage_version=STAGE_VERSIONS["prompts"], options={}, parts=3)
    write(as_tables(rows, size=4), tmp_path / "out", tmp_path, spec)
    assert sorted(row["prompt_id"] for row in stored(tmp_path / "out")) == sorted(row["prompt_id"] for row in rows)
    assert errors(tmp_path / "out") == []


@pytest.fixture
def source(tmp_path) -> Path:
    """Rollouts in three parts, the last one empty."""
    dataset = create_dataset(str(tmp_path / "rollouts"), generate_spec(3))
    for part, groups in enumerate((("a", "b"), ("c",), ())):
        commit_part(dataset, part, pa.Table.from_pylist(plain(rollouts(*groups)), schema=ROLLOUTS))
    finalize(dataset)
    return tmp_path / "rollouts"


def signal_spec(source: Path, out: Path, kind: str, parts: int = 3) -> DatasetSpec:
    return DatasetSpec(
        stage="score",
        stage_version=STAGE_VERSIONS["score"],
        options={"kind": kind},
        parts=parts,
        inputs={"rollouts": open_dataset(str(source)).ref(str(out))},
    )


def outcomes(keyed: tuple[int, pa.Table]) -> tuple[int, pa.Table]:
    part, table = keyed
    made = {
        "rollout_id": table["rollout_id"],
        "status": ["ok"] * len(table),
        "detail": pa.nulls(len(table), pa.string()),
        "outcome_reward": pa.array([float(seed % 2) for seed in table["seed"].to_pylist()], pa.float32()),
        "verify_status": ["ok"] * len(table),
        "extracted_answer": pa.nulls(len(table), pa.string()),
    }
    return part, pa.table(made, schema=signal_schema("outcome"))


def write_signal(source: Path, out: Path, tmp_path: Path, make=outcomes):
    def construct(pipeline):
        parts = pipeline | ReadShards(str(source), elements="parts", keyed=True) | beam.Map(make)
        return {"url": parts | WriteShards(str(out), signal_spec(source, out, "outcome"), keyed=True)}

    return ran(construct, tmp_path)


def test_a_signal_is_made_part_by_part_and_read_beside_its_rollouts(source, tmp_path):
    out = tmp_path / "outcome"
    write_signal(source, out, tmp_path)
    assert errors(out) == []
    tables = read(tmp_path, source, signals={"outcome": str(out)})
    rows = [row for table in tables for row in table.to_pylist()]
    assert {row["rollout_id"]: row["outcome_reward"] for row in rows} == {
        row["rollout_id"]: float(row["seed"] % 2) for row in stored(source)
    }
    assert {row["status_outcome"] for row in rows} == {"ok"}
    picked = read(tmp_path, source, signals={"outcome": str(out)}, columns=["rollout_id", "outcome_reward"])
    assert {tuple(table.column_names) for table in picked} == {("rollout_id", "outcome_reward")}


def backwards(keyed: tuple[int, pa.Table]) -> tuple[int, pa.Table]:
    """The groups of a part in another order."""
    part, table = outcomes(keyed)
    return part, pa.concat_tables([table.slice(4), table.slice(0, 4)])


def test_a_signal_of_other_rows_is_refused(source, tmp_path):
    """Groups b, a for the rollouts' a, b: each row would stand beside another rollout."""
    with pytest.raises(Exception, match="part 0 failed: AlignmentError: part 0: the rows are not the rollouts'"):
        write_signal(source, tmp_path / "outcome", tmp_path, backwards)


def test_a_signal_needs_part_numbers_and_rollouts(source, tmp_path):
    spec = signal_spec(source, tmp_path / "out", "outcome")
    with pytest.raises(OptionError, match="keyed"):
        WriteShards(str(tmp_path / "out"), spec)
    with pytest.raises(OptionError, match="inputs"):
        WriteShards(str(tmp_path / "out"), replace(spec, inputs={}), keyed=True)


def test_a_dataset_is_read_by_row_groups_or_parts(source, tmp_path):
    assert sorted(map(len, read(tmp_path, source))) == [4, 8]
    assert sorted(map(len, read(tmp_path, source, elements="parts"))) == [0, 4, 8]
    keyed = read(tmp_path, source, elements="parts", keyed=True)
    assert sorted((part, len(table)) for part, table in keyed) == [(0, 8), (1, 4), (2, 0)]
    assert {tuple(table.column_names) for table in read(tmp_path, source, columns=["text"])} == {("text",)}


def test_only_files_that_the_manifest_names_are_read(source, tmp_path):
    pq.write_table(
        pa.Table.from_pylist(plain(rollouts("planted"))), source / f"part-000000-{'0' * 8}-{'0' * 8}.parquet"
    )
    assert {group for table in read(tmp_path, source) for group in table["group_id"].to_pylist()} == {"a", "b", "c"}


def test_what_cannot_be_read_is_refused_by_name(source, tmp_path):
    with pytest.raises(NotADatasetError):
        ReadShards(str(tmp_path / "nowhere"))
    with pytest.raises(OptionError, match="elements"):
        ReadShards(str(source), elements="rows")
    with pytest.raises(WrongInputError, match="signals are made by stage score"):
        ReadShards(str(source), signals={"outcome": str(source)})
    with pytest.raises(Exception, match="the dataset has no column nothing"):
        read(tmp_path, source, columns=["nothing"])
    part = next(iter(sorted(source.glob("part-*"))))
    content = part.read_bytes()
    part.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    with pytest.raises(Exception, match="is damaged: its sha256 is"):
        read(tmp_path, source)


def test_a_dataset_made_anew_since_is_stale(source, tmp_path):
    out = tmp_path / "outcome"
    write_signal(source, out, tmp_path)
    before = ReadShards(str(source), elements="parts")
    dataset = create_dataset(str(source), generate_spec(1), overwrite=True)
    commit_part(dataset, 0, pa.Table.from_pylist(plain(rollouts("new")), schema=ROLLOUTS))
    finalize(dataset)
    with pytest.raises(Exception, match="when this pipeline was made"):
        ran(lambda pipeline: {"tables": pipeline | before}, tmp_path)
    with pytest.raises(StaleInputError):
        ReadShards(str(out))


def test_the_digest_is_of_the_rows_and_not_of_their_buffers(tmp_path):
    """A slice shares bytes, and bits of its last byte, with the table it was cut from."""
    rows = plain(rollouts("a", "b"))
    whole = pa.Table.from_pylist(rows)
    made = {
        "cut": [(0, whole.slice(0, 4)), (1, whole.slice(4))],
        "apart": [(number, pa.Table.from_pylist(rows[4 * number :][:4])) for number in (0, 1)],
    }
    for name, tables in made.items():
        write(tables, tmp_path / name, tmp_path, generate_spec(2), keyed=True)
    assert files(tmp_path / "cut") == files(tmp_path / "apart")


def test_several_processes_make_the_same(tmp_path):
    rows = plain(rollouts(*GROUPS))
    write(as_tables(rows), tmp_path / "one", tmp_path, generate_spec(3))

    def construct(pipeline):
        return {"url": pipeline | beam.Create(as_tables(rows)) | WriteShards(str(tmp_path / "many"), generate_spec(3))}

    flags = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    assert ran(construct, tmp_path, flags=flags)["url"] == [str(tmp_path / "many")]
    assert files(tmp_path / "many") == files(tmp_path / "one")
