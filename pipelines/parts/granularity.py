"""How fine a process signal is, one score per step or one per token, and what each place calls that."""

from __future__ import annotations

from typing import Literal

from pass_ops.options.config import Signal

Per = Literal["step", "token"]

#: how fine a signal is -> the kind of its dataset
PROCESS_KINDS: dict[Per, str] = {"step": "process_steps", "token": "process_tokens"}
#: kind of a process signal's dataset -> `ShapingConfig.signal`
SHAPED_AS: dict[str, Signal] = {"process_steps": "prm", "process_tokens": "kl"}
