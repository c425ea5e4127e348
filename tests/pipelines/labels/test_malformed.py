"""Whatever is wrong with a file of labels is named, with file and line, and costs no row but its own."""

from __future__ import annotations

import json
import tracemalloc
from copy import deepcopy
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.labels import LabelFileError, LabelFormatError, RejectedRow, label_format, read_labels
from pipelines.rows import read as rows
from pipelines.rows.record import RowFileError
from tests.pipelines.labels.samples import (
    MATH_SHEPHERD,
    PROCESSBENCH,
    SAMPLES,
    TRL,
    ULTRAINTERACT,
    completion,
    prm800k,
    rated,
)

GOOD = json.dumps(PROCESSBENCH).encode()


def bench(**changed) -> bytes:
    return json.dumps(PROCESSBENCH | changed).encode()


def without(name: str) -> bytes:
    return json.dumps({key: value for key, value in PROCESSBENCH.items() if key != name}).encode()


def rejected(tmp_path: Path, form: str, line: bytes) -> RejectedRow:
    """The one rejected row of a file that holds a good row, this line, and the good row again."""
    good = json.dumps(SAMPLES[form]).encode()
    (tmp_path / "labels.jsonl").write_bytes(good + b"\n" + line + b"\n" + good + b"\n")
    found = list(read_labels(label_format(form), str(tmp_path / "labels.jsonl")))
    rejects = [one for one in found if isinstance(one, RejectedRow)]
    assert len(rejects) == 1, rejects
    assert rejects[0].where == "labels.jsonl:2"
    assert found[-1].where == "labels.jsonl:3"
    return rejects[0]


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        pytest.param(GOOD[:60], "json", "it is not JSON", id="truncated"),
        pytest.param(b"[1, 2]", "json", "it holds a list, not an object", id="no object"),
        pytest.param(b"null", "json", "it holds a NoneType, not an object", id="null"),
        pytest.param(b'{"id": "a", ' + GOOD[1:], "json", "it holds the key 'id' twice", id="duplicate key"),
        pytest.param(GOOD.replace(b"false", b"NaN"), "json", "it holds NaN, which is no JSON", id="NaN"),
        pytest.param(b'{"a": ' + b"[" * 100_000, "json", "nested too deeply", id="nested deeply"),
        pytest.param(b'{"a": ' + b"9" * 5000 + b"}", "json", "digits", id="endless number"),
        pytest.param(GOOD.replace(b"Sue", b"Su\xe9"), "encoding", "it is not UTF-8", id="Latin-1"),
        pytest.param(GOOD.decode().encode("utf-16"), "encoding", "it is not UTF-8", id="UTF-16"),
        pytest.param(GOOD.replace(b"Sue", b"\\ud800"), "encoding", "problem holds half a character", id="surrogate"),
        pytest.param(b'"' + b"x" * (rows.MAX_ROW_BYTES + 1) + b'"', "gigantic", "longer than 16 MiB", id="gigantic"),
        pytest.param(without("label"), "fields", "label is missing; the row has", id="no label"),
        pytest.param(without("problem"), "fields", "problem is missing", id="no problem"),
        pytest.param(bench(id=7), "fields", "id is 7, not a text", id="id a number"),
        pytest.param(bench(problem=" \n"), "fields", "problem is blank", id="blank problem"),
        pytest.param(bench(steps="one"), "fields", "steps is 'one', not a list", id="steps no list"),
        pytest.param(bench(steps=[], label=-1), "fields", "steps is empty", id="no steps"),
        pytest.param(bench(steps=["a", " "], label=-1), "fields", "steps[1] is blank", id="blank step"),
        pytest.param(bench(steps=["a", None]), "fields", "steps[1] is None, not a text", id="step null"),
        pytest.param(bench(steps=["a"] * 2001), "fields", "steps holds 2001 steps", id="too many steps"),
        pytest.param(bench(label=3), "labels", "label is 3, not a whole number from -1 to 2", id="label beyond"),
        pytest.param(bench(label=-2), "labels", "label is -2, not", id="label below"),
        pytest.param(bench(label=True), "labels", "label is True, not", id="label a boolean"),
        pytest.param(bench(label=1.0), "labels", "label is 1.0, not", id="label a float"),
        pytest.param(bench(final_answer_correct="no"), "fields", "final_answer_correct is 'no'", id="answer a text"),
    ],
)
def test_a_bad_line_is_rejected_by_its_place_and_the_others_are_read(
    tmp_path: Path, line: bytes, reason: str, detail: str
) -> None:
    row = rejected(tmp_path, "processbench", line)
    assert row.reason == reason
    assert detail in row.detail
    assert len(row.detail) < 300  # a hostile row does not fill the terminal


