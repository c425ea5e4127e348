"""Prompt files as they should not be: whatever is wrong is named with file and line, and good rows are kept."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pass_ops import shards
from pipelines.prompts.stage import PromptSource, PromptTypeError, SourceFormatError, read_prompts, write_prompts

GOOD = b'{"prompt": "1+1"}\n'


def written(tmp_path: Path, content: bytes, **options: Any) -> shards.CompleteDataset:
    source = tmp_path / "p.jsonl"
    source.write_bytes(content)
    write_prompts(PromptSource(source=str(source), **options), out=str(tmp_path / "out"), max_reject_rate=0.9)
    return shards.open_dataset(str(tmp_path / "out"))


def rejected(dataset: shards.CompleteDataset) -> list[tuple[str, str]]:
    files = sorted((Path(dataset.url) / "_rejected").glob("*.parquet"))
    return [(row["reason"], row["detail"]) for file in files for row in pq.read_table(file).to_pylist()]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"prompt": "abc', r"is not JSON: Unterminated string"),
        (b'{"prompt": "abc"', r"is not JSON: Expecting ',' delimiter"),
        (b'{"prompt": "a\x00b"}', r"is not JSON: Invalid control character"),
        (b"\x00\x00\x00\x00", r"is not JSON: Expecting value"),
        (b'{"prompt": "caf\xe9"}', r"cannot be read: 'utf-8' codec can't decode byte 0xe9 in position 15"),
        (b'{"prompt": "\xed\xa0\xbd"}', r"cannot be read: 'utf-8' codec can't decode byte 0xed"),
        (b'{"prompt": "a", "prompt": "b"}', r"cannot be read: the key 'prompt' stands twice in one object"),
        (
            b'{"messages": [{"role": "user", "role": "system", "content": "a"}]}',
            r"cannot be read: the key 'role' stands twice",
        ),
        (b'{"prompt": "a", "n": ' + b"9" * 5000 + b"}", r"cannot be read: Exceeds the limit"),
        (b'{"prompt": "a", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", r"cannot be read: maximum recursion depth"),
        (b'{"prompt": "a", "x": ' + b"[" * 100 + b"]" * 100 + b"}", r"is nested more than 100 levels deep"),
        (b'{"prompt": "a", "x": ' + b'{"a":' * 150 + b"1" + b"}" * 151, r"is nested more than 100 levels deep"),
        (b'"prompt"', r"holds a str where a JSON object is expected"),
    ],
)
def test_a_line_that_cannot_be_read_is_named_and_nothing_is_made(tmp_path: Path, line: bytes, said: str) -> None:
    with pytest.raises(SourceFormatError, match=r"p\.jsonl:3 " + said):
        written(tmp_path, GOOD * 2 + line + b"\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"prompt": 5}', r"column 'prompt' holds '5' \(int\) where prompt must be a string"),
        (b'{"prompt": NaN}', r"column 'prompt' holds 'nan' \(float\)"),
        (b'{"prompt": ["a"]}', r"\(list\) where prompt must be a string"),
        (b'{"prompt": "a", "prompt_id": 1.5}', r"column 'prompt_id' holds '1.5' \(float\)"),
        (b'{"prompt": "a", "prompt_id": "x\\ud83d"}', r"prompt_id must be text without half a surrogate pair"),
        (b'{"prompt": "a", "answer": NaN}', r"answer cannot be kept as JSON"),
    ],
)
def test_a_value_that_is_no_text_is_named(tmp_path: Path, line: bytes, said: str) -> None:
    with pytest.raises(PromptTypeError, match=r"p\.jsonl:2: .*" + said):
        written(tmp_path, b'{"prompt": "1+1", "prompt_id": "p", "answer": "2"}\n' + line)


@pytest.mark.parametrize("content", [5, None, ["a"]])
def test_a_message_that_is_no_text_is_named(tmp_path: Path, content: object) -> None:
    line = json.dumps({"messages": [{"role": "user", "content": content}]}).encode()
    with pytest.raises(PromptTypeError, match=r"p\.jsonl:1: .*one of the messages must be a \{role, content\}"):
        written(tmp_path, line)


@pytest.mark.parametrize("half", ["\\ud83d", "\\ude00", "\\ude00\\ud83d"])
@pytest.mark.parametrize(
    ("role", "row"),
    [
        ("prompt", '{"prompt": "bad HALF tail"}'),
        ("messages", '{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "HALF"}]}'),
        ("answer", '{"prompt": "a", "answer": "HALF"}'),
        ("answer", '{"prompt": "a", "answer": ["b", "HALF"]}'),
        ("source", '{"prompt": "a", "source": "HALF"}'),
        ("extra", '{"prompt": "a", "level": {"x": "HALF"}}'),
    ],
)
def test_half_a_surrogate_pair_costs_its_own_row(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, role: str, row: str, half: str
) -> None:
    good = row.replace("HALF", "\\ud83d\\ude00")  # a whole one is an emoji
    extra = ("level",) if "level" in row else ()
    with caplog.at_level(logging.WARNING):
        dataset = written(tmp_path, f"{good}\n{row.replace('HALF', half)}\n".encode(), extra=extra)
    ((reason, detail),) = rejected(dataset)
    assert reason == "lone_surrogate"
    assert detail.startswith(f"{role} has half a surrogate pair, U+D")
    assert detail.endswith("at p.jsonl:2")
    assert f"1 of 2 prompts cannot be used. The first: {detail}" in caplog.text
    (kept,) = dataset.read_part(0).to_pylist()
    assert "\N{GRINNING FACE}" in json.dumps(kept, ensure_ascii=False)


def test_a_prompt_of_50_megabytes_costs_its_own_row(tmp_path: Path) -> None:
    long = "a" * 50_000_000
    messages = json.dumps({"messages": [{"role": "user", "content": long[: len(long) // 2]}] * 2})
    dataset = written(tmp_path, GOOD + json.dumps({"prompt": long}).encode())
    assert rejected(dataset) == [("prompt_too_long", "50000000 characters at p.jsonl:2; a prompt has at most 10000000")]
    assert dataset.read_part(0)["prompt"].to_pylist() == ["1+1"]
    (tmp_path / "chat").mkdir()
    chat = written(tmp_path / "chat", messages.encode() + b'\n{"messages": [{"role": "user", "content": "hi"}]}')
    assert [reason for reason, _ in rejected(chat)] == ["prompt_too_long"]


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + GOOD + GOOD,
        GOOD + b"\xef\xbb\xbf" + GOOD,  # two such files, one after the other
        GOOD.replace(b"\n", b"\r\n") * 2,
        GOOD + b"\n  \n" + GOOD.rstrip(),
    ],
    ids=["a byte order mark", "one within", "CRLF", "blank lines, no last newline"],
)
def test_what_editors_do_to_a_file_is_no_fault(tmp_path: Path, content: bytes) -> None:
    assert written(tmp_path, content).read_part(0)["prompt"].to_pylist() == ["1+1", "1+1"]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf\n"])
def test_a_file_without_rows_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(SourceFormatError, match=r"p\.jsonl (holds no rows|is not JSON)|p\.jsonl:1"):
        written(tmp_path, content)


def test_lines_under_the_name_of_a_list_are_told_how_they_are_read(tmp_path: Path) -> None:
    source = tmp_path / "dev.json"
    source.write_bytes(GOOD + GOOD)
    with pytest.raises(SourceFormatError, match=r'dev\.json is not JSON.* set format = "jsonl" where each line is'):
        read_prompts(PromptSource(source=str(source)))
    assert len(read_prompts(PromptSource(source=str(source), format="jsonl"))) == 2


def test_a_parquet_file_with_texts_that_are_none_is_refused(tmp_path: Path) -> None:
    texts = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe"))
    pq.write_table(pa.table({"prompt": texts}), tmp_path / "p.parquet")
    with pytest.raises(SourceFormatError, match=r"p\.parquet is no readable parquet file: .*[Ii]nvalid UTF8"):
        write_prompts(PromptSource(source=str(tmp_path / "p.parquet")), out=str(tmp_path / "out"))


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.table([["a"], ["b"]], names=["prompt", "prompt"])
    pq.write_table(table, tmp_path / "p.parquet")
    with pytest.raises(SourceFormatError, match=r"p\.parquet has two columns named 'prompt'"):
        write_prompts(PromptSource(source=str(tmp_path / "p.parquet")), out=str(tmp_path / "out"))
    saved = tmp_path / "saved"
    saved.mkdir()
    (saved / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    with pa.OSFile(str(saved / "data.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    with pytest.raises(SourceFormatError, match=r"data\.arrow has two columns named 'prompt'"):
        write_prompts(PromptSource(source=str(saved)), out=str(tmp_path / "out"))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"splits": 5}'])
def test_a_saved_dataset_whose_splits_cannot_be_read_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "dataset_dict.json").write_text(content)
    with pytest.raises(SourceFormatError, match="does not list the splits"):
        write_prompts(PromptSource(source=str(tmp_path / "saved")), out=str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("roles", "reason", "said"),
    [
        (["human"], "unknown_role", "a message has the role 'human', and the roles are system, developer"),
        (["user", "bot"], "unknown_role", "the role 'bot'"),
        (["user", "User"], "unknown_role", "the role 'User'"),
        (["user", ""], "unknown_role", "the role ''"),
        (["system"], "no_user_message", "no message has the role user, at p.jsonl:1"),
        (["system", "assistant", "tool"], "no_user_message", "no message has the role user"),
    ],
)
def test_a_chat_of_unknown_roles_or_without_a_user_is_rejected(tmp_path, roles, reason, said):
    chats = [roles, ["system", "user", "assistant", "user", "tool"], ["developer", "user", "assistant"]]
    lines = [json.dumps({"messages": [{"role": role, "content": "a"} for role in chat]}) for chat in chats]
    dataset = written(tmp_path, "\n".join(lines).encode())
    ((found, detail),) = rejected(dataset)
    assert (found, dataset.manifest.totals["rows"]) == (reason, 2)
    assert said in detail
