"""Generate with a count of the engine's requests, killed at the n-th finished rollout: counted.py CASES, as JSON.

A case: prompts, model, out, engine (EngineOptions' fields), options (GenerateOptions' fields), kill_at (0: never),
flush_seconds?, copy? (where `out` is copied to afterwards). Prints for each {"status": how the process ended,
"requests": how many the engine was asked}. Each case runs in a child process, forked before Beam or an engine has made
any thread.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from typing import Any

import tokenizers  # noqa: F401 - once, not in every child
import torch  # noqa: F401
import transformers  # noqa: F401

from pipelines.engines.base import EngineOptions, SampleRequest, Sampling
from pipelines.engines.driver import DrivenEngine
from pipelines.engines.transformers import TransformersBackend  # noqa: F401
from pipelines.parts import job  # noqa: F401
from pipelines.programs.conversation import Completion, Conversation
from pipelines.rollouts import kept
from pipelines.rollouts.stage import GenerateOptions, generate


def count_requests(log: int) -> None:
    """A byte in the log for every request the engine takes in."""
    submit = DrivenEngine.submit

    def counted(engine: DrivenEngine, request: SampleRequest) -> Any:
        os.write(log, b".")
        return submit(engine, request)

    DrivenEngine.submit = counted  # type: ignore[method-assign]


def die_at(nth: int) -> None:
    """SIGKILL as the n-th rollout is finished, before anybody is told of it."""
    finish = Conversation.completion
    seen = 0

    def finished(conversation: Conversation) -> Completion:
        nonlocal seen
        seen += 1
        if seen == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return finish(conversation)

    Conversation.completion = finished  # type: ignore[method-assign]


def work(case: dict[str, Any], log: int) -> None:
    """One command."""
    count_requests(log)
    die_at(case["kill_at"])
    kept.FLUSH_SECONDS = case.get("flush_seconds", kept.FLUSH_SECONDS)
    options = case["options"] | {"sampling": Sampling(**case["options"]["sampling"])}
    generate(
        prompts=case["prompts"],
        out=case["out"],
        model=case["model"],
        engine=EngineOptions(**case["engine"]),
        options=GenerateOptions(**options),
    )


def main(case: dict[str, Any]) -> dict[str, int]:
    """The command in a child process; how it ended, and what the engine was asked."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        work(case, writing)
        os._exit(0)
    os.close(writing)
    requests = 0
    while chunk := os.read(reading, 65536):
        requests += len(chunk)
    if "copy" in case:
        shutil.copytree(case["out"], case["copy"])
    return {"status": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), "requests": requests}


if __name__ == "__main__":
    print("told", json.dumps([main(case) for case in json.loads(sys.argv[1])]))
