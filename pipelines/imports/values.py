"""What formats share: chats as the contract has them, and values of other types as its texts."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Container, Mapping, Sequence
from typing import Any

from pipelines.imports.check import LENGTHS, number
from pipelines.rows.fields import FIELDS
from pipelines.rows.record import RowError

_NUMBERS = frozenset({bool, int, float})


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


def rewards_of(given: Any, *, but: Container[str] = ()) -> dict[str, float | None]:
    """The numbers of an object as rewards of their names; what is no number is none. Raises RowError: not finite.

    >>> rewards_of({"right": True, "length": 0.5, "why": "short", "step": 3}, but={"step"})
    {'right': 1.0, 'length': 0.5}
    """
    if not isinstance(given, dict):
        return {}
    return {
        str(name): number(value, name) for name, value in given.items() if type(value) in _NUMBERS and name not in but
    }


def turns_of(turns: Sequence[tuple[list[Any], list[Any], list[Any] | None]]) -> dict[str, Any]:
    """Prompt, completion, mask and log-probabilities of the turns of one rollout. Raises RowError.

    A turn is its prompt (all that was before it, and what a user or a tool then said), what was sampled, and the
    log-probabilities of that. Tokens between two turns do not count.

    >>> turns_of([([1], [5, 6], [-0.5, -0.25]), ([1, 5, 6, 2], [7], [-1.0])])["loss_mask"]
    [True, True, False, True]
    """
    start = turns[0][0]
    ids, mask, logprobs = list(start), [False] * len(start), [0.0] * len(start)
    for at, (before, own, values) in enumerate(turns):
        if before[: len(ids)] != ids:
            raise RowError(FIELDS, f"the prompt of turn {at} does not go on from the turns before it")
        if values is not None and len(own) != len(values):
            raise RowError(LENGTHS, f"turn {at} has {len(own)} token ids and {len(values)} log-probabilities")
        between = before[len(ids) :]
        ids += between + own
        mask += [False] * len(between) + [True] * len(own)
        logprobs += [0.0] * len(between) + ([0.0] * len(own) if values is None else values)
    known = all(values is not None for _, _, values in turns)
    cut = len(start)
    return {
        "prompt_token_ids": start,
        "token_ids": ids[cut:],
        "loss_mask": mask[cut:],
        "logprobs": logprobs[cut:] if known else None,
    }


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
