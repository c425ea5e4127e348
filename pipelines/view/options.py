"""What goes into a file of `passrl view`."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge

from pipelines.options import ConfigError, options
from pipelines.options.types import Seed, Strings


@options(ConfigError)
class ViewOptions:
    """What goes into the file."""

    groups: Strings = ()
    """Names of the groups to show (default: all, or a sample within the limits)."""
    max_rollouts: Annotated[int, Ge(1)] = 4_096
    """Rollouts in the file at most; whole groups are drawn."""
    max_tokens: Annotated[int, Ge(1)] = 500_000
    """Tokens in the file at most."""
    seed: Seed = 0
    """Seed of that draw."""
    truth: str | None = None
    """Name of the truer process signal that advantages are held against. Example: "execution"."""
    tokenizer: str | None = None
    """The policy's folder, for the tokens' texts (default: the one recorded)."""
    run: str | None = None
    """RUN folder of the run page (default: the one that the first dataset lies in)."""
    title: str | None = None
    """Title of the file."""
