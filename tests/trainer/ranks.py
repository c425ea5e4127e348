"""What each rank of a distributed test runs: `python -m torch.distributed.run --nproc-per-node 2 ranks.py JSON`.

JSON: what = "gradient" | "train", and its arguments. Rank 0 leaves results in the folder given.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.processes import wait_until
from tests.trainer.rows import random_rows, step_of
from trainer import TrainOptions, train
from trainer.distributed import joined_world, whole
from trainer.policy import load_policy
from trainer.update import backward


def gradient(given: dict[str, Any]) -> None:
    """The gradient of one step, whole, as a file."""
    options = TrainOptions(**given["options"])
    rows = random_rows(groups=given["groups"], size=given["size"])
    with joined_world("cpu") as world:
        policy = load_policy(given["policy"], options, world)
        step = step_of(rows, budget=given["budget"], temperature=0.7, world=world)
        for micro in step.micro_batches:
            backward(policy, micro, options=options)
        gradients = {name: whole(p.grad).clone() for name, p in policy.model.named_parameters()}
        counts = world.gather([len(micro.targets_N) for micro in step.micro_batches])
        if world.is_main:
            torch.save({"gradients": gradients, "counts": counts}, Path(given["out"]) / "gradient.pt")


def whole_run(given: dict[str, Any]) -> None:
    """`train`; the process is killed after the step `kill_after`."""

    def progress(done: int, total: int, line: str) -> None:
        if done == given["kill_after"]:
            os.kill(os.getpid(), signal.SIGKILL)

    options = TrainOptions(**given["options"])
    try:
        train([given["shaped"]], policy=given["policy"], out=given["out"], options=options, progress=progress)
    except Exception as error:
        out, name = Path(given["out"]), f"error-{os.environ['RANK']}.txt"
        (out / f".{name}").write_text(f"{type(error).__name__}: {error}")
        (out / f".{name}").replace(out / name)
        # torchrun ends all ranks with the first that ends, so nobody leaves before all have said why.
        wait_until(lambda: len(list(out.glob("error-*.txt"))) == int(os.environ["WORLD_SIZE"]))
        raise


if __name__ == "__main__":
    torch.set_num_threads(1)
    arguments = json.loads(sys.argv[1])
    {"gradient": gradient, "train": whole_run}[arguments["what"]](arguments)
