"""The options of the generate stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pass_ops.errors import PassError
from pipelines.engines.base import Sampling
from pipelines.programs import Program


class GenerateOptionError(PassError, ValueError):
    """An option of the generate stage is outside its range, or does not fit the model or the prompts."""


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """What is sampled.

    sampling: how tokens are drawn. group_size: G, rollouts per prompt. chat: put a plain prompt into one user message
    and encode it with the model's chat template (prompts that are messages always use it). system: a system message
    before it. chat_template_kwargs: further arguments of the template (enable_thinking, ...). max_prompt_tokens: a
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
        if self.program is None and self.program_options:
            raise GenerateOptionError("generate.program_options are given, but no generate.program that takes them.")
        if self.program is not None:
            Program(name=self.program)  # a wrong name is refused here

    @property
    def named_program(self) -> Program | None:
        """The program with its options. Raises ProgramError where its name leads nowhere."""
        return None if self.program is None else Program(name=self.program, options=self.program_options)
