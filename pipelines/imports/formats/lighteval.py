"""LightEval's details: `details_{task}_{date}.parquet`.

One row a document: doc {query, choices, gold_index, ...}, model_response {input, input_tokens, text, output_tokens,
logprobs, ...} with n answers each, metric {}. The answers of a row are a group; a metric is of the row, and is a reward
where it has one answer. logprobs are of the choices, not of tokens, and are left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.imports.check import LENGTHS
from pipelines.imports.record import Format, Place, Record
from pipelines.imports.values import as_text, rewards_of, said_or_text
from pipelines.rows.fields import FIELDS, list_of, object_of, of
from pipelines.rows.record import RowError


def read(row: Mapping[str, Any], _place: Place) -> Iterator[Record]:
    """The answers to the row's document."""
    doc, said = object_of(row, "doc"), object_of(row, "model_response")
    texts = list_of(said, "text")
    if not texts:
        raise RowError(FIELDS, "model_response.text is empty: the task scores choices, and nothing was generated")
    ids = said.get("output_tokens") or []
    if ids and len(ids) != len(texts):
        raise RowError(LENGTHS, f"there are {len(texts)} texts and {len(ids)} lists of output_tokens")
    asked = said.get("input")
    prompt = asked if asked else of(doc, "query")
    rewards = rewards_of(row.get("metric"))
    for index, text in enumerate(texts):
        yield Record(
            text=text,
            sample_index=index,
            prompt_token_ids=_prompt_ids(said.get("input_tokens")) if ids else None,
            token_ids=ids[index] if ids else None,
            answer=_gold(doc),
            source=as_text(doc.get("task_name"), "doc.task_name"),
            rewards=rewards if len(texts) == 1 else {},
            **said_or_text(prompt, "input"),
        )


def _prompt_ids(given: Any) -> Any:
    """Of one prompt, or of a list with one prompt."""
    nested = isinstance(given, list) and len(given) > 0 and isinstance(given[0], list)
    return (given[0] if nested else given) or None


def _gold(doc: Mapping[str, Any]) -> str | None:
    """The choice, or choices, that are right."""
    choices, gold = doc.get("choices"), doc.get("gold_index")
    given = gold if isinstance(gold, list) else [gold]
    indices = [at for at in given if type(at) is int]
    if not isinstance(choices, list) or len(indices) < len(given) or not all(0 <= at < len(choices) for at in indices):
        return None
    right = [choices[at] for at in indices]
    return as_text(right[0] if len(right) == 1 else right, "doc.choices")


LIGHTEVAL = Format(
    name="lighteval",
    read=read,
    about="LightEval's details",
    files=(".parquet",),
    ids="some",
    logprobs="absent",
    mask="assumed",
    group="row",
    source="LightEval 0.13, src/lighteval/logging/info_loggers.py and models/model_output.py",
)
