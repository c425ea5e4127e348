"""What a check's process runs: `python -m pipelines.gpu_check.child ANSWER`, its pickled request on standard input."""

from __future__ import annotations

import os
import pickle
import sys
import traceback
from importlib import import_module
from pathlib import Path

from pipelines.gpu_check.base import Result


def main() -> None:
    """Calls the function that the request names, `module:function`, and leaves its pickled result in the file."""
    place, machine, options = pickle.load(sys.stdin.buffer)
    module, _, function = place.partition(":")
    try:
        result = getattr(import_module(module), function)(machine, options)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this check's outcome
        traceback.print_exc()
        result = Result(status="failed", why=f"{type(error).__name__}: {error}")
    answer = Path(sys.argv[1])
    answer.with_suffix(".part").write_bytes(pickle.dumps(result))
    answer.with_suffix(".part").rename(answer)
    sys.stdout.flush()
    os._exit(0)  # an engine's threads and atexit handlers have no say in the outcome


if __name__ == "__main__":
    main()
