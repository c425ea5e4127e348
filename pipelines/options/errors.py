"""What a configuration is refused with."""

from __future__ import annotations

from pass_ops.errors import PassError


class ConfigError(PassError, ValueError):
    """A configuration cannot be used; the message lists every problem, one a line, with its place."""


def problem_lines(error: BaseException) -> list[str]:
    r"""The problems that an error lists, one a line; its whole message where it lists none.

    >>> problem_lines(ConfigError("run.toml: cannot be used:\n  k: unknown key\n  eta: is required"))
    ['k: unknown key', 'eta: is required']
    """
    lines = [line.strip().removeprefix(": ") for line in str(error).splitlines() if line.strip()]
    return lines[1:] if len(lines) > 1 else lines