def shepherd(text: str, label: str | None = None) -> dict:
    """A row with another input; its label has a + for each tag, where none is given."""
    return MATH_SHEPHERD | {"input": text, "label": text.replace("ки", "+") if label is None else label}


def labelled(label: str) -> dict:
    return MATH_SHEPHERD | {"label": label}


def step(*completions: tuple, **changed) -> dict:
    """A row of PRM800K with one step."""
    return prm800k(rated(*(completion(*one) for one in completions), **changed))


SIGNS, TURNS = MATH_SHEPHERD["label"], ULTRAINTERACT["trajectory"]
HUMAN = {"chosen": None, "human": {"rating": 1}}


@pytest.mark.parametrize(
    ("form", "row", "reason", "detail"),
    [
        ("math_shepherd", labelled(SIGNS.replace("7. -", "7. ?")), "labels", "holds '?' at tag 2"),
        ("math_shepherd", labelled("Another text."), "labels", "label is not the input with a sign"),
        ("math_shepherd", labelled(SIGNS[:-1]), "labels", "holds '' at tag 3"),
        ("math_shepherd", labelled(SIGNS + "+"), "labels", "longer than"),
        ("math_shepherd", shepherd("Why? Step 1: so."), "labels", "input holds no tag"),
        ("math_shepherd", shepherd("Why? Step 1: ки so"), "labels", "behind its last tag"),
        ("math_shepherd", shepherd("Why. So ки"), "fields", "where the problem ends is not told"),
        ("math_shepherd", shepherd("Why? Step 1: a ки Step 2: b ки ки"), "fields", "step 3 is blank"),
        ("math_shepherd", shepherd("Why? Step 1: " + "a ки" * 2001), "fields", "input holds 2001 steps"),
        ("trl", TRL | {"labels": [True]}, "labels", "there are 2 completions and 1 labels"),
        ("trl", TRL | {"labels": [True, "yes"]}, "labels", "labels[1] is 'yes'"),
        ("trl", TRL | {"labels": [True, 2]}, "labels", "labels[1] is 2"),
        ("trl", TRL | {"labels": [True, None]}, "labels", "labels[1] is None"),
        ("trl", TRL | {"prompt": [{"role": "system", "content": "x"}]}, "fields", "no message of the user"),
        ("ultrainteract", ULTRAINTERACT | {"trajectory": []}, "fields", "trajectory is empty"),
        ("ultrainteract", ULTRAINTERACT | {"trajectory": TURNS[:2]}, "fields", "turns go from user"),
        ("ultrainteract", ULTRAINTERACT | {"trajectory": TURNS[1:]}, "fields", "is of 'assistant', 'user'"),
        ("ultrainteract", ULTRAINTERACT | {"rejected": ULTRAINTERACT["chosen"]}, "labels", "one and the same"),
        ("prm800k", step(("a", 2)), "labels", "steps[0].completions[0].rating is 2, none of -1, 0 and 1"),
        ("prm800k", step(("a", True)), "labels", "rating is True"),
        ("prm800k", step(("a", "1")), "labels", "rating is '1'"),
        ("prm800k", step(("a", 1), chosen=1), "labels", "chosen_completion is 1, and there are 1"),
        ("prm800k", step(("a", 1), chosen=-1), "labels", "chosen_completion is -1"),
        ("prm800k", step(("a", -1), **HUMAN), "fields", "human_completion is None"),
        ("prm800k", step(chosen=None), "labels", "no step of it was labelled"),
        ("prm800k", prm800k(finish="done"), "labels", "finish_reason is 'done'"),
        ("prm800k", prm800k(*[rated(completion("a", 1))] * 2001), "fields", "steps holds 2001 steps"),
        ("prm800k", prm800k() | {"question": "What?"}, "fields", "question is 'What?', not an object"),
    ],
)
def test_a_row_that_is_not_what_its_format_says_is_rejected(tmp_path, form, row, reason, detail) -> None:
    found = rejected(tmp_path, form, json.dumps(row).encode())
    assert (found.reason, detail in found.detail) == (reason, True), found


