"""Any JSONL or Parquet file, by a mapping of roles to its columns (`--map response=completion`, or a TOML file).

A column inside an object is named with dots: `reward.correct=scores.correct`. A role that is not named takes the column
of its own name where there is one.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from pass_ops.shards import Store
from pass_ops.support.nearest import advice
from pipelines.imports.check import finish_reason, number
from pipelines.imports.record import Format, ImportFormatError, Place, Record
from pipelines.imports.values import as_messages, as_text, completion_text, said_or_text
from pipelines.rows.fields import FIELDS, LABELS, texts
from pipelines.rows.record import RowError

#: role -> what its column holds
ROLES = {
    "prompt": "the task, a text or a list of messages",
    "messages": "the task as a list of {role, content}, where prompt is not mapped",
    "response": "the completion, a text or a list of messages",
    "group": "what tells a group from others (default: the prompt)",
    "sample_index": "a rollout's place in its group",
    "answer": "the reference answer",
    "source": "a name of the data set",
    "finish_reason": "stop or length",
    "temperature": "it was sampled at",
    "prompt_token_ids": "token ids of the prompt",
    "token_ids": "token ids of the completion",
    "logprobs": "the sampler's, one a completion token",
    "loss_mask": "1 where a completion token counts",
    "steps": "the completion's steps, a list of texts that follow one another without a gap",
    "step_scores": "one number a step",
}
REWARD = "reward."


def parse_mapping(given: Sequence[str]) -> dict[str, str]:
    """`role=column` texts and TOML files as role -> column. Raises ImportFormatError.

    >>> parse_mapping(["response=completion", "reward.correct=score"])
    {'response': 'completion', 'reward.correct': 'score'}
    """
    mapping: dict[str, str] = {}
    for text in given:
        role, equals, column = text.partition("=")
        found = {role.strip(): column.strip()} if equals else _toml(text)
        for name, value in found.items():
            _check_role(name, value)
            if mapping.setdefault(name, value) != value:
                raise ImportFormatError(f"--map gives {name} twice, {mapping[name]!r} and {value!r}; keep one")
    return mapping


def mapped(mapping: Mapping[str, str]) -> Format:
    """The format of files whose columns have these roles."""
    has = set(mapping)
    mask: Literal["counts", "assumed", "absent"] = "absent"
    if "token_ids" in has:
        mask = "counts" if "loss_mask" in has else "assumed"
    return Format(
        name="rows",
        read=partial(read, mapping=dict(mapping)),
        about="JSONL or Parquet by a column mapping",
        files=(".jsonl", ".ndjson", ".json", ".parquet"),
        ids="all" if "token_ids" in has else "absent",
        logprobs="detect" if "logprobs" in has else "absent",
        mask=mask,
        group="key" if "group" in has else "prompt",
        temperature="source" if "temperature" in has else "unknown",
        source="docs/how-to/import.md",
        options={"map": dict(sorted(mapping.items()))},
    )


def read(row: Mapping[str, Any], place: Place, *, mapping: Mapping[str, str]) -> Iterator[Record]:  # noqa: ARG001
    """The row's rollout. Raises RowError where a mapped column is not there."""
    get = {role: _value(row, column, role) for role, column in mapping.items()}
    for role in ("prompt", "response", "messages"):
        if role not in mapping and role in row and not (role == "messages" and "prompt" in get):
            get[role] = row[role]
    text, turns = completion_text(get["response"], "response") if get.get("response") is not None else (None, 1)
    task: dict[str, Any] = {}
    if get.get("prompt") is not None:
        task = said_or_text(get["prompt"], "prompt")
    elif get.get("messages") is not None:
        task = {"messages": as_messages(get["messages"], "messages")}
    steps = texts(get, "steps") if get.get("steps") is not None else None
    yield Record(
        text=text if text is not None or steps is None else "".join(steps),
        turns=turns,
        group=_key(get["group"]) if "group" in get else None,
        sample_index=get.get("sample_index"),
        answer=as_text(get.get("answer"), "answer"),
        source=as_text(get.get("source"), "source"),
        finish_reason=finish_reason(get.get("finish_reason")),
        temperature=number(get.get("temperature"), "temperature"),
        prompt_token_ids=get.get("prompt_token_ids"),
        token_ids=get.get("token_ids"),
        logprobs=get.get("logprobs"),
        loss_mask=get.get("loss_mask"),
        rewards={role[len(REWARD) :]: number(get[role], role) for role in mapping if role.startswith(REWARD)},
        steps=steps,
        step_scores=_scores(get.get("step_scores")),
        **task,
    )


def _check_role(role: str, column: Any) -> None:
    if role not in ROLES and not (role.startswith(REWARD) and len(role) > len(REWARD)):
        raise ImportFormatError(
            f"--map names the role {role!r}, which there is not (a reward is reward.NAME); {advice(role, ROLES)}"
        )
    if not isinstance(column, str) or not column:
        raise ImportFormatError(f"--map {role}: the column is {column!r}; name one of the file")


def _toml(url: str) -> dict[str, Any]:
    try:
        table = tomllib.loads(Store(url).read("").decode())
    except FileNotFoundError as error:
        raise ImportFormatError(f"--map {url!r} is neither role=column nor a TOML file that is there") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, IsADirectoryError) as error:
        raise ImportFormatError(f"--map {url}: {error}") from error
    rewards = table.pop("reward", {})
    if not isinstance(rewards, Mapping):
        raise ImportFormatError(f"--map {url}: reward is {rewards!r}; write a table [reward] of NAME = column")
    return {**table, **{f"{REWARD}{name}": column for name, column in rewards.items()}}


def _value(row: Mapping[str, Any], column: str, role: str) -> Any:
    if column in row:
        return row[column]
    found: Any = row
    for name in column.split("."):
        if not isinstance(found, Mapping) or name not in found:
            raise RowError(FIELDS, f"{role}: there is no column {column!r}; {advice(column, map(str, row))}")
        found = found[name]
    return found


def _key(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise RowError("group", f"group is {value!r}; a text or a whole number tells groups apart")
    return str(value)


def _scores(given: Any) -> list[float | None] | None:
    if given is None:
        return None
    if not isinstance(given, list):
        raise RowError(LABELS, f"step_scores is {given!r}, not a list")
    return [number(value, f"step_scores[{at}]") for at, value in enumerate(given)]
