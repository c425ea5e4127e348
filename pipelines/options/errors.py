"""What a configuration is refused with."""

from __future__ import annotations

from pass_ops.errors import PassError


class ConfigError(PassError, ValueError):
    """A configuration cannot be used; the message lists every problem, one a line, with its place."""