def test_an_array_is_read_item_by_item_and_a_bad_item_costs_itself(tmp_path: Path) -> None:
    file = tmp_path / "labels.json"
    good = json.dumps(PROCESSBENCH | {"problem": 'A "[{,\\" of text]}'}, indent=2)
    file.write_text(f'[{good},\n{{"id": 1, 2}},\n{good}]\n')
    first, bad, last = read_labels(label_format("processbench"), str(file))
    assert (bad.reason, bad.where) == ("json", "labels.json:13")
    assert (first.where, last.where) == ("labels.json:1", "labels.json:14")
    assert first.problem == last.problem == 'A "[{,\\" of text]}'


@pytest.mark.parametrize("rest", ["", ",", ', {"id": "x', ", {}", "] x", ",]"])
def test_an_array_that_ends_too_early_or_goes_on_too_long_says_so(tmp_path: Path, rest: str) -> None:
    file = tmp_path / "labels.json"
    file.write_text("[" + json.dumps(PROCESSBENCH) + rest)
    found = list(read_labels(label_format("processbench"), str(file)))
    assert found[0].key == "gsm8k-0"
    assert {type(one) for one in found[1:]} == {RejectedRow}


def test_a_gigantic_line_is_never_held(tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    with file.open("wb") as stream:
        stream.writelines(b"x" * 2**20 for _ in range(64))
        stream.write(b"\n" + GOOD)
    tracemalloc.start()
    try:
        found = list(read_labels(label_format("processbench"), str(file)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [getattr(one, "reason", None) or one.key for one in found] == ["gigantic", "gsm8k-0"]
    assert peak < 2.5 * rows.MAX_ROW_BYTES


def test_many_rows_take_no_more_memory_than_a_few(tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    peaks = []
    for count in (500, 5000):
        file.write_bytes(b"".join(bench(id=f"row-{number}") + b"\n" for number in range(count)))
        tracemalloc.start()
        try:
            assert sum(1 for _ in read_labels(label_format("processbench"), str(file))) == count
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] < peaks[0] + 3 * rows._BLOCK  # a block or two, not 2 MiB of rows


@pytest.mark.parametrize("name", ["labels.jsonl", "labels.json", "labels.parquet"])
@pytest.mark.parametrize("form", SAMPLES)
def test_every_kind_of_file_gives_the_same(tmp_path: Path, name: str, form: str) -> None:
    content = [deepcopy(SAMPLES[form])] * 3
    file = tmp_path / name
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(content), file)
    else:
        lines = [json.dumps(row, ensure_ascii=False) for row in content]
        text = "\ufeff" + "\n\n".join(lines) if name.endswith("l") else f"[{','.join(lines)}]"
        file.write_text(text, encoding="utf-8")
    found = list(read_labels(label_format(form), str(file)))
    one = list(label_format(form).read(SAMPLES[form], "", ""))
    assert len(found) == 3 * len(one)
    for at, solution in enumerate(found):
        wanted = one[at % len(one)]
        assert (solution.problem, solution.steps, solution.labels, solution.first_error, solution.shared) == (
            wanted.problem, wanted.steps, wanted.labels, wanted.first_error, wanted.shared,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("labels.pkl", b"\x80\x04N.", "'.pkl' is none of them"),
        ("labels", b"{}", "'no suffix' is none of them"),
        ("labels.jsonl", b"", "holds no rows"),
        ("labels.json", b"[]", "holds no rows"),
        ("labels.jsonl", b"\n \n", "holds no rows"),
        ("labels.parquet", b"PAR1 and no more", "cannot be read as Parquet"),
        ("absent.jsonl", None, "does not exist"),
    ],
)
def test_a_file_that_holds_no_labels_is_a_named_error(tmp_path: Path, name: str, content, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises((LabelFileError, RowFileError), match=message):
        list(read_labels(label_format("trl"), str(tmp_path / name)))


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "labels.jsonl").mkdir()
    with pytest.raises(RowFileError, match="cannot be read"):
        list(read_labels(label_format("trl"), str(tmp_path / "labels.jsonl")))


def test_parquet_with_a_text_that_is_not_utf8_is_a_named_error(tmp_path: Path) -> None:
    texts = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xe9\xff")])
    pq.write_table(pa.table({"prompt": texts}), tmp_path / "labels.parquet")
    with pytest.raises(RowFileError, match="cannot be read as Parquet beyond row 0"):
        list(read_labels(label_format("trl"), str(tmp_path / "labels.parquet")))


def test_an_unknown_format_lists_the_known_ones() -> None:
    with pytest.raises(LabelFormatError, match=r"no format of labels 'prm800'.*did you mean 'prm800k'"):
        label_format("prm800")
