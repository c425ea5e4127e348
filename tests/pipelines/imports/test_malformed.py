"""Files that are not what they say: each is a named error, or a rejected row with its file and line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.imports.formats import import_format
from pipelines.imports.record import ImportFormatError, ImportSourceError
from pipelines.imports.run import ImportOptions
from pipelines.imports.sources import source_files
from pipelines.rows.read import MAX_ROW_BYTES
from pipelines.rows.record import RejectedRow, RowFileError

TOKENS = ("response=text", "token_ids=ids", "logprobs=lp", "loss_mask=mask", "reward.r=r", "sample_index=at")
GOOD = {"prompt": "p", "text": "ab", "ids": [5, 6], "lp": [-0.5, -0.25], "mask": [1, 1], "r": 1.0, "at": None}


def line(**changes: Any) -> bytes:
    return json.dumps(GOOD | changes).encode()


def without(name: str) -> bytes:
    return json.dumps({key: value for key, value in GOOD.items() if key != name}).encode()


#: name -> (the line, reason, part of the detail)
ROWS: dict[str, tuple[bytes, str, str]] = {
    "no JSON": (b"{oops", "json", "not JSON"),
    "cut off within a row": (line()[:-9], "json", "not JSON"),
    "an array": (b"[1, 2]", "json", "list"),
    "a bare text": (b'"p"', "json", "str"),
    "no UTF-8": (b'{"prompt": "\xff"}', "encoding", "UTF-8"),
    "half a character": (line().replace(b"ab", b"\\ud800"), "encoding", "half"),
    "a key twice": (b'{"prompt": "p", "prompt": "q"}', "json", "twice"),
    "NaN": (line()[:-1].replace(b"1.0", b"NaN") + b"}", "json", "NaN"),
    "nested beyond sense": (b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "json", "nested"),
    "gigantic": (b'{"prompt": "' + b"x" * (MAX_ROW_BYTES + 1) + b'"}', "gigantic", "16 MiB"),
    "no prompt": (without("prompt"), "fields", "no prompt"),
    "a mapped column is missing": (without("r"), "fields", "no column 'r'"),
    "the prompt is a number": (line(prompt=3), "fields", "not a list of messages"),
    "the prompt is an empty chat": (line(prompt=[]), "fields", "not a list of messages"),
    "a message has no role": (line(prompt=[{"content": "p"}]), "fields", "not a message with a role"),
    "a message has a role that nobody has": (line(prompt=[{"role": "king", "content": "p"}]), "unknown_role", "king"),
    "nobody asks": (line(prompt=[{"role": "system", "content": "p"}]), "no_user_message", "user"),
    "a message is an image": (line(prompt=[{"role": "user", "content": [{"type": "image"}]}]), "fields", "no text"),
    "the completion is a number": (line(text=5), "fields", "not a list of messages"),
    "no completion at all": (line(text=None, ids=None), "fields", "no completion"),
    "ids are texts": (line(ids=["5", "6"]), "token_ids", "whole numbers"),
    "ids are fractions": (line(ids=[5.5, 6.0]), "token_ids", "whole numbers"),
    "ids are nested": (line(ids=[[5], [6]]), "token_ids", "whole numbers"),
    "ids are ragged": (line(ids=[[5], [6, 7]]), "token_ids", "whole numbers"),
    "an id below 0": (line(ids=[5, -1]), "token_ids", "-1"),
    "an id beyond int32": (line(ids=[5, 2**31]), "token_ids", "2147483648"),
    "an id beyond int64": (line(ids=[5, 2**70]), "token_ids", "whole numbers"),
    "an empty completion": (line(ids=[], lp=[], mask=[]), "token_ids", "no token"),
    "fewer log-probabilities than tokens": (line(lp=[-0.5]), "lengths", "2 tokens and 1 log"),
    "more log-probabilities than tokens": (line(lp=[-0.5] * 3), "lengths", "2 tokens and 3 log"),
    "a log-probability above 0": (line(lp=[-0.5, 0.25]), "logprobs", "at most 0"),
    "probabilities instead": (line(lp=[0.5, 0.75]), "logprobs", "at most 0"),
    "a log-probability that is null": (line(lp=[-0.5, None]), "logprobs", "nan"),
    "log-probabilities in words": (line(lp=["low", "high"]), "logprobs", "not a list of numbers"),
    "a mask of another length": (line(mask=[1]), "lengths", "2 tokens and 1 values"),
    "a mask of weights": (line(mask=[0.5, 1]), "loss_mask", "0 and 1"),
    "a mask in words": (line(mask=["yes", "no"]), "loss_mask", "0 and 1"),
    "no mask": (line(mask=None), "loss_mask", "no mask"),
    "a mask of the other polarity": (line(ids=[5, 6], lp=[-0.5, 0.0], mask=[0, 1]), "loss_mask", "polarity"),
    "a sample_index in words": (line(at="first"), "fields", "sample_index is 'first'"),
    "a sample_index below 0": (line(at=-1), "fields", "sample_index is -1"),
    "a sample_index beyond int32": (line(at=2**31), "fields", "sample_index is 2147483648"),
    "a sample_index that is a fraction": (line(at=0.5), "fields", "sample_index is 0.5"),
    "a reward in words": (line(r="good"), "reward", "not a finite number"),
    "a reward beyond float32": (line(r=1e39), "reward", "not a finite number"),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_a_bad_row_is_rejected_with_file_and_line_and_its_neighbours_stay(name: str, tmp_path: Path, entries) -> None:
    bad, reason, detail = ROWS[name]
    (tmp_path / "bad.jsonl").write_bytes(b"\n".join([line(), bad, line()]) + b"\n")
    form = import_format("rows", TOKENS)
    first, found, last = entries(tmp_path / "bad.jsonl", form)
    assert isinstance(found, RejectedRow)
    assert (found.where, found.reason) == ("bad.jsonl:2", reason)
    assert detail in found.detail
    assert not isinstance(first, RejectedRow)
    assert not isinstance(last, RejectedRow)


@pytest.mark.parametrize(
    ("form", "row", "reason", "detail"),
    [
        ("trl", {"prompt": "p"}, "fields", "completion is missing"),
        ("trl", {"prompt": "p", "completion": None}, "fields", "not a list of messages"),
        ("trl", {"completion": "c"}, "fields", "prompt is missing"),
        ("verl", {"input": "p", "output": "c"}, "fields", "score is missing"),
        ("verl", {"input": "p", "output": 1, "score": 1}, "fields", "output is 1"),
        ("verl", {"input": "p", "output": "c", "score": 1, "uid": "u"}, "fields", "UID_SESSION_INDEX"),
        ("verifiers", {"nodes": [], "version": 2, "task": {"key": "k"}}, "version", "version is 2"),
        ("verifiers", {"traces": [], "group": 3}, "fields", "group is 3"),
        ("verifiers", {"nodes": []}, "group", "neither a group"),
        ("verifiers", {"task": {"key": "k"}, "nodes": [{"parent": 0}]}, "fields", "parent stands before"),
        ("verifiers", {"task": {"key": "k"}, "nodes": [{"parent": 1}, {"parent": 0}]}, "fields", "stands before"),
        (
            "verifiers",
            {"task": {"key": "k"}, "nodes": [{"sampled": True, "token_ids": [1], "mask": [True], "logprobs": [0, 0]}]},
            "lengths",
            "1 sampled tokens and 2",
        ),
        (
            "verifiers",
            {"task": {"key": "k"}, "nodes": [{"sampled": True, "token_ids": [1], "mask": [1], "logprobs": [-1]}]},
            "loss_mask",
            "neither true nor false",
        ),
        (
            "nemo_rl",
            {"rewards": [1], "input_lengths": [3], "token_ids": [[1]], "token_loss_mask": [[1]],
             "generation_logprobs": [[0]]},
            "lengths",
            "input_lengths is 3",
        ),
        (
            "nemo_rl",
            {"rewards": [1, 2], "input_lengths": [1], "token_ids": [[1]], "token_loss_mask": [[1]],
             "generation_logprobs": [[0]]},
            "fields",
            "rewards holds 2 values",
        ),
        (
            "nemo_rl",
            {"rewards": [1], "input_lengths": [1], "token_ids": [[1]], "token_loss_mask": [[0]],
             "generation_logprobs": [[0]]},
            "loss_mask",
            "counts no token",
        ),
        ("open_instruct", {"step": 1, "prompt_idx": "a"}, "fields", "whole numbers name the group"),
        ("prime_tokens", {"schema_version": 2}, "version", "schema_version is 2"),
        (
            "prime_tokens",
            {"schema_version": 1, "token_ids": [1, 2], "loss_mask": [False], "inference_logprobs": [0, 0]},
            "lengths",
            "2 token ids, 1 values",
        ),
        ("nemo_gym", {"_ng_failure_class": "timeout"}, "timeout", "lists it as a failure"),
        ("lm_eval", {"arguments": [["p", {}]], "resps": [["a"], ["b"]]}, "fields", "choices were scored"),
        ("lm_eval", {"arguments": [["p", {}]], "resps": [[["-1.2", "False"]]], "doc_id": 0}, "fields", "a score, not"),
        ("lm_eval", {"arguments": {}, "resps": [["a"]]}, "fields", "holds no prompt"),
        ("lighteval", {"doc": {"query": "q"}, "model_response": {"text": []}}, "fields", "nothing was generated"),
        (
            "lighteval",
            {"doc": {"query": "q"}, "model_response": {"text": ["a"], "output_tokens": [[1], [2]]}},
            "lengths",
            "1 texts and 2 lists",
        ),
        ("nemo_gym", {"responses_create_params": {"input": "q"}, "response": {"output": []}, "reward": 1,
                      "_ng_task_index": 0, "_ng_rollout_index": "x"}, "fields", "sample_index is 'x'"),
        ("openai_batch", {"custom_id": "a", "response": {"body": {"choices": []}}}, "request", "no request has"),
        ("openai_batch", {"custom_id": 7, "response": {}}, "fields", "custom_id is 7"),
        ("openai_batch", {"custom_id": "\ud800", "response": {}}, "encoding", "half a character"),
        ("openai_batch", {"response": {}}, "fields", "custom_id is missing"),
        ("processbench", {"id": "a", "problem": "p", "steps": ["s"], "label": 4}, "labels", "label is 4"),
    ],
)  # fmt: skip
def test_a_row_that_is_not_of_its_format_says_what_is_wrong(
    form: str, row: dict, reason: str, detail: str, tmp_path: Path, entries
) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    known = import_format(form)
    (found,) = entries(tmp_path / "rows.jsonl", known)
    assert isinstance(found, RejectedRow)
    assert (found.reason, found.where) == (reason, "rows.jsonl:1")
    assert detail in found.detail


def test_a_mask_that_says_what_is_left_out_is_turned_round() -> None:
    from dataclasses import replace

    from pipelines.imports.check import checked
    from pipelines.imports.record import Place

    form = replace(import_format("rows", TOKENS), mask="ignored")
    (record,) = form.read(GOOD | {"mask": [0, 1], "lp": [-0.5, 0.0]}, Place(file="f", number=0, where="f"))
    assert checked(record, form).loss_mask.tolist() == [True, False]


@pytest.mark.parametrize("name", ["a.pkl", "a.pickle", "a.pt", "a.dp", "a.bin", "a.npy"])
def test_what_may_run_code_is_not_opened(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04")
    for place in (tmp_path / name, tmp_path):
        with pytest.raises(ImportSourceError, match=r"pickle .*It was not opened"):
            source_files(str(place), import_format("verl"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.csv", b"a,b\n1,2\n", "'.csv' is none of them"),
        ("rows.parquet", b"PAR1 and no more", "cannot be read as Parquet"),
        ("rows.jsonl.gz", gzip.compress(b"{}", mtime=0), "'.gz' is none of them"),
    ],
)
def test_a_file_of_another_kind_is_a_named_error(
    name: str, content: bytes, message: str, tmp_path: Path, entries
) -> None:
    (tmp_path / name).write_bytes(content)
    form = import_format("rows", TOKENS)
    with pytest.raises(RowFileError, match=message):
        entries(tmp_path / name, form)


def test_a_parquet_file_that_ends_early_is_a_named_error(tmp_path: Path, entries) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"prompt": ["p"] * 999, "completion": ["c"] * 999}), path)
    path.write_bytes(path.read_bytes()[:-40])
    form = import_format("trl")
    with pytest.raises(RowFileError, match="cannot be read as Parquet"):
        entries(path, form)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group_size": 0}, "group_size is 0"),
        ({"rollouts_per_part": 2**21}, "rollouts_per_part is 2097152"),
        ({"temperature": -1.0}, "temperature is -1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ImportFormatError, match=message):
        ImportOptions(format="trl", **options)


def test_rollouts_of_several_models_or_temperatures_are_refused(import_run, jsonl) -> None:
    def gym(task: int, **more: Any) -> dict:
        asked = {"input": "2+3", "temperature": more.get("temperature", 1.0)}
        response = {"output": [{"type": "message", "content": "5"}], "model": more.get("model", "m")}
        return {"responses_create_params": asked, "response": response, "reward": 1.0, "_ng_task_index": task}

    with pytest.raises(ImportSourceError, match="of several models"):
        import_run("nemo_gym", jsonl([gym(0), gym(1, model="other")]))
    with pytest.raises(ImportSourceError, match="at 2 temperatures"):
        import_run("nemo_gym", jsonl([gym(0), gym(1, temperature=0.5)]))


def test_ids_beyond_the_tokenizer_are_another_tokenizers(import_run, jsonl, tiny_model) -> None:
    rows = [line(), line(ids=[5, 50_000])]
    run = import_run("rows", jsonl(rows), mapping=TOKENS, tokenizer=tiny_model, max_reject_rate=0.5)
    (rejected,) = run.rejected("rollouts")
    assert rejected["reason"] == "vocabulary"
    assert "another one made the ids" in rejected["detail"]
