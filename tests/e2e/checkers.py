"""A step checker for the end-to-end tests: cheap, deterministic, different between steps."""

from __future__ import annotations

from collections.abc import Sequence


def digits(prompt: str, steps: Sequence[str]) -> list[float]:
    """The share of digits in each step, against the prompt's own."""
    base = sum(c.isdigit() for c in prompt) / len(prompt)
    return [sum(c.isdigit() for c in step) / max(len(step), 1) - base for step in steps]
