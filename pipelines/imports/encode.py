"""Texts as token ids and token ids as texts, by a tokenizer that the user names; and labelled steps as token ends.

What is encoded here is marked re-encoded: a policy may have written the same text in other tokens, and its end token is
not in it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import pyarrow as pa

from pipelines.engines.errors import RequestRejected
from pipelines.engines.prompts import encode_prompt
from pipelines.engines.text import unspelled
from pipelines.models.folder import load_tokenizer
from pipelines.models.source import local_model
from pipelines.rows.record import RowError
from pipelines.signals.base import Row
from pipelines.signals.steps import GivenStepsError, ends_of_steps, tokenizer_decode

#: messages that the policy wrote in a completion: a column of the spool, and of rollouts where some have several
TURNS = "turns"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PromptForm:
    """How a task becomes a prompt: as `[generate]` has it."""

    chat: bool = False
    system: str | None = None
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)


@lru_cache(maxsize=2)
def _tokenizer(folder: str) -> Any:
    return load_tokenizer(local_model(folder))


def with_tokens(rows: pa.Table, folder: str, form: PromptForm) -> tuple[pa.Table, dict[int, RowError]]:
    """Rows of the spool with ids where they had none; and, by row, those that cannot be encoded."""
    tokenizer = _tokenizer(folder)
    names = ("token_ids", "loss_mask", "prompt_token_ids", "text")
    ids, masks, prompts, texts = (rows[name].to_pylist() for name in names)
    lacking = [at for at, own in enumerate(ids) if own is None]
    _tell_unspelled(tokenizer, [texts[at] for at in lacking], folder)
    encoded = tokenizer([texts[at] for at in lacking], add_special_tokens=False)["input_ids"] if lacking else []
    for at, own in zip(lacking, encoded, strict=True):
        ids[at], masks[at] = own, [True] * len(own)

    @lru_cache(maxsize=1)  # the rows of a group follow one another and have one prompt
    def encode(prompt: str | None, messages: str | None) -> list[int]:
        return _prompt(tokenizer, prompt, messages, form)

    tasks = list(zip(rows["prompt"].to_pylist(), rows["messages"].to_pylist(), strict=True))
    wrong = _several_turns(rows[TURNS].to_pylist(), lacking)
    for at in range(len(rows)):
        try:
            if prompts[at] is None:
                prompts[at] = encode(*tasks[at])
            _check_vocabulary(ids[at], prompts[at], len(tokenizer))
        except RowError as error:
            wrong.setdefault(at, error)
            continue
        if texts[at] is None:
            texts[at] = tokenizer.decode(ids[at], skip_special_tokens=True)
    for name, values in zip(names, (ids, masks, prompts, texts), strict=True):
        kind = rows.schema.field(name)
        rows = rows.set_column(rows.schema.get_field_index(name), kind, pa.array(values, kind.type))
    return rows, wrong


def _tell_unspelled(tokenizer: Any, texts: Sequence[str], folder: str) -> None:
    lost = [characters for text in texts if (characters := unspelled(tokenizer, text))]
    if lost:
        _LOG.warning(
            "%d of %d completions have characters that the tokenizer %s cannot spell, so their token ids say something "
            "else than their text (the first: %s); name the tokenizer of the model that wrote them",
            len(lost), len(texts), folder, lost[0][:40],
        )  # fmt: skip


def prompt_text(token_ids: Sequence[int], folder: str) -> str:
    """A prompt of which only the ids are known, its special tokens as they are written."""
    return str(_tokenizer(folder).decode(token_ids, skip_special_tokens=False))


def step_row(token_ids: Sequence[int] | None, row: dict[str, Any], folder: str) -> Row:
    """The process signal's row of labelled steps, by the cutter that signals use."""
    if row["steps"] is None:
        return Row("no_input", "the source labels no step of it")
    if (at := next((at for at, score in enumerate(row["step_scores"]) if score is None), None)) is not None:
        return Row("no_input", f"step {at} has no label")
    try:
        ends = ends_of_steps(token_ids or [], row["steps"], between=row["between"], decode=tokenizer_decode(folder))
    except GivenStepsError as error:
        return Row("no_input", f"the steps cannot be placed on the tokens: {error}")
    return Row(values={"process_scores": row["step_scores"], "process_ends": ends})


def _prompt(tokenizer: Any, prompt: str | None, messages: str | None, form: PromptForm) -> list[int]:
    try:
        return encode_prompt(tokenizer, prompt, None if messages is None else json.loads(messages), options=form)
    except RequestRejected as error:
        raise RowError(error.reason, error.detail) from None


def _several_turns(turns: Sequence[int], lacking: Sequence[int]) -> dict[int, RowError]:
    why = "the completion is {} messages without ids, and which tokens stand between them is not known"
    return {at: RowError("several_turns", why.format(turns[at])) for at in lacking if turns[at] != 1}


def _check_vocabulary(token_ids: Sequence[int], prompt_ids: Sequence[int], size: int) -> None:
    if not len(token_ids):
        raise RowError("token_ids", "the completion has no token")
    highest = max(*token_ids, *prompt_ids)
    if highest >= size:
        raise RowError("vocabulary", f"token id {highest} is beyond the tokenizer's {size}: another one made the ids")
