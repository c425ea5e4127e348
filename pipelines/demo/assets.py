"""Where the shipped models lie. Light: imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

POLICY = "policy"
TEACHER = "teacher"
PRM = "prm"


def asset_folder(name: str) -> Path:
    """The folder of a shipped model: ``policy``, ``teacher`` or ``prm``."""
    if name not in (POLICY, TEACHER, PRM):
        raise ValueError(f"no demo model {name!r}; choose one of {POLICY}, {TEACHER}, {PRM}")
    return Path(__file__).parent / "assets" / name
