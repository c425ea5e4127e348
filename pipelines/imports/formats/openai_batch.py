"""OpenAI batch files, and those of vLLM's `run-batch`: a folder with the requests and their results, both `.jsonl`.

A request has custom_id, method, url, body {model, messages or prompt, temperature, n, ...}; a result has custom_id,
response {status_code, body {choices}}, error. They are joined by custom_id: requests are put by into a table of
SQLite's, on disk, before results are read. Requests of equal prompts are a group. Choices have token ids where vLLM was
asked for them (return_token_ids, or return_tokens_as_token_ids with logprobs). Log-probabilities are kept where the
request says temperature 1: vLLM gives those of the unscaled distribution unless its server was told otherwise.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from pipelines.imports.check import finish_reason, number
from pipelines.imports.record import Format, Place, Read, Record
from pipelines.imports.values import as_messages, as_text, said_or_text
from pipelines.rows.fields import FIELDS, as_object, encodable, list_of, object_of, of
from pipelines.rows.read import SourceRow, read_rows
from pipelines.rows.record import RowError

_ID_PREFIX = "token_id:"


def joined(urls: Sequence[str]) -> Read:
    """The reader of results that knows all requests of these files."""
    table = sqlite3.connect("", check_same_thread=False)  # a file of its own, gone with the connection
    table.execute("CREATE TABLE requests (custom_id BLOB PRIMARY KEY, body TEXT, times INTEGER)")
    table.execute("CREATE TABLE results (custom_id BLOB PRIMARY KEY, first TEXT)")
    for url in urls:
        for row in read_rows(url):
            if isinstance(row, SourceRow) and isinstance(custom_id := row.values.get("custom_id"), str):
                try:
                    _put_by(table, custom_id.encode(), row)
                except UnicodeEncodeError:  # half a character; `read` rejects the row
                    continue
    return partial(read, requests=table)


def _put_by(table: sqlite3.Connection, custom_id: bytes, row: SourceRow) -> None:
    if "body" in row.values:
        again = "ON CONFLICT DO UPDATE SET times = times + (body != excluded.body)"
        body = json.dumps(row.values["body"])
        table.execute(f"INSERT INTO requests VALUES (?, ?, 1) {again}", (custom_id, body))
    else:
        table.execute("INSERT OR IGNORE INTO results VALUES (?, ?)", (custom_id, row.where))


def read(row: Mapping[str, Any], place: Place, *, requests: sqlite3.Connection | None = None) -> Iterator[Record]:
    """The choices of a result; nothing of a request. requests: see `joined`."""
    custom_id = encodable(of(row, "custom_id"), "custom_id")
    if "body" in row:
        return
    if requests is None:
        raise RowError("request", "a result says nothing without its request; give the folder with both files")
    asked = _request(requests, custom_id, place)
    answer = _answer(row)
    choices = list_of(answer, "choices")
    if not choices:
        raise RowError(FIELDS, "choices is empty: the model answered nothing")
    temperature = number(asked.get("temperature"), "temperature")
    for at, given in enumerate(choices):
        choice = as_object(given, f"choices[{at}]")
        yield Record(
            group="request",  # with the prompt: results of one batch may lie in several files
            text=_text(choice),
            finish_reason=finish_reason(choice.get("finish_reason")),
            temperature=temperature,
            model=as_text(answer.get("model"), "model"),
            **_task(asked),
            **_tokens(choice, answer, scaled=temperature != 1),
        )


def _request(requests: sqlite3.Connection, custom_id: str, place: Place) -> Mapping[str, Any]:
    """The body of the request that a result answers. Raises RowError where it is not one, or answered before."""
    found = requests.execute("SELECT body, times FROM requests WHERE custom_id = ?", (custom_id.encode(),)).fetchone()
    if found is None:
        raise RowError("request", f"no request has the custom_id {custom_id!r:.80}; give the folder with both files")
    if found[1] > 1:
        raise RowError("request", f"requests that differ have the custom_id {custom_id!r:.80}")
    (first,) = requests.execute("SELECT first FROM results WHERE custom_id = ?", (custom_id.encode(),)).fetchone()
    if first != place.where:
        raise RowError("duplicate_rollout", f"the custom_id {custom_id!r:.80} was answered before, at {first}")
    return as_object(json.loads(found[0]), "the request's body")


def _answer(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The body of the response. Raises RowError: the request failed."""
    if row.get("error"):
        raise RowError("request_failed", f"the request failed: {row['error']!r:.200}")
    response = object_of(row, "response")
    if response.get("status_code", 200) != 200:
        raise RowError("request_failed", f"the request was answered with status {response['status_code']!r:.40}")
    return object_of(response, "body")


def _task(asked: Mapping[str, Any]) -> dict[str, Any]:
    if "messages" in asked:
        return {"messages": as_messages(asked["messages"], "the request's messages")}
    prompt = of(asked, "prompt")
    if isinstance(prompt, list):
        raise RowError(FIELDS, "the request's prompt is a list: which choice answers which prompt is not known")
    return said_or_text(prompt, "the request's prompt")


def _text(choice: Mapping[str, Any]) -> str:
    if "message" not in choice:
        return encodable(of(choice, "text"), "text")
    (message,) = as_messages([choice["message"]], "message")
    return message["content"]


def _tokens(choice: Mapping[str, Any], answer: Mapping[str, Any], *, scaled: bool) -> dict[str, Any]:
    """Ids of prompt and completion and log-probabilities, where there are ids. Those of chats are said as objects."""
    given = choice.get("logprobs")
    said = given if isinstance(given, Mapping) else {}
    content = said.get("content")
    if isinstance(content, list):
        entries = [as_object(entry, "logprobs.content") for entry in content]
        names: Any = [entry.get("token") for entry in entries]
        logprobs: Any = [entry.get("logprob") for entry in entries]
    else:
        names, logprobs = said.get("tokens"), said.get("token_logprobs")
    ids = choice.get("token_ids")
    if ids is None and isinstance(names, list):
        ids = _named_ids(names)
    if ids is None:
        return {}
    prompt_ids = choice.get("prompt_token_ids") or answer.get("prompt_token_ids")
    return {"prompt_token_ids": prompt_ids, "token_ids": ids, "logprobs": None if scaled else logprobs}


def _named_ids(names: Sequence[Any]) -> list[int] | None:
    """Ids that stand in place of the tokens' texts, as in "token_id:17"."""
    if not all(isinstance(name, str) and name.startswith(_ID_PREFIX) for name in names):
        return None
    digits = [name.removeprefix(_ID_PREFIX) for name in names]
    return [int(text) for text in digits] if digits and all(text.isdecimal() for text in digits) else None


OPENAI_BATCH = Format(
    name="openai_batch",
    read=read,
    joined=joined,
    about="OpenAI batch files, and vLLM's run-batch",
    files=(".jsonl",),
    ids="some",
    logprobs="some",
    mask="assumed",
    group="prompt",
    temperature="source",
    tokenizer="source",
    source="OpenAI batch API guide; vLLM, vllm/entrypoints/openai/run_batch.py and */protocol.py",
)
