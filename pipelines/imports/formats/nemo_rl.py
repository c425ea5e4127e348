"""NeMo-RL's training data (GRPO): `train_data_step{N}.jsonl`, not written where NeMo-Gym's responses are.

One row a rollout, each value in a list of one: content, rewards, input_lengths, token_ids and token_loss_mask of prompt
and completion together and padded, sample_loss_mask, advantages, generation_logprobs (0 at the prompt), prev_logprobs;
idx. The completion begins at the first token that counts. A group's rows have equal prompts; nothing else names it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.imports.check import LENGTHS, number
from pipelines.imports.record import Format, Place, Record
from pipelines.imports.values import completion_of
from pipelines.rows.fields import FIELDS, list_of, of
from pipelines.rows.record import RowError


def read(row: Mapping[str, Any], place: Place) -> Iterator[Record]:
    """The row's rollout."""
    length = _one(row, "input_lengths")
    ids, mask, logprobs = (_tokens(row, name) for name in ("token_ids", "token_loss_mask", "generation_logprobs"))
    if type(length) is not int or not 0 < length <= len(ids):
        raise RowError(LENGTHS, f"input_lengths is {length!r}, and there are {len(ids)} token ids")
    if not len(ids) == len(mask) == len(logprobs):  # before padding is cut off, which could hide it
        raise RowError(
            LENGTHS, f"{len(ids)} token ids, {len(mask)} values in token_loss_mask, {len(logprobs)} log-probabilities"
        )
    yield Record(
        group=place.stem,
        rewards={"reward": number(_one(row, "rewards"), "rewards")},
        **completion_of(ids[:length], mask[:length], logprobs[:length]),
    )


def _one(row: Mapping[str, Any], name: str) -> Any:
    """A value, out of its list of one."""
    found = of(row, name)
    if isinstance(found, list):
        if len(found) != 1:
            raise RowError(FIELDS, f"{name} holds {len(found)} values, and a row is one rollout")
        return found[0]
    return found


def _tokens(row: Mapping[str, Any], name: str) -> list[Any]:
    """A list with a value a token, out of its list of one."""
    found = list_of(row, name)
    if len(found) == 1 and isinstance(found[0], list):
        return found[0]
    return found


NEMO_RL = Format(
    name="nemo_rl",
    read=read,
    about="NeMo-RL's train_data_step files",
    files=(".jsonl",),
    ids="all",
    logprobs="detect",
    mask="counts",
    group="prompt",
    source="NVIDIA NeMo-RL, nemo_rl/algorithms/grpo.py, and nemo_rl/utils/logger.py, log_batched_dict_as_jsonl",
)
