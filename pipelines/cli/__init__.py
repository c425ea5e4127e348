"""The command `passrl`."""

from __future__ import annotations

from pipelines.cli.parser import build_parser, main

__all__ = ["build_parser", "main"]
