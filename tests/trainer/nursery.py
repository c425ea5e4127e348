"""Trainings to be killed: reads one JSON a line, forks a process for it, answers with the signal that ended it, or 0.

Keys: shaped, policy, out, options; and either point = [module, attribute, call, "before" | "after"], where the process
kills itself at that call, or after = seconds, when it is killed from outside. The libraries are imported once, here,
and nothing is computed before the fork.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
import torch.distributed.checkpoint
import transformers  # noqa: F401

import trainer.run
from trainer import TrainOptions


def kill_at(module: str, attribute: str, call: int, when: str) -> None:
    """Replaces a function by one that kills the process at its call number `call`."""
    *parents, name = attribute.split(".")
    owner: Any = importlib.import_module(module)
    for parent in parents:
        owner = getattr(owner, parent)
    function, calls = getattr(owner, name), 0

    def deadly(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **kwargs)
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, deadly)


def live(given: dict[str, Any]) -> None:
    """The child's whole life."""
    torch.set_num_threads(1)
    if "point" in given:
        kill_at(*given["point"])
    options = TrainOptions(**given["options"])
    trainer.run.train([given["shaped"]], policy=given["policy"], out=given["out"], options=options)


def main() -> None:
    """One child a line."""
    for line in sys.stdin:
        given = json.loads(line)
        child = os.fork()
        if not child:
            live(given)
            os._exit(0)
        if "after" in given:
            time.sleep(given["after"])
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        print(os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status), flush=True)


if __name__ == "__main__":
    main()
