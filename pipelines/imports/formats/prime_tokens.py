"""prime-rl's token export (`trainer.enable_token_export`): `token_exports/step_N/rank_R.jsonl`, schema version 1.

One row a trained sequence: token_ids of prompt and completion, loss_mask, inference_logprobs (the sampler's),
trainer_logprobs, advantages, entropy and what the loss made of them, env_name. No reward and no group is in it, so each
row is a group of its own, to be looked at rather than shaped; the traces of the same step have both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.imports.record import Format, Place, Record
from pipelines.imports.values import as_text, completion_of
from pipelines.rows.fields import list_of, of
from pipelines.rows.record import RowError

VERSION = 1


def read(row: Mapping[str, Any], _place: Place) -> Iterator[Record]:
    """The row's sequence."""
    if of(row, "schema_version") != VERSION:
        raise RowError("version", f"schema_version is {row['schema_version']!r}; version {VERSION} is known")
    ids, mask, logprobs = (list_of(row, name) for name in ("token_ids", "loss_mask", "inference_logprobs"))
    yield Record(source=as_text(row.get("env_name"), "env_name"), **completion_of(ids, mask, logprobs))


PRIME_TOKENS = Format(
    name="prime_tokens",
    read=read,
    about="prime-rl's token export",
    files=(".jsonl",),
    ids="all",
    logprobs="exact",
    mask="counts",
    group="row",
    source="prime-rl, src/prime_rl/trainer/rl/token_export.py, schema version 1",
)
