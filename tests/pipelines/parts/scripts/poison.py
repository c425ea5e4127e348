"""Run a stage one part of which ends its process: poison.py OUT PARTS POISON kill|exit in_memory|multi_processing."""

from __future__ import annotations

import os
import signal
import sys
from concurrent.futures import Future

import pyarrow as pa

from pass_ops import shards
from pass_ops.errors import NotFinalized
from pipelines.parts.job import PartOutput, PartWork, Stage, in_background, run_stage
from pipelines.parts.operations import Operations
from pipelines.runners import RunnerOptions


class Poisoned(PartWork):
    """Writes one row a part, except that one part ends the process: by SIGKILL, or by os._exit."""

    def __init__(self, poison: int, death: str) -> None:
        self.poison = poison
        self.death = death

    def setup(self) -> None:
        pass

    def start(self, part: int) -> Future[PartOutput]:
        return in_background(self._make, part)

    def _make(self, part: int) -> PartOutput:
        if part == self.poison and self.death == "exit":
            os._exit(41)
        if part == self.poison:
            os.kill(os.getpid(), signal.SIGKILL)
        row = {"prompt_id": f"p{part}", "prompt": "1", "messages": None, "answer": None, "source": "s", "extra": None}
        return PartOutput(table=pa.Table.from_pylist([row], schema=shards.PROMPTS))


def main(out: str, parts: str, poison: str, death: str, mode: str) -> None:
    import poison as importable  # of a class in __main__ a worker process knows nothing

    spec = shards.DatasetSpec(stage="prompts", stage_version=1, options={}, parts=int(parts))
    dataset = shards.create_dataset(out, spec)
    flags = (f"--direct_running_mode={mode}", "--direct_num_workers=1")
    try:
        operations = Operations(runner=RunnerOptions(flags=flags), max_attempts=2)
        run_stage(Stage(dataset=dataset, work=importable.Poisoned(int(poison), death)), operations)
    except NotFinalized as error:
        print(error)


if __name__ == "__main__":
    main(*sys.argv[1:])
