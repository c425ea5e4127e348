"""The columns of the prompts by name, for signals that treat rows by what their prompt is or says.

A name is `prompt`, `answer`, `source`, or one that `prompts.extra` keeps.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from pass_ops.shards import DatasetSpec
from pass_ops.support.nearest import advice
from pipelines.signals.base import SignalInputError
from pipelines.signals.stepwise import prompt_texts

#: what every prompt has
OWN = ("prompt", "answer", "source")


def known_columns(prompts: DatasetSpec) -> list[str]:
    """The names that these prompts have."""
    return [*OWN, *(name for name in prompts.options.get("extra") or () if name not in OWN)]


def check_columns(names: Iterable[str], prompts: DatasetSpec, *, option: str) -> None:
    """Refuse a name that no column of the prompts has. Raises SignalInputError with the nearest name."""
    known = known_columns(prompts)
    for name in names:
        if name not in known:
            raise SignalInputError(
                f"{option} names the column {name!r}, which the prompts do not have; {advice(name, known)} "
                "(prompts.extra says which columns of your data are kept with the prompts)"
            )


def columns_by_prompt(prompts: pa.Table) -> dict[str, dict[str, Any]]:
    """prompt_id -> column -> value, None where the prompt has none. `prompt` is the task in words (`prompt_texts`)."""
    words = prompt_texts(prompts)
    rows = prompts.select(["prompt_id", "answer", "source", "extra"]).to_pylist()
    return {
        row["prompt_id"]: {
            **json.loads(row["extra"] or "{}"),
            "prompt": words[row["prompt_id"]],
            "answer": row["answer"],
            "source": row["source"],
        }
        for row in rows
    }


def of_group(columns: Mapping[str, dict[str, Any]], group: str) -> dict[str, Any]:
    """The columns of a rollout's prompt. Raises SignalInputError where it is not among them."""
    if group not in columns:
        raise SignalInputError(
            f"group {group!r} of the rollouts is not among the prompts of this part; they do not belong together"
        )
    return columns[group]
