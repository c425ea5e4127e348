"""Loaded by every Python that has this folder on PYTHONPATH, the SDK workers of a fault test: a kill at a named point.

The file FAULT_ORDER, if it is there, names a store operation and a victim. The first worker about to do such an
operation takes the file away and kills the victim with SIGKILL. Nothing in the project knows of it.
"""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

from pass_ops.shards.store import Store

ORDER = Path(os.environ["FAULT_ORDER"])


def hook(self: Store, operation: str, name: str) -> None:
    try:
        order = json.loads(ORDER.read_text())
    except FileNotFoundError:
        return
    if not re.search(order["point"], f"{operation} {self.root}/{name}"):
        return
    try:
        ORDER.rename(ORDER.with_suffix(f".taken-{os.getpid()}"))
    except FileNotFoundError:  # another worker took it
        return
    victims = {"worker": os.getpid(), "pool": os.getppid()}
    os.kill(victims.get(order["victim"], order["pid"]), signal.SIGKILL)


Store._hook = hook
