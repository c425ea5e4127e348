"""A task as the token ids an engine is given.

A plain prompt is encoded with the special tokens that the tokenizer puts before a text, except where it begins with
them itself; tokens that the tokenizer puts after a text are left out, since after an end token a model begins another
text. Messages go through the chat template; a final message of the assistant is continued (`template_arguments`).
A completion's ids follow the prompt's as they were sampled: nothing is encoded over the boundary between the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from pipelines.engines.errors import RequestRejected

# Of apply_chat_template: what it is given and what it returns.
_OWN_ARGUMENTS = frozenset(
    {
        *("conversation", "tokenize", "return_dict", "return_tensors", "return_assistant_tokens_mask"),
        *("padding", "truncation", "max_length", "tokenizer_kwargs"),
    }
)


class PromptForm(Protocol):
    """How a task becomes a prompt: the options of generate that say so."""

    @property
    def chat(self) -> bool:
        """Whether plain text becomes a user's message."""

    @property
    def system(self) -> str | None:
        """A system message before messages that have none."""

    @property
    def chat_template_kwargs(self) -> Mapping[str, Any]:
        """Further arguments of the chat template."""


def encode_prompt(
    tokenizer: Any, prompt: str | None, messages: Sequence[Mapping[str, str]] | None, *, options: PromptForm
) -> list[int]:
    """Token ids of a plain prompt (with the tokenizer's own special tokens), or of messages in the chat template.

    Raises RequestRejected: empty_prompt, unspelled_text (see `framed`), or chat_template_error where the template
    refuses these messages.
    """
    conversation = as_messages(prompt, messages, options=options)
    if conversation is None:
        token_ids = _encode_plain(tokenizer, prompt or "")
    else:
        token_ids = list(apply_template(tokenizer, conversation, options.chat_template_kwargs, tokenize=True))
    if not token_ids:
        raise RequestRejected("empty_prompt", "the tokenizer makes no token of it")
    return token_ids


def as_messages(
    prompt: str | None, messages: Sequence[Mapping[str, str]] | None, *, options: PromptForm
) -> list[dict[str, Any]] | None:
    """The conversation that the chat template is given; None for a plain prompt that does not go through it."""
    if messages is None and not options.chat:
        return None
    found: list[dict[str, Any]] = (
        [dict(message) for message in messages] if messages is not None else [{"role": "user", "content": prompt}]
    )
    if options.system is not None and found[0]["role"] != "system":
        found.insert(0, {"role": "system", "content": options.system})
    return found


def template_arguments(conversation: Sequence[Mapping[str, Any]], given: Mapping[str, Any]) -> dict[str, Any]:
    """The template's arguments for a conversation: a final message of the assistant is continued, after any other a new
    one is begun; `continue_final_message` and `add_generation_prompt` among those given decide otherwise.

    >>> template_arguments([{"role": "user", "content": "hi"}], {})
    {'add_generation_prompt': True, 'continue_final_message': False}
    >>> template_arguments([{"role": "assistant", "content": "Let me"}], {"enable_thinking": False})
    {'enable_thinking': False, 'add_generation_prompt': False, 'continue_final_message': True}
    """
    begins = given.get("add_generation_prompt")
    continues = given.get("continue_final_message", conversation[-1]["role"] == "assistant" and not begins)
    own = {"add_generation_prompt": not continues if begins is None else begins, "continue_final_message": continues}
    return {**given, **own}


def argument_problem(given: Mapping[str, Any]) -> str | None:
    """What is wrong with further arguments of the chat template, as what follows the option's name; None if nothing.

    >>> argument_problem({"tokenize": False})
    " sets 'tokenize', which this stage sets itself; leave it out."
    """
    for name in given:
        if name in _OWN_ARGUMENTS:
            return f" sets {name!r}, which this stage sets itself; leave it out."
    switches = {name: given[name] for name in ("continue_final_message", "add_generation_prompt") if name in given}
    for name, value in switches.items():
        if not isinstance(value, bool):
            return f".{name} is {value!r}; it must be true or false."
    if list(switches.values()) == [True, True]:
        return (
            " sets both continue_final_message and add_generation_prompt; the model either goes on with the "
            "final message or begins a new one: set one of them."
        )
    return None


def _encode_plain(tokenizer: Any, prompt: str) -> list[int]:
    before, own, _ = framed(tokenizer, prompt)
    return own if not own or own[: len(before)] == before else before + own


def framed(tokenizer: Any, prompt: str) -> tuple[list[int], list[int], list[int]]:
    """Token ids that the tokenizer puts before a text, the text's own, and those that it puts after it.

    Raises RequestRejected: unspelled_text, where no token spells a part of it and none stands for such.
    """
    with rejecting_unspelled():
        encoded = tokenizer(prompt)
    ids = list(encoded["input_ids"])
    own = [index for index, sequence in enumerate(encoded.sequence_ids(0)) if sequence is not None]
    return (ids[: own[0]], ids[own[0] : own[-1] + 1], ids[own[-1] + 1 :]) if own else ([], [], [])


def apply_template(
    tokenizer: Any, conversation: list[dict[str, Any]], kwargs: Mapping[str, Any], *, tokenize: bool
) -> Any:
    """The conversation by the chat template, as token ids or as text.

    Raises RequestRejected: chat_template_error, or unspelled_text (see `framed`).
    """
    import jinja2

    arguments = template_arguments(conversation, kwargs) | ({"return_dict": False} if tokenize else {})
    with rejecting_unspelled():
        try:
            return tokenizer.apply_chat_template(conversation, tokenize=tokenize, **arguments)
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise RequestRejected("chat_template_error", str(error)[:1000]) from error


@contextmanager
def rejecting_unspelled() -> Iterator[None]:
    """The bare Exception of the library tokenizers for a text that a vocabulary cannot spell, as a rejection.

    Raises RequestRejected: unspelled_text.
    """
    try:
        yield
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise RequestRejected("unspelled_text", str(error)[:1000]) from error
