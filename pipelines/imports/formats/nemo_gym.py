"""NeMo-Gym's rollouts: `rollouts.jsonl`, and the failures beside it, `<stem>_failures.jsonl`.

A row has the request (responses_create_params), response {output: items}, reward, reward_components, _ng_task_index,
_ng_rollout_index. Items that were sampled for training have prompt_token_ids (all that was before),
generation_token_ids and generation_log_probs; between two of them stand tokens of tools, which do not count. A failure
has _ng_failure_class and is rejected under that name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipelines.imports.check import number
from pipelines.imports.record import Format, Place, Record
from pipelines.imports.values import as_messages, rewards_of, turns_of
from pipelines.rows.fields import as_object, list_of, object_of, of
from pipelines.rows.record import RowError


def read(row: Mapping[str, Any], _place: Place) -> Iterator[Record]:
    """The row's rollout."""
    failed = row.get("_ng_failure_class")
    if failed is not None:
        raise RowError(str(failed), f"NeMo-Gym lists it as a failure ({failed})")
    asked = object_of(row, "responses_create_params")
    response = object_of(row, "response")
    items = [as_object(item, f"output[{at}]") for at, item in enumerate(list_of(response, "output"))]
    given = of(asked, "input")
    yield Record(
        messages=as_messages([{"role": "user", "content": given}] if isinstance(given, str) else given, "input"),
        text="\n\n".join(text for item in items if (text := _text(item))),
        turns=sum(item.get("type") in ("message", None) for item in items),
        group=str(of(row, "_ng_task_index")),
        sample_index=row.get("_ng_rollout_index"),
        temperature=number(asked.get("temperature"), "temperature"),
        model=response.get("model"),
        rewards={"reward": number(of(row, "reward"), "reward"), **rewards_of(row.get("reward_components"))},
        **_tokens(items),
    )


def _text(item: Mapping[str, Any]) -> str:
    """What an item says: a message's texts, a tool's output."""
    content = item.get("content", item.get("output"))
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(part["text"] for part in parts if isinstance(part, Mapping) and isinstance(part.get("text"), str))


def _tokens(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Prompt, completion, mask and log-probabilities over all sampled items; nothing where none has ids."""
    names = ("prompt_token_ids", "generation_token_ids", "generation_log_probs")
    sampled = [item for item in items if item.get("generation_token_ids")]
    turns = [(list_of(item, names[0]), list_of(item, names[1]), list_of(item, names[2])) for item in sampled]
    return turns_of(turns) if turns else {}


NEMO_GYM = Format(
    name="nemo_gym",
    read=read,
    about="NeMo-Gym's rollouts, with its failures",
    files=(".jsonl",),
    ids="some",
    logprobs="exact",
    mask="counts",
    group="key",
    temperature="source",
    tokenizer="source",
    source="NVIDIA NeMo-Gym 0.5, rollout collection",
)
