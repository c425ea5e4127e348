"""The protocol of a rollout program, and programs by name.

    async def search(prompt: Prompt, sample: Sampler, *, limit: int = 3) -> None:
        for _ in range(limit):
            turn = await sample(stop=["</search>"])     # the policy's tokens
            if turn.stop is None:
                return
            sample.insert(look_up(turn.text))           # a tool's: loss_mask False, logprob 0.0

Everything that was sampled and inserted, in that order, is the completion of one rollout. A program that blocks holds
up every rollout of its part: whatever waits is awaited, and long computations belong into `asyncio.to_thread`.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from pass_ops.errors import PassError
from pass_ops.support.importing import load_object, source_digest

#: programs by short name; any other is given as an import path `module:function`
PROGRAMS = {
    "calculator": "pipelines.demo.calculator:calculator",
    "retrieval": "pipelines.programs.retrieval:retrieval",
}


class ProgramError(PassError, ValueError):
    """A rollout program cannot be used: it is not there, not an async function, or does not take these options."""


class RolloutFull(PassError, RuntimeError):
    """The completion has no room for what a program wants to add. Let it pass: the rollout ends as it is (length)."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What a program is told of its task: text or messages as stored (the other is None), and the extra columns.

    The reference answer is not among it.
    """

    prompt_id: str
    text: str | None = None
    messages: Sequence[Mapping[str, str]] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What one call of `sample` added: text without special tokens (a stop string stays in it), and the tokens.

    stop: the stop string that ended it; None where the policy ended it by an end token (finish_reason stop) or it was
    cut (length).
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    stop: str | None


class Sampler(Protocol):
    """The rollout so far, and how it goes on. One call at a time."""

    @property
    def text(self) -> str:
        """The completion so far, sampled and inserted, without special tokens."""

    @property
    def room(self) -> int:
        """How many tokens may still be added: generate.sampling.max_tokens holds for the whole completion."""

    async def __call__(self, *, stop: Sequence[str] | None = None, max_tokens: int | None = None) -> Turn:
        """Let the policy go on, to the end of `room` at most. stop: instead of generate.sampling.stop.

        Raises RolloutFull where there is no room, RequestRejected where the engine has no answer.
        """

    def insert(self, text: str, *, special_tokens: bool = False) -> None:
        """Add text that the policy did not choose, encoded on its own.

        special_tokens: whether names of special tokens in it stand for them (turns of a chat); else they are spelled
        out, so that what a tool found cannot end a turn. Raises RolloutFull, adding nothing, where it does not fit.
        """


class RolloutProgram(Protocol):
    """An async function; its options are keyword arguments. Whatever it raises rejects its rollout alone."""

    async def __call__(self, prompt: Prompt, sample: Sampler, **options: Any) -> None:
        """Sample and insert until the rollout is finished."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program by its short name or import path, with its options; `code` and `load` find out whether it exists."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """The import path."""
        return PROGRAMS.get(self.name, self.name)

    def code(self) -> str:
        """The digest of its source file. Raises ProgramError where the name leads nowhere."""
        try:
            return source_digest(self.path)
        except (ImportError, ValueError) as error:
            known = ", ".join(PROGRAMS)
            raise ProgramError(f"program: {error}; the shipped programs are {known}") from error

    def load(self) -> Callable[[Prompt, Sampler], Awaitable[None]]:
        """The function with its options. Imports it; raises ProgramError where it cannot be called so."""
        self.code()
        try:
            function = load_object(self.path)
        except ImportError as error:
            raise ProgramError(f"program: {error}") from error
        if not inspect.iscoroutinefunction(function):
            raise ProgramError(f"program {self.path} is no async function; write it as `async def f(prompt, sample)`")
        try:
            inspect.signature(function).bind(None, None, **self.options)
        except TypeError as error:
            raise ProgramError(f"program {self.path} cannot be called with {dict(self.options)}: {error}") from error
        return partial(function, **self.options)
