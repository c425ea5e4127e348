"""The smallest row a part can have, for benchmarks of everything around the rows."""

from __future__ import annotations

from typing import Any


def prompt_row(part: int) -> dict[str, Any]:
    """One row of `prompts`."""
    return {"prompt_id": f"p{part}", "prompt": "1", "messages": None, "answer": None, "source": "s", "extra": None}
