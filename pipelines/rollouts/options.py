"""The options of the generate stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pass_ops.errors import PassError
from pipelines.engines.base import Sampling
from pipelines.programs import Program

# Of apply_chat_template: what it is given and what it returns.
_OWN_ARGUMENTS = frozenset(
    {
        *("conversation", "tokenize", "return_dict", "return_tensors", "return_assistant_tokens_mask"),
        *("padding", "truncation", "max_length", "tokenizer_kwargs"),
    }
)


class GenerateOptionError(PassError, ValueError):
    """An option of the generate stage is outside its range, or does not fit the model or the prompts."""


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """What is sampled.

    sampling: how tokens are drawn. group_size: G, rollouts per prompt. chat: put a plain prompt into one user message
    and encode it with the model's chat template (prompts that are messages always use it). system: a system message
    before it. chat_template_kwargs: further arguments of the template (enable_thinking, ...); a final
    message of the assistant is continued and after any other a new one begun, unless continue_final_message or
    add_generation_prompt among them says otherwise. max_prompt_tokens: a
    longer prompt is rejected; None = whatever leaves room for one token in the context. program: None for one
    completion a rollout; else a rollout program (`pipelines.programs`) by short name or import path, `module:function`,
    and its keyword arguments. sampling.max_tokens then bounds all that it samples and inserts.
    """

    sampling: Sampling = field(default_factory=Sampling)
    group_size: int = 8
    chat: bool = False
    system: str | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    max_prompt_tokens: int | None = None
    program: str | None = None
    program_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.group_size < 1 or (self.max_prompt_tokens is not None and self.max_prompt_tokens < 1):
            raise GenerateOptionError("generate.group_size and generate.max_prompt_tokens must be 1 or more.")
        check_template_arguments(self.chat_template_kwargs)
        if self.program is None and self.program_options:
            raise GenerateOptionError("generate.program_options are given, but no generate.program that takes them.")
        if self.program is not None:
            Program(name=self.program)  # a wrong name is refused here

    @property
    def named_program(self) -> Program | None:
        """The program with its options. Raises ProgramError where its name leads nowhere."""
        return None if self.program is None else Program(name=self.program, options=self.program_options)


def check_template_arguments(given: Mapping[str, Any]) -> None:
    """Refuse arguments of the chat template that the stage sets itself or that contradict each other.

    Raises GenerateOptionError.
    """
    where = "generate.chat_template_kwargs"
    for name in given:
        if name in _OWN_ARGUMENTS:
            raise GenerateOptionError(f"{where} sets {name!r}, which this stage sets itself; leave it out.")
    switches = {name: given[name] for name in ("continue_final_message", "add_generation_prompt") if name in given}
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise GenerateOptionError(f"{where}.{name} is {value!r}; it must be true or false.")
    if list(switches.values()) == [True, True]:
        raise GenerateOptionError(
            f"{where} sets both continue_final_message and add_generation_prompt; the model either goes on with the "
            "final message or begins a new one: set one of them."
        )
