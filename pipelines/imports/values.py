"""What formats share: chats as the contract has them, and values of other types as its texts."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping
from typing import Any

from pipelines.rows.fields import FIELDS
from pipelines.rows.record import RowError


def as_messages(given: Any, name: str) -> list[dict[str, str]]:
    """A chat: role and content of each message, content as text. Raises RowError."""
    if not isinstance(given, list) or not given:
        raise RowError(FIELDS, f"{name} is {reprlib.repr(given)}, not a list of messages")
    return [_message(message, f"{name}[{at}]") for at, message in enumerate(given)]


def completion_text(given: Any, name: str) -> tuple[str, int]:
    """The text of a completion, and how many messages the policy wrote: 1 for a plain text.

    Of several messages the texts stand one after the other, a blank line between two.
    """
    if isinstance(given, str):
        return given, 1
    messages = as_messages(given, name)
    return "\n\n".join(message["content"] for message in messages), len(messages)


def said_or_text(given: Any, name: str) -> dict[str, Any]:
    """`prompt` or `messages` of a Record, by what the value is."""
    return {"prompt": given} if isinstance(given, str) else {"messages": as_messages(given, name)}


def as_text(value: Any, name: str) -> str | None:
    """A text as it is, None for null, any other value as JSON. Raises RowError."""
    if value is None or isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise RowError(FIELDS, f"{name} cannot be kept as JSON ({error})") from None


def _message(given: Any, name: str) -> dict[str, str]:
    if not isinstance(given, Mapping) or not isinstance(given.get("role"), str):
        raise RowError(FIELDS, f"{name} is {reprlib.repr(given)}, not a message with a role")
    content = given.get("content")
    if isinstance(content, list):  # parts: texts are kept, an image is no text
        parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        if len(texts) < len(parts):
            raise RowError(FIELDS, f"{name} holds a part that is no text")
        content = "".join(texts)
    if content is None:
        content = ""
    if not isinstance(content, str):
        raise RowError(FIELDS, f"{name}.content is {reprlib.repr(content)}, not a text")
    return {"role": given["role"], "content": content}


def completion_of(ids: list[Any], mask: list[Any], logprobs: list[Any]) -> dict[str, Any]:
    """A whole sequence as prompt and completion, which begins at the first token that counts. Raises RowError."""
    if not len(ids) == len(mask) == len(logprobs):
        raise RowError(
            "lengths", f"{len(ids)} token ids, {len(mask)} values in the mask, {len(logprobs)} log-probabilities"
        )
    start = next((at for at, counts in enumerate(mask) if counts), None)
    if start is None:
        raise RowError("loss_mask", "it counts no token, so where the completion begins is not known")
    return {
        "prompt_token_ids": ids[:start],
        "token_ids": ids[start:],
        "loss_mask": mask[start:],
        "logprobs": logprobs[start:],
    }
