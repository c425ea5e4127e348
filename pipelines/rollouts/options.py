"""The options of the generate stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from pass_ops.errors import PassError
from pass_ops.support.nearest import advice
from pipelines.engines.base import Sampling
from pipelines.engines.prompts import argument_problem
from pipelines.options import Table, options
from pipelines.options.types import GroupSize, Tokens
from pipelines.programs import PROGRAMS, Program


class GenerateOptionError(PassError, ValueError):
    """An option of the generate stage is outside its range, or does not fit the model or the prompts."""


@options(GenerateOptionError)
class GenerateOptions:
    """What is sampled from each prompt."""

    sampling: Sampling = field(default_factory=Sampling)
    """How tokens are drawn."""
    group_size: GroupSize = 8
    """Rollouts per prompt (G). A group is shaped and stored whole, so it has at most 65536."""
    chat: bool = False
    """Puts a plain prompt into one user message and encodes it with the model's chat template. Prompts that are
    messages always use the template."""
    system: str | None = None
    """A system message before the prompt's own messages. Example: "Answer briefly."."""
    chat_template_kwargs: Table = field(default_factory=dict)
    """Further arguments of the chat template. A final message of the assistant is continued and after any other a new
    one begun, unless continue_final_message or add_generation_prompt is among them. Example:
    { enable_thinking = false }."""
    max_prompt_tokens: Tokens | None = None
    """Longest prompt in tokens; a longer one is rejected (default: what leaves room for one token in the context).
    Example: 1024."""
    program: str | None = None
    """A rollout program, which samples and inserts in turn: a shipped one by name, or your own as module:function
    (default: one completion). sampling.max_tokens then bounds all that it samples and inserts. Example:
    "retrieval"."""
    program_options: Table = field(default_factory=dict)
    """Keyword arguments of the program. Example: { results = 2 }."""

    def __post_init__(self) -> None:
        check_template_arguments(self.chat_template_kwargs)
        if self.program is None and self.program_options:
            raise GenerateOptionError("program_options are given, but no program that takes them")
        if self.program is not None and self.program not in PROGRAMS and ":" not in self.program:
            raise GenerateOptionError(
                f"program is {self.program!r} (your own is given as module:function); {advice(self.program, PROGRAMS)}"
            )

    @property
    def named_program(self) -> Program | None:
        """The program with its options; it is not imported here."""
        return None if self.program is None else Program(name=self.program, options=self.program_options)


def check_template_arguments(given: Mapping[str, Any]) -> None:
    """Refuse arguments of the chat template that the stage sets itself or that contradict each other.

    Raises GenerateOptionError.
    """
    if problem := argument_problem(given):
        raise GenerateOptionError(f"chat_template_kwargs{problem}")
