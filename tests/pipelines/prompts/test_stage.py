"""Prompts from files: formats, column mapping, ids, windows, bad input."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pass_ops import shards
from pass_ops.errors import NotFinalized, StaleInputError
from pipelines.prompts.part_size import advise_prompts_per_part
from pipelines.prompts.stage import (
    DuplicatePromptError,
    PromptSource,
    PromptTypeError,
    SourceColumnError,
    SourceFormatError,
    SourceNotFoundError,
    SourceOptionError,
    read_prompts,
    write_prompts,
)

ROWS = [{"question": f"{i}+1=?", "answer": str(i + 1), "level": i} for i in range(5)]


def jsonl(path: Path, rows: list[Any]) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def stored(tmp_path: Path, source: PromptSource, **options: Any) -> list[dict[str, Any]]:
    out = str(tmp_path / "prompts")
    write_prompts(source, out=out, **options)
    dataset = shards.open_dataset(out)
    return [row for part in range(dataset.spec.parts) for row in dataset.read_part(part).to_pylist()]


def rejections(tmp_path: Path) -> list[dict[str, Any]]:
    table = shards.open_dataset(str(tmp_path / "prompts")).read_rejected(0)
    return table.to_pylist() if table is not None else []


def test_the_rows_read_are_the_rows_stored(tmp_path: Path) -> None:
    source = PromptSource(source=jsonl(tmp_path / "p.jsonl", ROWS), columns={"prompt": "question"})
    assert read_prompts(source) == stored(tmp_path, source)


# --- formats -------------------------------------------------------------------------------------------------------


def test_jsonl_rows_become_prompts_by_the_column_mapping(tmp_path: Path) -> None:
    source = PromptSource(source=jsonl(tmp_path / "sums.jsonl", ROWS), columns={"prompt": "question"}, extra=("level",))
    assert stored(tmp_path, source)[1] == {
        "prompt_id": "sums-1",
        "prompt": "1+1=?",
        "messages": None,
        "answer": "2",
        "source": "sums",
        "extra": '{"level": 1}',
    }


def test_jsonl_passes_over_blank_lines_and_keeps_line_numbers_in_errors(tmp_path: Path) -> None:
    source = PromptSource(source=jsonl(tmp_path / "p.jsonl", [{"prompt": "1"}, "", '{"prompt": ']))
    with pytest.raises(SourceFormatError, match=r"p\.jsonl:3 is not JSON"):
        stored(tmp_path, source)


def test_every_format_gives_the_same_prompts(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    pq.write_table(table, tmp_path / "sums.parquet")
    saved = tmp_path / "saved" / "train"
    saved.mkdir(parents=True)
    with pa.OSFile(str(saved / "sums.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    (saved / "state.json").write_text(json.dumps({"_data_files": [{"filename": "sums.arrow"}], "_fingerprint": "1"}))
    (saved / "dataset_info.json").write_text("{}")
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    files = [jsonl(tmp_path / "sums.jsonl", ROWS), str(tmp_path / "sums.parquet"), str(saved), str(saved.parent)]
    tables = []
    for number, file in enumerate(files):
        source = PromptSource(source=file, columns={"prompt": "question"})
        write_prompts(source, out=str(tmp_path / f"out{number}"))
        tables.append(shards.open_dataset(str(tmp_path / f"out{number}")).read_part(0).to_pylist())
    assert tables[0] == tables[1] == tables[2] == tables[3]
    assert [row["prompt_id"] for row in tables[0]] == ["sums-0", "sums-1", "sums-2", "sums-3", "sums-4"]


def test_a_folder_of_files_is_read_in_order_of_names(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    jsonl(folder / "b.jsonl", [{"prompt": "second"}])
    jsonl(folder / "a.jsonl", [{"prompt": "first"}])
    rows = stored(tmp_path, PromptSource(source=str(folder)))
    assert [(row["prompt_id"], row["prompt"]) for row in rows] == [("a-0", "first"), ("b-0", "second")]


def test_a_split_must_be_chosen_where_there_are_several(tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(SourceFormatError, match="splits train, test, and no split is chosen"):
        stored(tmp_path, PromptSource(source=str(tmp_path)))
    with pytest.raises(SourceFormatError, match="there is no split 'dev'"):
        stored(tmp_path, PromptSource(source=str(tmp_path), split="dev"))


def test_prompts_may_lie_in_any_fsspec_store() -> None:
    import fsspec

    fsspec.filesystem("memory").pipe_file("/sources/p.jsonl", b'{"prompt": "1+1=?"}\n')
    manifest = write_prompts(PromptSource(source="memory://sources/p.jsonl"), out="memory://sources/run/prompts")
    assert manifest.totals["rows"] == 1


# --- columns -------------------------------------------------------------------------------------------------------


def test_messages_are_kept_as_messages(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "1+1=?"}]
    source = PromptSource(source=jsonl(tmp_path / "p.jsonl", [{"chat": messages}]), columns={"messages": "chat"})
    (row,) = stored(tmp_path, source)
    assert (row["prompt"], row["messages"]) == (None, messages)


@pytest.mark.parametrize(
    ("answer", "expected"), [("5", "5"), (["5", "6"], '["5", "6"]'), (5, "5"), ({"x": 1}, '{"x": 1}'), (None, None)]
)
def test_an_answer_that_is_no_string_becomes_json(tmp_path: Path, answer: object, expected: str | None) -> None:
    source = PromptSource(source=jsonl(tmp_path / "p.jsonl", [{"prompt": "1", "answer": answer}]))
    assert stored(tmp_path, source)[0]["answer"] == expected


def test_a_slash_in_a_mapped_id_is_percent_encoded(tmp_path: Path) -> None:
    row = {"problem": "1", "unique_id": "test/algebra/7.json"}
    columns = {"prompt": "problem", "prompt_id": "unique_id"}
    source = PromptSource(source=jsonl(tmp_path / "p.jsonl", [row]), columns=columns)
    assert stored(tmp_path, source)[0]["prompt_id"] == "test%2Falgebra%2F7.json"


def test_the_template_goes_around_the_prompt_braces_and_all(tmp_path: Path) -> None:
    source = PromptSource(source=jsonl(tmp_path / "p.jsonl", [{"prompt": r"\frac{1}{2}"}]), template="Q: {prompt}\nA:")
    assert stored(tmp_path, source)[0]["prompt"] == "Q: \\frac{1}{2}\nA:"


def test_name_is_the_source_of_every_row_unless_a_column_is_mapped(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "p.jsonl", [{"prompt": "1", "from": "amc"}])
    named = PromptSource(source=file, name="math")
    mapped = PromptSource(source=file, name="math", columns={"source": "from"})
    assert stored(tmp_path, named)[0]["source"] == "math"
    assert stored(tmp_path / "2", mapped)[0]["source"] == "amc"


# --- order and windows ---------------------------------------------------------------------------------------------


def ids(tmp_path: Path, name: str, **options: Any) -> list[str]:
    file = jsonl(tmp_path / "p.jsonl", [{"prompt": str(i)} for i in range(7)])
    return [row["prompt_id"] for row in stored(tmp_path / name, PromptSource(source=file, **options))]


def test_a_shuffle_is_a_permutation_by_seed_and_windows_of_it_tile_it(tmp_path: Path) -> None:
    order = ids(tmp_path, "all", shuffle_seed=3)
    assert order != ids(tmp_path, "plain")
    assert sorted(order) == sorted(ids(tmp_path, "plain"))
    assert order != ids(tmp_path, "other", shuffle_seed=4)
    assert ids(tmp_path, "first", shuffle_seed=3, limit=4) == order[:4]
    assert ids(tmp_path, "second", shuffle_seed=3, offset=4, limit=4) == [*order[4:], order[0]]


def test_a_window_never_holds_a_row_twice(tmp_path: Path) -> None:
    assert sorted(ids(tmp_path, "all", offset=5, limit=100)) == [f"p-{i}" for i in range(7)]


def test_parts_hold_prompts_per_part_rows(tmp_path: Path) -> None:
    ids(tmp_path, "out", prompts_per_part=3)
    assert [part.rows for part in shards.open_dataset(str(tmp_path / "out" / "prompts")).parts] == [3, 3, 1]


def test_two_runs_give_the_same_bytes_wherever_the_file_lies(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    digests = set()
    for file in (tmp_path / "p.jsonl", tmp_path / "elsewhere" / "p.jsonl"):
        manifest = write_prompts(
            PromptSource(source=jsonl(file, ROWS), columns={"prompt": "question"}), out=str(file.parent / "prompts")
        )
        digests.add(manifest.content_digest)
    assert len(digests) == 1


def test_the_files_digest_is_a_recorded_input_and_a_changed_file_makes_the_dataset_stale(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "p.jsonl", [{"prompt": "1"}])
    stored(tmp_path, PromptSource(source=file))
    dataset = shards.open_dataset(str(tmp_path / "prompts"))
    assert dataset.spec.inputs["p.jsonl"].content_digest == hashlib.sha256(Path(file).read_bytes()).hexdigest()
    dataset.check_inputs()
    jsonl(tmp_path / "p.jsonl", [{"prompt": "2"}])
    with pytest.raises(StaleInputError, match=r"p.jsonl"):
        dataset.check_inputs()


# --- bad input -----------------------------------------------------------------------------------------------------


def test_a_row_without_a_prompt_is_rejected_and_the_others_are_kept(tmp_path: Path) -> None:
    rows = [{"prompt": "1"}, {"prompt": None}, {"prompt": "  "}, {"prompt": "2"}]
    kept = stored(tmp_path, PromptSource(source=jsonl(tmp_path / "p.jsonl", rows)), max_reject_rate=0.5)
    assert [row["prompt_id"] for row in kept] == ["p-0", "p-3"]
    assert [(r["prompt_id"], r["reason"], r["detail"]) for r in rejections(tmp_path)] == [
        ("p-1", "null_prompt", "'prompt' is null at p.jsonl:2"),
        ("p-2", "empty_prompt", "'prompt' is empty at p.jsonl:3"),
    ]


def test_too_many_unusable_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFinalized, match="null_prompt 1"):
        stored(tmp_path, PromptSource(source=jsonl(tmp_path / "p.jsonl", [{"prompt": "1"}, {"prompt": None}])))


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match=r"absent.jsonl does not exist"):
        stored(tmp_path, PromptSource(source=str(tmp_path / "absent.jsonl")))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceFormatError, match="holds no rows"):
        stored(tmp_path, PromptSource(source=jsonl(tmp_path / "p.jsonl", [])))
    assert not (tmp_path / "prompts").exists()


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(SourceFormatError, match=r"p\.parquet is no readable parquet file"):
        stored(tmp_path, PromptSource(source=str(tmp_path / "p.parquet")))


def test_a_line_that_is_no_object_is_refused_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(SourceFormatError, match=r"p\.jsonl:2 holds a list"):
        stored(tmp_path, PromptSource(source=jsonl(tmp_path / "p.jsonl", [{"prompt": "1"}, [1]])))


def test_an_unknown_suffix_asks_for_the_format(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "prompts.txt", [{"prompt": "1"}])
    with pytest.raises(SourceFormatError, match=r"'\.txt' does not tell"):
        stored(tmp_path, PromptSource(source=file))
    assert len(stored(tmp_path, PromptSource(source=file, format="jsonl"))) == 1


def test_a_missing_mapped_column_is_named_with_the_nearest(tmp_path: Path) -> None:
    source = PromptSource(source=jsonl(tmp_path / "p.jsonl", ROWS), columns={"prompt": "questoin"})
    with pytest.raises(SourceColumnError, match="no column 'questoin'; did you mean 'question'"):
        stored(tmp_path, source)


def test_without_a_prompt_column_the_columns_are_listed(tmp_path: Path) -> None:
    with pytest.raises(SourceColumnError, match="no column named prompt or messages: 'question', 'answer', 'level'"):
        stored(tmp_path, PromptSource(source=jsonl(tmp_path / "p.jsonl", ROWS)))


def test_a_duplicate_id_is_named_with_both_places(tmp_path: Path) -> None:
    rows = [{"prompt_id": "x", "prompt": "1"}, {"prompt_id": "y", "prompt": "2"}, {"prompt_id": "x", "prompt": "3"}]
    with pytest.raises(DuplicatePromptError, match=r"'x' stands at p\.jsonl:1 and again at p\.jsonl:3"):
        stored(tmp_path, PromptSource(source=jsonl(tmp_path / "p.jsonl", rows)))


@pytest.mark.parametrize(
    ("row", "columns", "expected"),
    [
        ({"prompt": 7}, {}, r"p\.jsonl:1: column 'prompt' holds '7' \(int\) where prompt must be a string"),
        ({"prompt": "1", "prompt_id": 1.5}, {}, "prompt_id must be a string or an integer"),
        ({"messages": "hi"}, {}, "messages must be a list"),
        ({"messages": [{"role": "user"}]}, {}, "one of the messages must be a {role, content}"),
    ],
)
def test_a_value_of_a_wrong_type_is_named_with_its_place(
    tmp_path: Path, row: dict[str, Any], columns: dict[str, str], expected: str
) -> None:
    with pytest.raises(PromptTypeError, match=expected):
        stored(tmp_path, PromptSource(source=jsonl(tmp_path / "p.jsonl", [row]), columns=columns))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"format": "csv"}, "it must be 'auto', 'jsonl'"),
        ({"columns": {"promt": "q"}}, "did you mean 'prompt'"),
        ({"columns": {"prompt": "q", "messages": "m"}}, "maps both"),
        ({"template": "Q:"}, "must hold"),
        ({"limit": 0}, "greater than or equal to 1"),
        ({"offset": -1}, "greater than or equal to 0"),
        ({"prompts_per_part": 0}, "greater than or equal to 1"),
    ],
)
def test_options_are_checked_before_anything_is_read(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(SourceOptionError, match=expected):
        PromptSource(source="p.jsonl", **options)


# --- advice --------------------------------------------------------------------------------------------------------


def test_the_advised_part_is_minutes_of_engine_time_or_less_where_bytes_forbid() -> None:
    slow = advise_prompts_per_part(group_size=8, tokens_per_rollout=500, tokens_per_second=4000)
    assert (slow.prompts_per_part, slow.minutes) == (300, 5.0)
    fast = advise_prompts_per_part(group_size=8, tokens_per_rollout=500, tokens_per_second=4_000_000)
    assert (fast.prompts_per_part, fast.megabytes) == (8000, 256.0)


def test_a_part_never_has_less_than_one_prompt() -> None:
    advice = advise_prompts_per_part(group_size=64, tokens_per_rollout=30_000, tokens_per_second=100)
    assert advice.prompts_per_part == 1


@pytest.mark.parametrize("name", ["run[1]", "a::b", "r*n", "{a,b}"])
def test_a_source_may_have_any_name(tmp_path, name):
    (tmp_path / "run1").mkdir()
    (tmp_path / "run1" / "sums.jsonl").write_text('{"prompt": "another"}\n')
    (tmp_path / name).mkdir()
    (tmp_path / name / "sums.jsonl").write_text('{"prompt": "1+1"}\n')
    for number, source in enumerate((tmp_path / name, tmp_path / name / "sums.jsonl")):
        write_prompts(PromptSource(source=str(source)), out=str(tmp_path / name / f"out{number}"))
        [row] = shards.open_dataset(str(tmp_path / name / f"out{number}")).read_part(0).to_pylist()
        assert row["prompt"] == "1+1"
