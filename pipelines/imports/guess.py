"""What a foreign file may be: the formats that read its first rows, and a mapping of its columns by name and type."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pipelines.imports.check import checked
from pipelines.imports.formats import FORMATS
from pipelines.imports.formats.mapped import REWARD, mapped
from pipelines.imports.record import Format, ImportSourceError, Place
from pipelines.rows.read import SourceRow, read_rows
from pipelines.rows.record import RowError

#: so many rows are looked at
LOOKED_AT = 200


@dataclass(frozen=True, kw_only=True)
class Guess:
    """formats: names of those that read every row. mapping: role -> column, for format `rows`. usable: rows of those
    looked at that the mapping reads. rows: looked at.
    """

    formats: tuple[str, ...]
    mapping: Mapping[str, str]
    usable: int
    rows: int


def guess(url: str) -> Guess:
    """Look at a file's first rows. Raises ImportSourceError where it holds none, RowFileError where it is no rows."""
    found = list(islice((row for row in read_rows(url) if isinstance(row, SourceRow)), LOOKED_AT))
    if not found:
        raise ImportSourceError(f"{url} holds no row that is a JSON object or a Parquet row; nothing can be guessed.")
    mapping = _mapping([row.values for row in found])
    name = url.rsplit("/", 1)[-1]
    return Guess(
        formats=tuple(form.name for form in FORMATS.values() if _readable(form, found, name) == len(found)),
        mapping=mapping,
        usable=_readable(mapped(mapping), found, name) if mapping else 0,
        rows=len(found),
    )


def command(url: str, found: Guess) -> str:
    """The command that imports the file so."""
    if found.formats:
        return f"passrl import {found.formats[0]} {url} --out RUN"
    flags = " ".join(f"--map {role}={column}" for role, column in found.mapping.items())
    return f"passrl import rows {url} {flags} --out RUN"


def _readable(form: Format, rows: Sequence[SourceRow], name: str) -> int:
    """How many rows the format reads without a complaint."""
    good = 0
    for row in rows:
        place = Place(file=name, number=row.number, where=row.where)
        try:
            good += bool([checked(record, form) for record in form.read(row.values, place)])
        except RowError:
            continue
    return good


def _mapping(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    columns = {name: [row[name] for row in rows if row.get(name) is not None] for name in _names(rows)}
    mapping: dict[str, str] = {}
    for role, (names, fits) in _KNOWN.items():
        taken = set(mapping.values())
        for name in names:
            if name in columns and name not in taken and columns[name] and all(map(fits, columns[name])):
                mapping[role] = name
                break
    taken = set(mapping.values())
    for name, values in columns.items():
        if name not in taken and _rewardlike(name) and values and all(map(_is_number, values)):
            mapping[f"{REWARD}{name.rsplit('.', 1)[-1]}"] = name
    return mapping if {"response", "token_ids"} & set(mapping) else {}


def _names(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield from dict.fromkeys(name for row in rows for name in row)


def _rewardlike(name: str) -> bool:
    return any(word in name.lower() for word in ("reward", "score", "correct", "accuracy", "acc", "passed", "grade"))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_said(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, Mapping) for item in value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _is_key(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int for item in value)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(_is_number(item) for item in value)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)


#: role -> the names its column goes by, likeliest first, and what its values must be
_KNOWN: Mapping[str, tuple[tuple[str, ...], Callable[[Any], bool]]] = {
    "prompt": (
        ("prompt", "question", "problem", "input", "instruction", "query", "messages", "input_prompt"),
        _is_said,
    ),
    "response": (
        ("response", "completion", "output", "generation", "output_response", "answer_text", "text", "solution"),
        _is_said,
    ),
    "group": (("group_id", "group", "prompt_id", "problem_id", "question_id", "uid", "qid", "prompt_idx"), _is_key),
    "sample_index": (("sample_index", "sample_idx", "sample_id", "rollout_index"), lambda value: type(value) is int),
    "answer": (("answer", "ground_truth", "gts", "target", "reference_answer", "label"), _is_key),
    "source": (("source", "dataset", "data_source", "env_name"), _is_text),
    "finish_reason": (("finish_reason", "stop_reason"), _is_text),
    "temperature": (("temperature",), _is_number),
    "prompt_token_ids": (("prompt_token_ids", "prompt_tokens", "prompt_ids"), _are_ids),
    "token_ids": (
        ("token_ids", "response_token_ids", "response_tokens", "completion_ids", "output_token_ids"),
        _are_ids,
    ),
    "logprobs": (("logprobs", "behavior_logprobs", "rollout_log_probs", "response_logprobs"), _are_numbers),
    "loss_mask": (("loss_mask", "response_mask", "completion_mask"), _are_numbers),
    "steps": (("steps",), _are_texts),
    "step_scores": (("step_scores", "step_labels", "step_rewards"), _are_numbers),
}
