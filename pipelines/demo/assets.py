"""Where the shipped models lie. Light: imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

MODELS = ("policy", "teacher", "prm")


def asset_folder(name: str) -> Path:
    """The folder of a shipped model: ``policy``, ``teacher`` or ``prm``."""
    if name not in MODELS:
        raise ValueError(f"the demo has no model {name!r}, so there is no folder to load; choose one of {MODELS}")
    return Path(__file__).parent / "assets" / name
