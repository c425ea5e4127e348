"""prime-rl's token export (`trainer.enable_token_export`): `token_exports/step_N/rank_R.jsonl`, schema version 1; and
its training samples as JSON lines, as `passrl export prime-rl` writes them.

One row a trained sequence: token_ids of prompt and completion, loss_mask, inference_logprobs (the sampler's),
trainer_logprobs, advantages, entropy and what the loss made of them, env_name. No reward and no group is in it, so each
row is a group of its own, to be looked at rather than shaped; the traces of the same step have both. A training sample
has token_ids, mask, logprobs, temperatures, env_name and reward, and no group either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.imports.check import number
from pipelines.imports.record import Format, Place, Record
from pipelines.imports.values import as_text, completion_of
from pipelines.rows.fields import list_of, of
from pipelines.rows.record import RowError

VERSION = 1


def read(row: Mapping[str, Any], _place: Place) -> Iterator[Record]:
    """The row's sequence."""
    sample = "temperatures" in row
    if not sample and of(row, "schema_version") != VERSION:
        raise RowError("version", f"schema_version is {row['schema_version']!r}; version {VERSION} is known")
    names = ("token_ids", "mask", "logprobs") if sample else ("token_ids", "loss_mask", "inference_logprobs")
    ids, mask, logprobs = (list_of(row, name) for name in names)
    yield Record(
        source=as_text(row.get("env_name"), "env_name"),
        temperature=_temperature(list_of(row, "temperatures")) if sample else None,
        rewards={"reward": number(of(row, "reward"), "reward")} if sample else {},
        **completion_of(ids, mask, logprobs),
    )


def _temperature(given: list[Any]) -> float | None:
    """Of all tokens of a sample. Raises RowError where they had several."""
    found = {number(value, "temperatures") for value in given}
    if len(found) > 1:
        raise RowError("temperature", f"its tokens were sampled at {len(found)} temperatures, and a rollout has one")
    return next(iter(found), None)


PRIME_TOKENS = Format(
    name="prime_tokens",
    read=read,
    about="prime-rl's token export, and its training samples",
    files=(".jsonl",),
    ids="all",
    logprobs="exact",
    mask="counts",
    group="row",
    temperature="source",
    source="prime-rl, src/prime_rl/trainer/rl/token_export.py, schema version 1; transport/types.py, TrainingSample",
)
