"""Prompts from a file, by column mapping, into the dataset `prompts`.

prompt_id, where no column is mapped to it, is `{file stem}-{row}` (row: 0-based in its file), so that a prompt keeps
its id, and with it the seeds of its rollouts, however the source is shuffled or cut.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, field
from typing import Annotated, Any, Literal

import pyarrow as pa
from annotated_types import Ge, Le
from pydantic import AfterValidator

from pass_ops import shards
from pass_ops.errors import PassError
from pass_ops.shards import DatasetSpec, InputRef, Manifest, Rejection
from pass_ops.support.chat import chat_problem
from pass_ops.support.nearest import advice
from pipelines.options import Url, options
from pipelines.options.types import PartRows, Rows, Strings
from pipelines.parts.job_record import job_record
from pipelines.prompts.files import (
    Record,
    SourceColumnError,
    SourceContent,
    SourceFormatError,
    SourceNotFoundError,
    read_source,
)
from pipelines.rows.paragraphs import titled_paragraphs

__all__ = [
    "DuplicatePromptError", "PromptRow", "PromptSource", "PromptTypeError", "SourceColumnError",
    "SourceFormatError", "SourceNotFoundError", "SourceOptionError", "UnknownPromptError", "holds_the_prompt",
    "prompt_rows", "read_prompts", "source_ids", "write_prompts",
]  # fmt: skip

STAGE_VERSION = shards.STAGE_VERSIONS["prompts"]
_LOG = logging.getLogger(__name__)
LONGEST_PROMPT = 10_000_000  # characters: some two and a half million tokens, more than policies are sampled with
#: a row of the dataset, or why there is none
PromptRow = dict[str, Any] | Rejection
Role = Literal["prompt", "messages", "prompt_id", "answer", "source", "aliases", "paragraphs"]
#: roles that a column of the same name has without being asked for
ROLES = ("prompt", "messages", "prompt_id", "answer", "source")


class SourceOptionError(PassError, ValueError):
    """An option of a prompt source has an unknown name or a value outside its range."""


class DuplicatePromptError(PassError, ValueError):
    """Two rows of a prompt source have one prompt_id."""


class UnknownPromptError(PassError, ValueError):
    """The option ids names a prompt that the source does not have."""


class PromptTypeError(PassError, TypeError, ValueError):
    """A mapped column holds a value of a type that its role cannot have."""


def holds_the_prompt(template: str) -> str:
    """A template as it is. Raises ValueError where the prompt has no place in it."""
    if "{prompt}" not in template:
        raise ValueError(f'it must hold "{{prompt}}", where the prompt goes; it is {template!r}')
    return template


@options(SourceOptionError)
class PromptSource:
    """Which prompts, from where."""

    source: Url
    """A JSONL or Parquet file, a folder of them, a JSON file of one list, or a Hugging Face dataset saved to disk; a
    path or any fsspec URL. Of the hub ("hf://datasets/openai/gsm8k/main") the commit is recorded.
    Example: "gsm8k_train.jsonl"."""
    format: Literal["auto", "jsonl", "json", "parquet", "huggingface"] = "auto"
    """How the source is read; auto goes by file suffix and content."""
    split: str | None = None
    """Which split of a saved DatasetDict. Example: "train"."""
    columns: Mapping[Role, str] = field(default_factory=dict)
    """Which column of the source has which role: prompt (text) or messages (a chat), prompt_id, answer, source; aliases
    (a list of further right answers) and paragraphs (of a multi-hop question, in HotpotQA's or MuSiQue's form). A role
    that is not named takes the column of its own name where there is one; these two do not.
    Example: { prompt = "question" }."""
    extra: Strings = ()
    """Further columns to keep with each prompt, together as one JSON object. Example: ["level"]."""
    name: str | None = None
    """What the column `source` holds where no column has that role (default: the file's name without suffix).
    Example: "gsm8k"."""
    template: Annotated[str, AfterValidator(holds_the_prompt)] = "{prompt}"
    """Text around a plain prompt, which replaces {prompt}; the paragraphs replace {paragraphs}, a blank line between
    two. Example: "{prompt}\\nThink step by step."."""
    shuffle_seed: int | None = None
    """Orders the prompts by a hash of this seed and their row (default: the file's order). Example: 0."""
    offset: Annotated[int, Ge(0), Le(2**31 - 1)] = 0
    """Prompts skipped at the start of that order."""
    limit: Rows | None = None
    """Most prompts taken, from offset on; the window wraps around at the end and never repeats a row. Example: 64."""
    ids: Strings | None = None
    """Takes the prompts of these prompt_ids alone, in this order, in place of offset and limit (default: by those).
    Example: ["gsm8k_train-7"]."""
    prompts_per_part: PartRows = 64
    """Rows of the source in one part, the unit of work and of retries. A part is held in memory, so it has at most
    1048576."""

    def __post_init__(self) -> None:
        if {"prompt", "messages"} <= self.columns.keys():
            raise SourceOptionError("columns maps both prompt and messages; a prompt is one of the two")
        if self.ids is not None and (self.offset or self.limit is not None or self.shuffle_seed is not None):
            raise SourceOptionError("ids names the prompts in their order; leave out offset, limit and shuffle_seed")
        if ("paragraphs" in self.columns) != ("{paragraphs}" in self.template):
            raise SourceOptionError(
                "columns.paragraphs and {paragraphs} in template go together, and one of them is missing: name the "
                "column and where it goes, or leave both out"
            )

    def semantic_options(self) -> dict[str, Any]:
        """What decides the dataset's bytes, beside the files themselves: everything but where they lie."""
        operational = {"source", "format"} if self.ids is not None else {"source", "format", "ids"}
        return {name: value for name, value in asdict(self).items() if name not in operational}


def write_prompts(
    source: PromptSource,
    *,
    out: str,
    overwrite: bool = False,
    max_reject_rate: float = 0.05,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Make the dataset `prompts` in the folder `out`; parts that are there are kept.

    Raises SourceNotFoundError, SourceFormatError, SourceColumnError, PromptTypeError, DuplicatePromptError before
    anything is written, and NotFinalized where too many rows could not be used.
    """
    started = time.time()
    content = _content(source)
    rows = prompt_rows(content, source)
    parts = [rows[start : start + source.prompts_per_part] for start in range(0, len(rows), source.prompts_per_part)]
    spec = DatasetSpec(
        stage="prompts",
        stage_version=STAGE_VERSION,
        options=source.semantic_options(),
        parts=len(parts),
        inputs={file.name: InputRef(folder=file.url, content_digest=file.sha256) for file in content.files},
    )
    dataset = shards.create_dataset(out, spec, overwrite=overwrite)
    if unusable := [row for row in rows if isinstance(row, Rejection)]:
        _LOG.warning("%d of %d prompts cannot be used. The first: %s", len(unusable), len(rows), unusable[0].detail)
    todo = sorted(shards.pending_parts(dataset).todo)
    for part in todo:
        kept = [row for row in parts[part] if isinstance(row, dict)]
        rejected = tuple(row for row in parts[part] if isinstance(row, Rejection))
        shards.commit_part(dataset, part, pa.Table.from_pylist(kept, schema=shards.PROMPTS), rejected=rejected)
        if progress is not None:
            progress(part + 1, len(parts))
    if todo:
        shards.record_run(dataset, job_record(started))
    return shards.finalize(dataset, max_reject_rate=max_reject_rate)


def read_prompts(source: PromptSource) -> list[PromptRow]:
    """The rows that `write_prompts` would store or reject. Raises what it raises before it writes."""
    return prompt_rows(_content(source), source)


def _content(source: PromptSource) -> SourceContent:
    return read_source(source.source, file_format=source.format, split=source.split)


def prompt_rows(content: SourceContent, source: PromptSource) -> list[PromptRow]:
    """The rows of the dataset in its order; a row that cannot be used is a Rejection in its place.

    Raises SourceColumnError, PromptTypeError, DuplicatePromptError.
    """
    columns = _resolve_columns(content, source)
    ids = [_prompt_id(record, columns.get("prompt_id")) for record in content.records]
    first: dict[str, Record] = {}
    for prompt_id, record in zip(ids, content.records, strict=True):
        if prompt_id in first:
            raise DuplicatePromptError(
                f"prompt_id {prompt_id!r} stands at {first[prompt_id].where} and again at {record.where} of "
                f"{source.source}. Rollouts are told apart by it: remove one row, or map prompt_id to a unique column."
            )
        first[prompt_id] = record
    return [_prompt_row(content.records[i], ids[i], columns, source) for i in _taken(ids, source)]


def source_ids(source: PromptSource) -> list[str]:
    """The prompt_ids of a source in its order, from its offset on. Raises as `read_prompts`."""
    content = _content(source)
    column = _resolve_columns(content, source).get("prompt_id")
    ids = [_prompt_id(record, column) for record in content.records]
    return [ids[i] for i in _taken(ids, source)]


def _resolve_columns(content: SourceContent, source: PromptSource) -> dict[str, str]:
    """Role -> column, for the roles that have one."""
    for column in (*source.columns.values(), *source.extra):
        if column not in content.columns:
            raise SourceColumnError(f"{source.source} has no column {column!r}; {advice(column, content.columns)}")
    columns = {role: role for role in ROLES if role in content.columns} | dict(source.columns)
    for mapped, other in (("prompt", "messages"), ("messages", "prompt")):
        if mapped in source.columns:
            columns.pop(other, None)
    if ("prompt" in columns) == ("messages" in columns):
        found = "both a prompt and a messages column" if "prompt" in columns else "no column named prompt or messages"
        raise SourceColumnError(
            f"{source.source} has {found}: {', '.join(map(repr, content.columns))}. "
            'Say which holds the task: columns = {prompt = "..."}.'
        )
    return columns


def _prompt_id(record: Record, column: str | None) -> str:
    """The mapped value with "/" percent-encoded, else stem and row (also where the mapped value is null)."""
    value = None if column is None else record.values.get(column)
    if value is None or value == "":
        value = f"{record.stem}-{record.row}"
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _wrong_type(record, column, value, "a string or an integer", "prompt_id")
    if lone_surrogate(str(value)) is not None:
        raise _wrong_type(record, column, value, "text without half a surrogate pair", "prompt_id")
    return str(value).replace("/", "%2F")


def _taken(ids: Sequence[str], source: PromptSource) -> list[int]:
    """The positions of the prompts that a source takes. Raises UnknownPromptError."""
    if source.ids is None:
        return _window(len(ids), source)
    place = {prompt_id: index for index, prompt_id in enumerate(ids)}
    if unknown := [prompt_id for prompt_id in source.ids if prompt_id not in place]:
        raise UnknownPromptError(f"{source.source} has no prompt_id {unknown[0]!r}; {advice(unknown[0], list(place))}")
    return [place[prompt_id] for prompt_id in source.ids]


def _window(rows: int, source: PromptSource) -> list[int]:
    order = list(range(rows))
    if source.shuffle_seed is not None:
        seed = source.shuffle_seed
        order.sort(key=lambda row: hashlib.sha256(f"{seed}/{row}".encode()).digest())
    count = rows if source.limit is None else min(source.limit, rows)
    return [order[(source.offset + i) % rows] for i in range(count)]


def _prompt_row(record: Record, prompt_id: str, columns: Mapping[str, str], source: PromptSource) -> PromptRow:
    role = "prompt" if "prompt" in columns else "messages"
    value = record.values.get(columns[role])
    if value is None:
        return _rejected(prompt_id, f"null_{role}", f"{columns[role]!r} is null at {record.where}")
    prompt = messages = None
    if role == "prompt":
        if not isinstance(value, str):
            raise _wrong_type(record, columns[role], value, "a string", "prompt")
        prompt = _filled(source.template, {"{prompt}": value, **_paragraphs(record, columns.get("paragraphs"))})
        empty = not value.strip()
    else:
        messages = _messages(record, columns[role], value)
        empty = not any(message["content"].strip() for message in messages)
    if empty:
        return _rejected(prompt_id, f"empty_{role}", f"{columns[role]!r} is empty at {record.where}")
    label = record.values.get(columns["source"]) if "source" in columns else None
    row = {
        "prompt_id": prompt_id,
        "prompt": prompt,
        "messages": messages,
        "answer": _answer(record, columns.get("answer"), columns.get("aliases")),
        "source": str(label) if label is not None else (source.name or record.stem),
        "extra": _json(record, {column: record.values.get(column) for column in source.extra}, "extra")
        if source.extra
        else None,
    }
    return _unusable(row, record) or _odd_roles(prompt_id, messages, record) or row


def _unusable(row: Mapping[str, Any], record: Record) -> Rejection | None:
    """The rejection of a row that cannot be stored as text, or whose prompt no model could read."""
    for role, value in row.items():
        said = [text for message in value for text in message.values()] if isinstance(value, list) else [value or ""]
        for text in said:
            if (half := lone_surrogate(text)) is not None:
                detail = f"{role} has half a surrogate pair, {half}, which is no character, at {record.where}"
                return _rejected(row["prompt_id"], "lone_surrogate", detail)
        if role in ("prompt", "messages") and (characters := sum(map(len, said))) > LONGEST_PROMPT:
            detail = f"{characters} characters at {record.where}; a prompt has at most {LONGEST_PROMPT}"
            return _rejected(row["prompt_id"], "prompt_too_long", detail)
    return None


def lone_surrogate(text: str) -> str | None:
    r"""The first half of a surrogate pair that stands alone, as JSON's escapes may leave one; None where there is none.

    >>> lone_surrogate("bad \ud83d tail"), lone_surrogate("good")
    ('U+D83D', None)
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"U+{ord(text[error.start]):04X}"
    return None


def _messages(record: Record, column: str, value: Any) -> list[dict[str, str]]:
    if not isinstance(value, list):
        raise _wrong_type(record, column, value, "a list of {role, content}", "messages")
    messages = []
    for item in value:
        if (
            not isinstance(item, dict)
            or not isinstance(item.get("role"), str)
            or not isinstance(item.get("content"), str)
        ):
            raise _wrong_type(record, column, item, "a {role, content} of two strings", "one of the messages")
        messages.append({"role": item["role"], "content": item["content"]})
    return messages


def _odd_roles(prompt_id: str, messages: Sequence[Mapping[str, str]] | None, record: Record) -> Rejection | None:
    """The rejection of a chat that templates would render as something else, or in which nobody asks."""
    if messages is None:
        return None
    problem = chat_problem([message["role"] for message in messages])
    return None if problem is None else _rejected(prompt_id, problem[0], f"{problem[1]}, at {record.where}")


def _filled(template: str, parts: Mapping[str, str]) -> str:
    """The template with each placeholder replaced once: what stands in a part stays as it is."""
    return re.sub("|".join(map(re.escape, parts)), lambda found: parts[found[0]], template)


def _paragraphs(record: Record, column: str | None) -> dict[str, str]:
    if column is None:
        return {}
    try:
        return {"{paragraphs}": "\n\n".join(titled_paragraphs(record.values.get(column)))}
    except ValueError as error:
        raise PromptTypeError(
            f"{record.where}: column {column!r}: {error}. Map another column, or mend the row."
        ) from None


def _answer(record: Record, column: str | None, aliases: str | None) -> str | None:
    """A string as it is; a list, number or object as JSON. With aliases, the list of all that are accepted."""
    value = None if column is None else record.values.get(column)
    others = None if aliases is None else record.values.get(aliases)
    if others:
        if not isinstance(value, str) or not isinstance(others, list) or not all(isinstance(x, str) for x in others):
            raise _wrong_type(record, aliases, others, "a list of strings beside an answer that is one", "aliases")
        value = list(dict.fromkeys([value, *others]))
    return value if value is None or isinstance(value, str) else _json(record, value, "answer")


def _json(record: Record, value: Any, role: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise PromptTypeError(
            f"{record.where}: {role} cannot be kept as JSON ({error}). Give strings, numbers, lists or objects."
        ) from error


def _rejected(prompt_id: str, reason: str, detail: str) -> Rejection:
    return Rejection(prompt_id=prompt_id, reason=reason, detail=detail)


def _wrong_type(record: Record, column: str | None, value: Any, expected: str, role: str) -> PromptTypeError:
    return PromptTypeError(
        f"{record.where}: column {column!r} holds {str(value)[:60]!r} ({type(value).__name__}) where {role} must be "
        f"{expected}. Map another column, or mend the row."
    )
