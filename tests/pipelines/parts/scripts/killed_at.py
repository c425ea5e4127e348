"""Run generate and die by SIGKILL at a named point of the protocol: killed_at.py PROMPTS MODEL ROOT.

Each point has a child process and a folder ROOT/POINT of its own. Forked before Beam or an engine has made any thread.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

import tokenizers  # noqa: F401 - once, not in every child
import transformers  # noqa: F401

from pass_ops.shards.store import Store
from pipelines.engines.base import EngineOptions, Sampling
from pipelines.parts import job  # noqa: F401
from pipelines.rollouts.stage import GenerateOptions, generate

ENGINE = EngineOptions(kind="recorded", recording="synthetic:1")
OPTIONS = GenerateOptions(group_size=2, sampling=Sampling(max_tokens=10))


def before(operation: str, prefix: str, *, nth: int) -> Callable[[str, str], bool]:
    """Whether this is the n-th operation of its kind on names of that prefix."""
    seen = 0

    def reached(now: str, name: str) -> bool:
        nonlocal seen
        seen += now == operation and name.startswith(prefix)
        return seen >= nth

    return reached


def after(operation: str, prefix: str, *, nth: int) -> Callable[[str, str], bool]:
    """Whether this is the operation next to that one."""
    there = before(operation, prefix, nth=nth)
    passed = False

    def reached(now: str, name: str) -> bool:
        nonlocal passed
        if passed:
            return True
        passed = there(now, name)
        return False

    return reached


POINTS: dict[str, Callable[[str, str], bool]] = {
    "before-the-put": before("create:link", "part-", nth=3),
    "after-the-put": before("create", "_done/", nth=3),
    "after-the-marker": after("create:link", "_done/", nth=3),
    "in-finalize-before-parts": before("create", "_parts-", nth=1),
    "in-finalize-before-manifest": before("create:link", "_manifest-", nth=1),
}


def run(prompts: str, model: str, out: str, reached: Callable[[str, str], bool]) -> None:
    def hook(store: Store, operation: str, name: str) -> None:
        if store.root == out and reached(operation, name):
            os.kill(os.getpid(), signal.SIGKILL)

    Store._hook = hook  # type: ignore[method-assign]
    generate(prompts=prompts, out=out, model=model, engine=ENGINE, options=OPTIONS)


if __name__ == "__main__":
    prompts, model, root = sys.argv[1:]
    for point, reached in POINTS.items():
        child = os.fork()
        if child == 0:
            run(prompts, model, os.path.join(root, point), reached)
            os._exit(0)
        print(point, -os.WTERMSIG(os.waitpid(child, 0)[1]))
