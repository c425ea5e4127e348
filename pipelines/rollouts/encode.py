"""Prompts of a part as the token ids an engine is given, or the reason why a prompt has none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pass_ops.shards import Rejection
from pipelines.engines.base import RequestRejected
from pipelines.programs import Prompt
from pipelines.rollouts.options import GenerateOptions


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


def encode_prompt(
    tokenizer: Any, prompt: str | None, messages: Sequence[Mapping[str, str]] | None, *, options: GenerateOptions
) -> list[int]:
    """Token ids of a plain prompt (with the tokenizer's own special tokens), or of messages in the chat template.

    Raises RequestRejected: empty_prompt, or chat_template_error where the template refuses these messages.
    """
    if messages is None and not options.chat:
        token_ids = list(tokenizer(prompt)["input_ids"])
    else:
        conversation = (
            [dict(message) for message in messages] if messages is not None else [{"role": "user", "content": prompt}]
        )
        if options.system is not None and conversation[0]["role"] != "system":
            conversation.insert(0, {"role": "system", "content": options.system})
        token_ids = _apply_template(tokenizer, conversation, options.chat_template_kwargs)
    if not token_ids:
        raise RequestRejected("empty_prompt", "the tokenizer makes no token of it")
    return token_ids


def _apply_template(tokenizer: Any, conversation: list[dict[str, Any]], kwargs: Mapping[str, Any]) -> list[int]:
    import jinja2

    try:
        return list(
            tokenizer.apply_chat_template(
                conversation, tokenize=True, add_generation_prompt=True, return_dict=False, **kwargs
            )
        )
    except jinja2.TemplateError as error:
        raise RequestRejected("chat_template_error", str(error)) from error
