"""Prompts of a part as the token ids an engine is given (`pipelines.engines.prompts`), or why a prompt has none."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa

from pass_ops.shards import Rejection
from pipelines.engines.base import RequestRejected
from pipelines.engines.prompts import as_messages, encode_prompt, framed, template_arguments
from pipelines.engines.text import unspelled
from pipelines.programs import Prompt
from pipelines.rollouts.options import GenerateOptions

# A prompt of so many characters is encoded within a moment, so its length is taken in tokens.
ENCODED_ANYWAY = 100_000


@dataclass(frozen=True, kw_only=True, eq=False)
class PlannedPrompt:
    """A prompt ready to be sampled: its task, and what the engine is given."""

    task: Prompt
    answer: str | None
    token_ids: Sequence[int]

    @property
    def prompt_id(self) -> str:
        """The group's id."""
        return self.task.prompt_id


def plan_part(
    prompts: pa.Table, *, tokenizer: Any, options: GenerateOptions, max_model_len: int
) -> list[PlannedPrompt | Rejection]:
    """Encode every prompt of a part, in order; one that cannot be sampled is a Rejection in its place."""
    limit = min(options.max_prompt_tokens or max_model_len, max_model_len - 1)
    planned: list[PlannedPrompt | Rejection] = []
    for row in prompts.select(["prompt_id", "prompt", "messages", "answer", "extra"]).to_pylist():
        try:
            _check_characters(tokenizer, row["prompt"], row["messages"], limit=limit)
            token_ids = encode_prompt(tokenizer, row["prompt"], row["messages"], options=options)
        except RequestRejected as error:
            planned.append(Rejection(prompt_id=row["prompt_id"], reason=error.reason, detail=error.detail))
            continue
        if len(token_ids) > limit:
            detail = (
                f"{len(token_ids)} tokens; at most {limit} fit (context {max_model_len}, "
                f"max_prompt_tokens {options.max_prompt_tokens})"
            )
            planned.append(Rejection(prompt_id=row["prompt_id"], reason="prompt_too_long", detail=detail))
        else:
            task = Prompt(
                prompt_id=row["prompt_id"],
                text=row["prompt"],
                messages=row["messages"],
                extra=json.loads(row["extra"] or "{}"),
            )
            planned.append(PlannedPrompt(task=task, answer=row["answer"], token_ids=token_ids))
    return planned


def unspelled_prompts(
    planned: Iterable[PlannedPrompt | Rejection], *, tokenizer: Any, options: GenerateOptions
) -> dict[str, str]:
    """prompt_id -> the characters of its texts that the tokenizer cannot spell, of prompts that have such.

    They are sampled from all the same: as the policy sees them, without these characters.
    """
    found: dict[str, str] = {}
    for one in planned:
        if isinstance(one, PlannedPrompt):
            conversation = as_messages(one.task.text, one.task.messages, options=options)
            given = [one.task.text or ""] if conversation is None else [part["content"] for part in conversation]
            lost = unspelled(tokenizer, "\n".join(given))
            found |= {one.prompt_id: lost} if lost else {}
    return found


def special_encoding(tokenizer: Any, rows: Iterable[Mapping[str, Any]], *, options: GenerateOptions) -> dict[str, Any]:
    """Which special cases of encoding these rows of prompts meet, by name, for the fingerprint; usually none.

    continued_message: a final message of the assistant. own_special_tokens: a plain prompt that begins with the special
    tokens that the tokenizer would put there. dropped_tokens: those that it would put after a plain prompt.
    """
    found: dict[str, Any] = {}
    for row in rows:
        if row["messages"]:
            if template_arguments(row["messages"], options.chat_template_kwargs)["continue_final_message"]:
                found["continued_message"] = True
        elif not options.chat:
            with suppress(RequestRejected):  # as `plan_part` will reject it
                before, own, after = framed(tokenizer, row["prompt"] or "")
                if before and own[: len(before)] == before:
                    found["own_special_tokens"] = True
                if after:
                    found["dropped_tokens"] = tokenizer.convert_ids_to_tokens(after)
    return found


def _check_characters(
    tokenizer: Any, prompt: str | None, messages: Sequence[Mapping[str, str]] | None, *, limit: int
) -> None:
    """Reject a prompt of more characters than `limit` tokens can hold before minutes go into encoding it."""
    texts = [prompt or ""] if messages is None else [message["content"] for message in messages]
    characters = sum(len(text) for text in texts)
    if characters > ENCODED_ANYWAY and characters > limit * (longest := _longest_token(tokenizer)):
        detail = f"{characters} characters; at most {limit} tokens of at most {longest} characters each fit"
        raise RequestRejected("prompt_too_long", detail)


@lru_cache(maxsize=4)
def _longest_token(tokenizer: Any) -> int:
    """Characters of the longest token of the vocabulary (a byte counts as one)."""
    return max(len(token) for token in tokenizer.get_vocab())
