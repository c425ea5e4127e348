"""A program that waits: the first parts are made at once, the others once the file is there that GATE names."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from pipelines.programs import Prompt, Sampler

FIRST_PROMPTS = 4  # of two parts


async def once(prompt: Prompt, sample: Sampler) -> None:
    """One answer. prompt: "7+7=?", the eighth."""
    place = int((prompt.text or "").partition("+")[0])
    while place >= FIRST_PROMPTS and not Path(os.environ["GATE"]).exists():
        await asyncio.sleep(0.05)
    await sample()
